"""`nexusc targets`."""

from __future__ import annotations

import click
import msgspec

from nexus_compiler import targets as target_table
from nexus_compiler.cli import console, options


@click.command("targets")
@options.JSON
def targets(as_json: bool) -> None:
    """List what Nexus can build for, and how each is checked where there is no such device."""
    known = list(target_table.load_all().values())
    rows = [(spec.name, spec.kind, spec.check.level, spec.description) for spec in known]
    text = console.table(("target", "kind", "checked by", "description"), rows)
    console.emit([msgspec.to_builtins(spec) for spec in known], text, as_json=as_json)
