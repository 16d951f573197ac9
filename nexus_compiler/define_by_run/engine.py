"""Compiles regions once and runs them."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import nexus_runtime
from nexus_compiler.define_by_run.report import Compile, Report
from nexus_compiler.frontend.tracing import recorder
from nexus_compiler.frontend.tracing.nodes import Graph
from nexus_compiler.frontend.tracing.recorder import Recorder
from nexus_runtime.errors import InternalError
from nexus_runtime.module import Module

if TYPE_CHECKING:
    from nexus_compiler.pipeline import RegionCount

CAPACITY = 1024
"""Skeletons of regions that are kept in memory."""

VARIANTS = 32
"""Compiled regions of one skeleton that are kept."""


@dataclass(frozen=True)
class Compiled:
    """A region in memory: its module, and which constants it takes as inputs."""

    module: Module
    lifted: tuple[int, ...]
    record: Compile

    def run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for the leaves' values and then the lifted constants'."""
        inputs = {f"x{index}": value for index, value in enumerate(values)}
        return list(self.module.run("main", inputs).values())


@dataclass
class _Family:
    """Everything that was compiled for one skeleton."""

    samples: list[Any] = field(default_factory=list)
    variants: list[tuple[Any, Any, Compiled]] = field(default_factory=list)
    dynamic: bool = True


@dataclass
class Session:
    """One trace of a jitted function: what the engine has to know of it.

    Attributes:
        report: where to write.
        reason: why a region that is new has to be compiled.
        dynamic: whether sizes may be left open.
        last: the region that ran last, and its graph.
    """

    report: Report
    reason: str
    dynamic: bool = True
    options: Any = None
    last: tuple[Compiled, Graph] | None = None


class Engine:
    """Regions by skeleton and by digest; safe to use from many threads."""

    def __init__(self) -> None:
        self._families: OrderedDict[Any, _Family] = OrderedDict()
        # As long as a region or a plan uses them.
        self._modules: weakref.WeakValueDictionary[str, Module] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()
        self.report = Report("eager")

    def __call__(self, trace: Recorder, graph: Graph, cut: str) -> list[np.ndarray]:
        """Run a region; see `recorder.Engine`."""
        session = trace.session or Session(self.report, "eager")
        compiled = self._find(session, graph, cut)
        session.last = (compiled, graph)
        values = [node.value for node in graph.leaves]
        values += [np.asarray(graph.nodes[position].value) for position in compiled.lifted]
        results = compiled.run(values)
        for node, result in zip(graph.outputs, results):
            if result.shape != node.shape or result.dtype != node.dtype:
                raise InternalError(
                    f"a region gave {result.dtype}{list(result.shape)} "
                    f"for {node.op}, which is {node.dtype}{list(node.shape)}"
                )
        return results

    def _find(self, session: Session, graph: Graph, cut: str) -> Compiled:
        from nexus_compiler.define_by_run import regions

        key = (session.dynamic, regions.skeleton(graph))
        found = regions.numbers(graph)
        with self._lock:
            session.report.regions += 1
            family = self._families.setdefault(key, _Family())
            self._families.move_to_end(key)
            for pattern, first, compiled in family.variants:
                if regions.fits(pattern, found, first):
                    session.report.hits += 1
                    return compiled
            compiled = self._compile(session, graph, cut, family, found)
            if len(self._families) > CAPACITY:
                self._families.popitem(last=False)
            return compiled

    def _compile(
        self, session: Session, graph: Graph, cut: str, family: _Family, found: Any
    ) -> Compiled:
        from nexus_compiler.define_by_run import regions

        reason = _reason(session, family, found)
        family.samples = [*family.samples, found][-regions.SAMPLES :]
        pattern = None
        if len(family.samples) > 1:
            pattern = regions.generalise(family.samples, dynamic=session.dynamic)
        pattern = pattern or regions.exact(found)
        begin = time.perf_counter()
        module, digest, pieces = self._build(session, graph, pattern)
        record = _record(module, digest, graph, reason, cut, time.perf_counter() - begin)
        record = replace(record, new=tuple(pieces.new), known=pieces.known)
        session.report.compiles.append(record)
        compiled = Compiled(module, tuple(sorted(pattern.lifted)), record)
        family.variants.insert(0, (pattern, found, compiled))
        del family.variants[VARIANTS:]
        return compiled

    def _build(
        self, session: Session, graph: Graph, pattern: Any
    ) -> tuple[Module, str, RegionCount]:
        """The module of a region, its digest, and what the compiler cut it into."""
        from nexus_compiler.frontend.tracing import emission
        from nexus_compiler.ir import canonical
        from nexus_compiler.passes.differentiate import emit_gradients
        from nexus_compiler.pipeline import CompileOptions, RegionCount, compile

        options: CompileOptions = session.options or CompileOptions()
        pieces = RegionCount(further=options.told)

        captured = emission.capture(graph, pattern, emit_gradients)
        digest = canonical.digest(captured.module["main"])
        module = self._modules.get(digest)
        if module is None:
            module = nexus_runtime.load(compile(captured, options=replace(options, told=pieces)))
            self._modules[digest] = module
        return module, digest, pieces


def _reason(session: Session, family: _Family, found: Any) -> str:
    if not family.samples:
        return session.reason
    if all(sample.dims != found.dims for sample in family.samples):
        return "new shape"
    return "new scalar" if session.reason != "new shape" else "new shape"


def _record(
    module: Module, digest: str, graph: Graph, reason: str, cut: str, seconds: float
) -> Compile:
    from nexus_compiler.frontend.tracing.emission import region

    main = module.main
    inputs = tuple(f"{one.dtype}[{', '.join(map(str, one.shape))}]" for one in main.inputs)
    outputs = tuple(f"{one.dtype}[{', '.join(map(str, one.shape))}]" for one in main.outputs)
    symbolic = any(isinstance(size, str) for one in main.inputs for size in one.shape)
    operators = region.operators(graph)
    return Compile(reason, cut, digest, operators, inputs, outputs, symbolic, seconds)


@functools.cache
def engine() -> Engine:
    """The process's engine; the first call puts it behind the recorders."""
    made = Engine()
    recorder.install(made)
    return made
