"""What was compiled, why, and how often Dynamo had to begin anew."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dynamo import utils

from nexus_compiler.dynamo import conditions


@dataclass(frozen=True)
class CompiledGraph:
    """One graph that Dynamo or AOTAutograd asked for.

    Attributes:
        kind: "forward", "backward" or "inference".
        operators: how often each ATen operator occurs.
        inputs: the graph's inputs as text; symbols such as s77 are dynamic dimensions.
        seconds: from ATen to a loaded function.
        built: objects that had to be compiled.
        reused: objects that the store had.
        reason: why PyTorch runs it ("" where Nexus does).
        new: the operators of each region that was met for the first time.
        known: regions whose kernels were made before.
    """

    kind: str
    operators: dict[str, int]
    inputs: tuple[str, ...]
    seconds: float
    built: int
    reused: int
    reason: str = ""
    new: tuple[str, ...] = ()
    known: int = 0

    @classmethod
    def of(
        cls, kind: str, module: torch.fx.GraphModule, seconds: float, built: int, reused: int
    ) -> CompiledGraph:
        """The record of a graph that was compiled."""
        return cls(kind, _operators(module), _inputs(module), seconds, built, reused)

    @classmethod
    def eager(cls, kind: str, module: torch.fx.GraphModule, reason: str) -> CompiledGraph:
        """The record of a graph that was left to PyTorch."""
        return cls(kind, _operators(module), _inputs(module), 0.0, 0, 0, reason)

    def __str__(self) -> str:
        count = sum(self.operators.values())
        how = (
            f"left to PyTorch: {self.reason}"
            if self.reason
            else (
                f"{self.seconds:.2f} s, {self.built} objects built, {self.reused} reused, "
                f"{len(self.new)} regions new, {self.known} known"
            )
        )
        return f"{self.kind} graph of {count} operators, {len(self.inputs)} inputs: {how}"


@dataclass(frozen=True)
class Frame:
    """One run of Dynamo over a function of the user's.

    Attributes:
        function: its name and place.
        guards: what Dynamo will check before it uses the result again.
        reason: why an earlier result did not fit ("" the first time): the guard that failed.
        failure: why Dynamo gave up on it, or "".
        conditions: those guards as text that are about sizes, dtypes and values; the rest asks
            whether objects are still the same.
    """

    function: str
    guards: int
    reason: str
    failure: str
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All of it; `str(report)` is a text to read.

    Attributes:
        graphs: what Nexus was given, in order.
        frames: what Dynamo traced, in order.
        breaks: reasons for which Dynamo cut a function into several graphs, and how often.
    """

    graphs: tuple[CompiledGraph, ...]
    frames: tuple[Frame, ...]
    breaks: dict[str, int]

    @property
    def recompiles(self) -> tuple[Frame, ...]:
        """The frames that were traced again because a guard failed."""
        return tuple(frame for frame in self.frames if frame.reason)

    @property
    def built(self) -> int:
        """Objects that had to be compiled."""
        return sum(graph.built for graph in self.graphs)

    @property
    def reused(self) -> int:
        """Objects that the store had."""
        return sum(graph.reused for graph in self.graphs)

    def __str__(self) -> str:
        lines = [
            f"{len(self.graphs)} graphs, {self.built} objects built, {self.reused} reused, "
            f"{len(self.recompiles)} recompiles, {sum(self.breaks.values())} graph breaks"
        ]
        for graph in self.graphs:
            lines += [f"  {graph}", *(f"    new region: {operators}" for operators in graph.new)]
        for frame in self.frames:
            why = f", again because {frame.reason}" if frame.reason else ""
            failed = f", failed: {frame.failure}" if frame.failure else ""
            lines.append(f"  {frame.function}: {frame.guards} guards{why}{failed}")
            lines += [f"    {text}" for text in frame.conditions]
        lines += [f"  graph break ({count} times): {why}" for why, count in self.breaks.items()]
        return "\n".join(lines)


@dataclass
class _Record:
    graphs: list[CompiledGraph] = field(default_factory=list[CompiledGraph])
    breaks: collections.Counter[str] = field(default_factory=collections.Counter[str])


_RECORD = _Record()


def add(graph: CompiledGraph) -> None:
    """Remember a graph."""
    _RECORD.graphs.append(graph)


def reset() -> None:
    """Forget everything so far, Dynamo's own numbers too; compiled functions stay as they are."""
    _RECORD.graphs.clear()
    utils.counters.clear()
    utils.clear_compilation_metrics()


def report() -> Report:
    """What was compiled in this process since the start, or since `reset`."""
    found = [
        one
        for one in utils.get_compilation_metrics()
        if one.co_name and one.is_forward is not False
    ]
    frames = tuple(_frames(found))[::-1]
    counters = utils.counters
    reasons: collections.Counter[str] = collections.Counter()
    for kind in ("graph_break", "unimplemented"):  # one or the other, by the cause of the break
        for reason, count in counters[kind].items():
            reasons[str(reason).strip().splitlines()[0]] += int(count)
    return Report(tuple(_RECORD.graphs), frames, dict(reasons))


def _frames(metrics: Sequence[Any]) -> Iterator[Frame]:
    known = conditions.listed()
    for one in reversed(metrics):
        key = (one.co_name, one.co_filename, one.co_firstlineno)
        # Of a function's results the last ones are still there; a failure left none.
        texts = known[key].pop() if not one.fail_reason and known.get(key) else ()
        yield Frame(
            f"{one.co_name} ({one.co_filename}:{one.co_firstlineno})",
            one.guard_count or 0,
            one.recompile_reason or "",
            one.fail_reason or "",
            texts,
        )


def _operators(module: torch.fx.GraphModule) -> dict[str, int]:
    calls = (str(n.target) for n in module.graph.nodes if n.op == "call_function")
    counts = collections.Counter(name for name in calls if name.startswith(("aten.", "prims.")))
    return dict(sorted(counts.items()))


def _inputs(module: torch.fx.GraphModule) -> tuple[str, ...]:
    found: list[str] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                dtype = str(value.dtype).removeprefix("torch.")
                value = f"{dtype}[{', '.join(map(str, value.shape))}]"
            found.append(f"{node.name}: {value}")
    return tuple(found)
