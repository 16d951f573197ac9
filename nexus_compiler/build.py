"""One target's module: regions, kernels, objects, link; and what a process remembers of these."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import IRModule

from nexus_compiler.codegen import inline, package
from nexus_compiler.codegen.door import Plan, Room, Unit
from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.lowering import Lowering
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.ir.region import Region, RegionTable
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.record import Node, Record, record
from nexus_compiler.passes.regions import Outlined, outline
from nexus_compiler.store.door import OBJECTS, Store
from nexus_compiler.store.opening import default_store
from nexus_compiler.targets import TargetSpec
from nexus_compiler.tuning import here
from nexus_runtime.work import Work

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


RegionHook = Callable[[Region, bool], None]
"""Called with a region, and whether its kernels were made before."""


@dataclass
class RegionCount:
    """A `RegionHook` that counts.

    Attributes:
        new: the operators of each region whose kernels were not made before.
        known: how many others there were.
        further: is told, too.
    """

    new: list[str] = field(default_factory=list[str])
    known: int = 0
    further: RegionHook = lambda region, known: None

    def __call__(self, region: Region, known: bool) -> None:
        """Count a region."""
        if known:
            self.known += 1
        else:
            self.new.append(region.text)
        self.further(region, known)


@dataclass(eq=False)
class Memory:
    """Regions and their kernels that were met by this process. Safe for many threads.

    Attributes:
        most: regions that are remembered; a process that runs for months forgets the others. One
            takes some 50 KB.
        table: regions by what they compute.
        lock: held by whoever uses the table.
    """

    most: int = 8192
    table: RegionTable = field(default_factory=RegionTable)
    _lowerings: dict[str, Lowering] = field(default_factory=dict[str, Lowering])
    _nodes: dict[str, tuple[Node, ...]] = field(default_factory=dict[str, tuple[Node, ...]])
    lock: threading.RLock = field(default_factory=threading.RLock)

    def lowering(self, room: Room, target: TargetSpec) -> Lowering:
        """What lowers for `target`; the same as long as nothing of it changes."""
        made = Lowering(room, target, most=self.most)
        key = Fingerprint(made.factors).digest
        with self.lock:
            return self._lowerings.setdefault(key, made)

    def outline(self, module: IRModule) -> Outlined:
        """`module` cut into regions, of which those that were met before are the same objects."""
        with self.lock:
            if len(self.table.regions) > self.most:
                # Whoever builds at this moment holds what he needs himself.
                self.table = RegionTable()
                self._nodes.clear()
            return outline(module, self.table)

    def record(self, graph: Outlined, captured: CapturedGraph, lowering: Lowering) -> Record:
        """The regions of `graph` as data."""
        with self.lock:
            factors = (*lowering.factors, *lowering.chosen)
            return record(graph, captured.signature, factors, captured.locations, self._nodes)


PROCESS = Memory()
"""What builds share that do not say otherwise: a graph that is compiled again is mostly known."""


@dataclass(frozen=True)
class CompileOptions:
    """How to compile. None of these but `tune` changes the artifact.

    Attributes:
        store: where regions, kernels and objects are kept; by default the user's cache directory,
            and behind it what NEXUS_STORE names.
        jobs: objects that are built at once; by default one a core.
        hooks: called after every pass (dump, time, verify); with any, no region is taken from
            memory or store.
        progress: told how far the build is.
        memory: what was met before; by default by this process.
        told: called with every region, and whether its kernels were made before.
        tune: seconds to measure, for each target, which kernels are the fastest where analysis is
            not sure; 0: only to heed what was measured before; None: not even that.
    """

    store: Store = field(default_factory=default_store)
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    hooks: Sequence[base.Hook] = ()
    progress: Progress = lambda what, done, total: None
    memory: Memory = PROCESS
    told: RegionHook = lambda region, known: None
    tune: float | None = None

    def lowering(self, room: Room, target: TargetSpec) -> Lowering:
        """What lowers for `target`, with what was measured where that counts.

        Raises:
            TargetError: nothing can be measured here for `target`.
        """
        made = self.memory.lowering(room, target)
        if self.tune is None:
            return made
        return made.with_answers(here.records_for(self.store, target, room))


def outlined(module: IRModule, target: TargetSpec, room: Room, options: CompileOptions) -> Outlined:
    """`module`, which went through the common passes, cut into the regions of `target`."""
    if not room.region_passes(target):
        return Outlined(base.run(inline.layers(module), room.graph_passes(target), options.hooks))
    module = base.run(module, room.graph_passes(target), options.hooks)
    return options.memory.outline(module)


@dataclass(frozen=True)
class Pieces:
    """All that a linker needs for one target's module, and what of it was not known before.

    Attributes:
        objects: bytes and key in the store by unit.
        factors: everything that the module follows from, but for the graph.
        regions: the graph cut into regions.
        record: makes data of these.
        lowered: names of regions that were lowered anew.
        built: names of units that were built anew.
    """

    target: TargetSpec
    room: Room
    plan: Plan
    objects: dict[str, tuple[bytes, str]]
    factors: tuple[Factor, ...]
    regions: Outlined
    record: Callable[[], Record]
    lowered: tuple[str, ...]
    built: tuple[str, ...]

    def data(self) -> dict[str, bytes]:
        """The objects' bytes by unit."""
        return {name: data for name, (data, _) in self.objects.items()}


def build_target(
    module: IRModule,
    captured: CapturedGraph,
    target: TargetSpec,
    room: Room,
    options: CompileOptions,
) -> package.BuiltModule:
    """Build `module`, which went through the common passes, for one target."""
    return link(build_pieces(module, captured, target, room, options))


def link(pieces: Pieces) -> package.BuiltModule:
    """The module file of `pieces`."""
    room, target = pieces.room, pieces.target
    return package.BuiltModule(
        target=target,
        room=room,
        data=room.link(pieces.plan, pieces.data(), target),
        objects={name: (key, len(data)) for name, (data, key) in pieces.objects.items()},
        factors=pieces.factors,
        regions=pieces.record(),
        work=_work(pieces.plan),
        steps=pieces.plan.steps,
    )


def build_pieces(
    module: IRModule,
    captured: CapturedGraph,
    target: TargetSpec,
    room: Room,
    options: CompileOptions,
) -> Pieces:
    """Build `module`, which went through the common passes, up to the linker."""
    graph = outlined(module, target, room, options)
    lowering = options.lowering(room, target)
    if options.tune:
        here.tune(graph, lowering, options.tune, options.progress)
    lowered: list[str] = []
    with _Objects(target, room, options) as objects:
        if room.region_passes(target):
            for name, region in graph.regions.items():
                known = not options.hooks and lowering.known(region, options.store) is not None
                options.told(region, known)
                if not known:
                    lowered.append(name)
            program, kernels = lowering.program(
                graph, options.store, options.hooks, each=objects.kernel
            )
        else:
            program, kernels = graph.module, {}
        plan = room.cut(program, captured.signature, target, kernels)
        built = objects.of(plan)
    passes = (*pipelines.common(), *room.graph_passes(target), *room.region_passes(target))
    factors = (*objects.factors, *base.factors(passes), *lowering.chosen)
    anew = tuple(sorted(objects.built))

    def recorded() -> Record:
        return options.memory.record(graph, captured, lowering)

    return Pieces(target, room, plan, built, factors, graph, recorded, tuple(lowered), anew)


class _Objects:
    """Objects of one target, from the store or built on `options.jobs` threads.

    The passes are no factor of an object's key: a unit's content is what they made, so that a
    change of a pass that leaves a kernel as it was rebuilds nothing.
    """

    def __init__(self, target: TargetSpec, room: Room, options: CompileOptions) -> None:
        self.factors = _object_factors(target, room)
        self.built: list[str] = []
        self._target, self._room, self._options = target, room, options
        self._pool = concurrent.futures.ThreadPoolExecutor(max(1, options.jobs))
        self._futures: dict[str, concurrent.futures.Future[tuple[bytes, str]]] = {}

    def __enter__(self) -> _Objects:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        # After a fault nobody waits for what was not begun.
        self._pool.shutdown(cancel_futures=kind is not None)

    def kernel(self, kernel: Kernel) -> None:
        """Begin to build a kernel, while others are still being lowered."""
        self._begin(Unit(kernel.name, kernel.content.encode(), kernel, kernel.work))

    def of(self, plan: Plan) -> dict[str, tuple[bytes, str]]:
        """Object and key of every unit of `plan`, by name."""
        for unit in plan.units:
            self._begin(unit)
        what, total = f"build {self._target.name}", len(plan.units)
        self._options.progress(what, 0, total)
        names = {self._futures[unit.name]: unit.name for unit in plan.units}
        found: dict[str, tuple[bytes, str]] = {}
        for future in concurrent.futures.as_completed(names):
            found[names[future]] = future.result()
            self._options.progress(what, len(found), total)
        return {unit.name: found[unit.name] for unit in plan.units}

    def _begin(self, unit: Unit) -> None:
        if unit.name not in self._futures:
            self._futures[unit.name] = self._pool.submit(self._build, unit)

    def _build(self, unit: Unit) -> tuple[bytes, str]:
        key = _object_key(unit.content.decode(), self.factors)
        data, reused = self._options.store.get_or_build(
            OBJECTS, key, lambda: self._room.build(unit, self._target)
        )
        if not reused:
            self.built.append(unit.name)
        return data, key.digest


def _work(plan: Plan) -> Work | None:
    """What the kernels of `plan` compute; None where its room makes none."""
    kernels = {unit.name: unit.kernel for unit in plan.units if unit.kernel is not None}
    return Work(kernels, dict(plan.memory())) if kernels else None


def objects_of(
    plan: Plan, target: TargetSpec, room: Room, options: CompileOptions
) -> dict[str, bytes]:
    """The objects of the units of `plan` by name, from the store or built."""
    with _Objects(target, room, options) as objects:
        return {name: data for name, (data, _) in objects.of(plan).items()}


def object_keys(
    kernels: Mapping[str, Kernel], target: TargetSpec, room: Room
) -> dict[str, Fingerprint]:
    """The keys of the objects of `kernels`, by name."""
    factors = _object_factors(target, room)
    return {name: _object_key(kernel.content, factors) for name, kernel in kernels.items()}


def object_key(unit: Unit, target: TargetSpec, room: Room) -> Fingerprint:
    """The key of the object of `unit`."""
    return _object_key(unit.content.decode(), _object_factors(target, room))


def _object_factors(target: TargetSpec, room: Room) -> tuple[Factor, ...]:
    return (*room.versions, *target.factors())


def _object_key(content: str, factors: Sequence[Factor]) -> Fingerprint:
    return Fingerprint((("content", content), *factors))
