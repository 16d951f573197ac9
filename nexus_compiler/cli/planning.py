"""`nexusc compile --plan`: what a build would do, for people, scripts and CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nexus_compiler.cli import console

if TYPE_CHECKING:
    from nexus_compiler.planning.plan import Planned, TargetPlan
    from nexus_runtime.artifact import Artifact


def earlier(against: Path | None, output: Path) -> Artifact | None:
    """The build that reasons are told against: the one given, or the one that would be replaced.

    Raises:
        ArtifactError: it cannot be read.
    """
    from nexus_runtime.artifact import Artifact

    if against is not None:
        return Artifact.open(against)
    return Artifact.open(output) if output.is_file() else None


def emit(plans: Sequence[TargetPlan], most: int | None, *, as_json: bool) -> int:
    """Print the plans; the exit status is 1 where more regions are built than `most`."""
    rebuilds = sum(plan.rebuilds for plan in plans)
    allowed = most is None or rebuilds <= most
    value: dict[str, Any] = {
        "rebuilds": rebuilds,
        "allowed": allowed,
        "seconds": round(sum(row.seconds for plan in plans for row in plan.regions), 3),
        "targets": [msgspec.to_builtins(plan) for plan in plans],
    }
    console.emit(value, "\n\n".join(_text(plan) for plan in plans), as_json=as_json)
    if not allowed:
        console.say(f"{rebuilds} regions would be built, {most} are allowed")
    return 0 if allowed else 1


def _text(plan: TargetPlan) -> str:
    rows = [
        (
            row.action,
            row.places,
            _where(row),
            " ".join(row.operators[:4]) + (" …" if len(row.operators) > 4 else ""),
            console.seconds(row.seconds) if row.seconds else "-",
            row.reason,
        )
        for row in plan.regions
    ]
    total = sum(row.seconds for row in plan.regions)
    head = (
        f"{plan.target}: {plan.rebuilds} of {len(plan.regions)} regions to build, "
        f"about {console.seconds(total)} on one core"
    )
    columns = ("action", "places", "where", "operators", "time", "reason")
    tuned = [f"measured: {label}: {choice}" for label, choice in plan.tuned.items()]
    return "\n".join([head, console.table(columns, rows), *tuned])


def _where(row: Planned) -> str:
    return f"{row.origin} at {row.location}" if row.location else row.origin
