"""What a build would reuse and what it would build, before it is done."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec
from tvm import IRModule

from nexus_compiler.build import CompileOptions, object_key, object_keys, outlined
from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.lowering import Lowering
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir.calls import operators
from nexus_compiler.ir.fingerprint import Factor
from nexus_compiler.ir.region import Region
from nexus_compiler.passes.record import Place, Record
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.planning import difference
from nexus_compiler.store.door import OBJECTS, Store
from nexus_compiler.targets import TargetSpec

REUSE, BUILD = "reuse", "build"
_NEVER = "never built for this target, as far as the store knows"
_UNKNOWN_SECONDS = 0.1
"""For a kernel, where the store has none to compare with."""


class Planned(msgspec.Struct, frozen=True):
    """What happens to one region.

    Attributes:
        region: its digest.
        origin: the modules of the model that it computes, at its first place.
        location: file and line of these, where they are known.
        places: in how many places it stands.
        operators: what it computes.
        action: `REUSE` or `BUILD`.
        kernels: how many have to be built; None where only lowering tells.
        reason: why it is built; "" where it is not.
        seconds: how long that may take on one core.
    """

    region: str
    origin: str
    location: str
    places: int
    operators: tuple[str, ...]
    action: str
    kernels: int | None
    reason: str
    seconds: float


class TargetPlan(msgspec.Struct, frozen=True):
    """What happens to the regions of one target, in the order of the graph.

    `tuned` tells what measurements choose against analysis, as far as regions were made before.
    """

    target: str
    regions: tuple[Planned, ...]
    tuned: dict[str, str] = {}

    @property
    def rebuilds(self) -> int:
        """How many regions have to be built."""
        return sum(planned.action == BUILD for planned in self.regions)


def plan_target(
    graph: Outlined,
    captured: CapturedGraph,
    lowering: Lowering,
    options: CompileOptions,
    before: Record | None,
) -> TargetPlan:
    """The plan for an outlined graph.

    Args:
        graph: cut into regions for the target of `lowering`.
        captured: what it was made from.
        lowering: knows which kernels were made before.
        options: with the store that would be used.
        before: the regions of an earlier build, for reasons.
    """
    for region in graph.regions.values():
        lowering.known(region, options.store)  # tells what was chosen, which is a reason, too
    now = options.memory.record(graph, captured, lowering)
    reasons = _Reasons(before, now)
    pace = _pace(options.store)
    first: dict[str, Place] = {}
    count: dict[str, int] = {}
    for place in now.places:
        first.setdefault(place.region, place)
        count[place.region] = count.get(place.region, 0) + 1
    by_digest = {region.digest: region for region in graph.regions.values()}
    rows = [
        _planned(by_digest[digest], place, count[digest], lowering, options.store, reasons, pace)
        for digest, place in first.items()
    ]
    return TargetPlan(lowering.target.name, tuple(rows), dict(sorted(lowering.taken.items())))


def _planned(
    region: Region,
    place: Place,
    places: int,
    lowering: Lowering,
    store: Store,
    reasons: _Reasons,
    pace: float,
) -> Planned:
    known = lowering.known(region, store)
    if known is None:
        missing, least = None, max(1, sum("matmul" in o or "conv" in o for o in region.operators))
        reason = reasons.of(place)
    else:
        keys = object_keys(known.kernels, lowering.target, lowering.room)
        missing = least = sum(not _has(store, key.digest) for key in keys.values())
        reason = "the store does not have its objects" if missing else ""
    return Planned(
        region=region.digest,
        origin=place.origin,
        location=place.location,
        places=places,
        operators=tuple(name.removeprefix("relax.") for name in region.operators),
        action=REUSE if missing == 0 else BUILD,
        kernels=missing,
        reason=reason,
        seconds=round(least * pace, 3),
    )


def _has(store: Store, digest: str) -> bool:
    return store.about(OBJECTS, digest) is not None


def _pace(store: Store, most: int = 32) -> float:
    """Seconds that building an object took, by the median of some in the store."""
    seconds: list[float] = []
    for entry in store.entries(OBJECTS):
        about = store.about(OBJECTS, entry.digest)
        if about is not None and about.seconds > 0:
            seconds.append(about.seconds)
        if len(seconds) == most:
            break
    return statistics.median(seconds) if seconds else _UNKNOWN_SECONDS


class _Reasons:
    """Why regions are not known, by where they stand."""

    def __init__(self, before: Record | None, now: Record) -> None:
        self._before = before
        self._factors: list[str] = []
        self._changes: dict[str, str] = {}
        if before is None:
            return
        self._factors = difference.factors(before.factors, now.factors)
        for change in difference.changes(before, now):
            if change.after is not None and change.reason:
                self._changes.setdefault(change.after.region, change.reason)

    def of(self, place: Place) -> str:
        """Why the region of `place` is not in the store."""
        if self._before is None:
            return _NEVER
        if (found := self._changes.get(place.region)) is not None:
            return found
        return "; ".join(self._factors) or "the store no longer has it"


def plan_functions(
    module: IRModule,
    captured: CapturedGraph,
    target: tuple[TargetSpec, Room],
    options: CompileOptions,
    before: Record | None,
) -> TargetPlan:
    """The plan of a target whose room takes functions whole: a row for each function.

    Args:
        module: after the passes over whole graphs.
        captured: tells the functions.
        target: and its room.
        options: with the store that would be used.
        before: of an earlier build.
    """
    spec, room = target
    rows: list[Planned] = []
    pace = _pace(options.store)
    factors = options.lowering(room, spec).factors
    for entry in captured.signature.functions:
        alone = msgspec.structs.replace(captured.signature, functions=(entry,))
        (unit,) = room.cut(module, alone, spec, {}).units
        key = object_key(unit, spec, room).digest
        known = _has(options.store, key)
        row = Planned(
            region=key,
            origin=entry.name,
            location="",
            places=1,
            operators=tuple(
                name.removeprefix("relax.") for name in sorted(operators(module[entry.name]))
            ),
            action=REUSE if known else BUILD,
            kernels=int(not known),
            reason="" if known else _why_whole(before, factors),
            seconds=0.0 if known else round(pace, 3),
        )
        rows.append(row)
    return TargetPlan(spec.name, tuple(rows))


def _why_whole(before: Record | None, factors: Sequence[Factor]) -> str:
    if before is None:
        return _NEVER
    return "; ".join(difference.factors(before.factors, dict(factors))) or "the function changed"


def plan_graph(
    module: IRModule,
    captured: CapturedGraph,
    targets: Sequence[tuple[TargetSpec, Room]],
    options: CompileOptions,
    before: dict[str, Record],
) -> list[TargetPlan]:
    """The plans for a graph that went through the common passes; builds nothing.

    A target whose room takes functions whole has one row for each of these.
    """
    plans: list[TargetPlan] = []
    for target, room in targets:
        graph = outlined(module, target, room, options)
        earlier = before.get(target.name)
        if room.region_passes(target):
            lowering = options.lowering(room, target)
            plans.append(plan_target(graph, captured, lowering, options, earlier))
        else:
            whole = plan_functions(graph.module, captured, (target, room), options, earlier)
            plans.append(whole)
    return plans
