"""`nexusc explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nexus_compiler.cli import console, options
from nexus_runtime.errors import UserError

if TYPE_CHECKING:
    from nexus_compiler.passes.record import Record
    from nexus_compiler.planning.difference import Change

_SUFFIX = ".nxa"


@click.command("explain")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, help="A target; by default all of artifacts.")
@click.option("--all", "everything", is_flag=True, help="Also list regions that are the same.")
@options.JSON
def explain(
    before: Path, after: Path, targets: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Say region by region how AFTER differs from BEFORE: artifacts (.nxa) or ONNX models.

    Models are cut into regions as a build for --target would; nothing is built.
    """
    from nexus_compiler.planning import difference

    # A model is cut for the targets of the artifact that it is compared with.
    given = targets or tuple(
        name for path in (before, after) if path.suffix == _SUFFIX for name in _records(path, ())
    )
    old, new = _records(before, given), _records(after, given)
    shared = [name for name in new if name in old]
    if not shared:
        raise UserError(
            f"{before} and {after} have no target in common",
            hint=f"one has {', '.join(old) or 'none'}, the other {', '.join(new) or 'none'}",
        )
    value: dict[str, object] = {}
    sections: list[str] = []
    for name in shared:
        found = difference.changes(old[name], new[name])
        told = [change for change in found if change.reason or everything]
        factors = difference.factors(old[name].factors, new[name].factors)
        value[name] = {
            "factors": factors,
            "same": sum(not change.reason for change in found),
            "changes": [_value(change) for change in told],
        }
        sections.append(_text(name, found, told, factors))
    console.emit({"targets": value}, "\n\n".join(sections), as_json=as_json)


def _records(path: Path, targets: tuple[str, ...]) -> dict[str, Record]:
    """By target; an artifact's own, where it has them, or those of a model."""
    from nexus_compiler import pipeline
    from nexus_runtime.artifact import Artifact

    if path.suffix == _SUFFIX:
        found = pipeline.records(Artifact.open(path))
        return {name: r for name, r in found.items() if not targets or name in targets}
    return pipeline.regions(path, targets=targets or ("native",))


def _value(change: Change) -> dict[str, object]:
    place = change.after or change.before
    return {
        "origin": place.origin if place else "",
        "location": place.location if place else "",
        "before": change.before.region if change.before else None,
        "after": change.after.region if change.after else None,
        "reason": change.reason,
    }


def _text(name: str, found: list[Change], told: list[Change], factors: list[str]) -> str:
    same = sum(not change.reason for change in found)
    lines = [f"{name}: {same} of {len(found)} places are the same", *factors]
    rows = [
        (
            place.origin + (f" at {place.location}" if place.location else ""),
            change.before.region[:12] if change.before else "-",
            change.after.region[:12] if change.after else "-",
            change.reason or "same",
        )
        for change in told
        if (place := change.after or change.before) is not None
    ]
    if rows:
        lines.append(console.table(("where", "before", "after", "difference"), rows))
    return "\n".join(lines)
