"""`nexusc delta` and `nexusc apply`."""

from __future__ import annotations

from pathlib import Path

import click

from nexus_compiler.cli import console, options
from nexus_runtime import files
from nexus_runtime.errors import ArtifactError

_OUTPUT = click.option("-o", "--output", required=True, type=click.Path(path_type=Path))


@click.command("delta")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@_OUTPUT
@options.JSON
def delta(old: Path, new: Path, output: Path, as_json: bool) -> None:
    """Write what a device must download to turn the artifact OLD into NEW.

    `nexusc apply`, or `nexus-agent apply` where there is no compiler, does so on the device.
    """
    from nexus_runtime.delta import make

    data = make(old, new)
    try:
        files.write_atomically(output, data)
    except OSError as error:
        raise ArtifactError(f"cannot write {output}: {error.strerror}") from error
    whole = new.stat().st_size
    text = f"{output}: {console.size(len(data))} instead of {console.size(whole)}"
    console.emit({"output": str(output), "bytes": len(data), "whole": whole}, text, as_json=as_json)


@click.command("apply")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("delta", type=click.Path(path_type=Path))
@_OUTPUT
@options.JSON
def apply_(old: Path, delta: Path, output: Path, as_json: bool) -> None:
    """Turn the artifact OLD into the next one by DELTA; the output may be OLD itself."""
    from nexus_runtime import delta as deltas

    deltas.apply(old, delta, output)
    size = output.stat().st_size
    console.emit(
        {"output": str(output), "bytes": size}, f"{output}: {console.size(size)}", as_json=as_json
    )
