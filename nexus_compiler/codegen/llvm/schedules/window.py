"""Recognises reductions that slide over their operand: convolutions and pools in NCHW order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.placement import Placement, place


@dataclass(frozen=True)
class Slide:
    """One dimension of the operand, read at `kept * stride + reduced * dilation`."""

    kept: tirx.IterVar | None
    reduced: tirx.IterVar | None
    stride: int
    dilation: int
    size: int

    @property
    def results(self) -> int:
        """Positions of the window."""
        return 1 if self.kept is None else int(self.kept.dom.extent)


@dataclass(frozen=True)
class Window:
    """A recognised kernel: out[outer, row, y, x] = epilogue(reduction of load[lead, down, across]).

    `rows` is the axis whose results all read the same part of the operand, output channels for a
    convolution; `group` of them do, the next `group` read another part.
    """

    stage: Stage
    placement: Placement
    load: TensorLoad
    pad: Stage | None
    down: Slide
    across: Slide
    outer: tuple[tirx.IterVar, ...]
    rows: tirx.IterVar | None
    group: int

    @property
    def lead(self) -> list[Any]:
        """Subscripts before those of the window."""
        return list(self.load.indices[:-2])


def recognise(kernel_: Kernel) -> Window | None:
    """Find operand, window and axes; None where the form is another."""
    pad, stages = _without_pad(kernel_.stages)
    if not 0 < len(stages) <= 2 or not stages[0].reduced:
        return None
    stage = stages[0]
    load = _sliding_load(stage)
    placement = place(stages)
    if load is None or placement is None or len(load.indices) < 2:
        return None
    if pad is not None and not load.source.same_as(pad.store.buffer):
        return None
    down, across = (_slide(stage, load, dimension) for dimension in (-2, -1))
    order = placement.order
    if down is None or across is None or across.kept is None or across.kept is not order[-1]:
        return None
    if down.kept is not None and (len(order) < 2 or down.kept is not order[-2]):
        return None
    rest = [axis for axis in order if axis is not across.kept and axis is not down.kept]
    lead = list(load.indices[:-2])
    slides = (across.kept, down.kept, across.reduced, down.reduced)
    moving = {axis.var for axis in slides if axis is not None}
    if any(kernel.variables(index) & moving for index in lead):
        return None
    rows, group = _rows(rest, lead)
    outer = tuple(axis for axis in rest if axis is not rows)
    return Window(stage, placement, load, pad, down, across, outer, rows, group)


def _without_pad(stages: Sequence[Stage]) -> tuple[Stage | None, Sequence[Stage]]:
    if len(stages) > 1 and not stages[0].reduced and stages[1].reduced:
        first = stages[0].store
        own = [axis.var for axis in stages[0].spatial]
        wide = [i for i, n in zip(first.indices, first.buffer.shape) if not kernel.is_const(n, 1)]
        if len(own) == len(wide) and all(a.same_as(b) for a, b in zip(own, wide)):
            return stages[0], stages[1:]
    return None, stages


def _sliding_load(stage: Stage) -> TensorLoad | None:
    """The only load that the window slides over."""
    kept = {axis.var for axis in stage.spatial}
    reduced = {axis.var for axis in stage.reduced}
    found: list[TensorLoad] = []
    for load in kernel.loads(stage.store.value):
        names = [kernel.variables(index) for index in load.indices]
        if any(n & kept and n & reduced for n in names[-2:]):
            found.append(load)
    return found[0] if len(found) == 1 else None


def _slide(stage: Stage, load: TensorLoad, dimension: int) -> Slide | None:
    size = build.known(load.source.shape[dimension])
    index = load.indices[dimension]
    found = kernel.variables(index)
    kept = [axis for axis in stage.spatial if axis.var in found]
    reduced = [axis for axis in stage.reduced if axis.var in found]
    if size is None or len(kept) > 1 or len(reduced) > 1:
        return None
    axes = [*kept, *reduced]
    if any(build.known(axis.dom.extent) is None for axis in axes):
        return None
    factors = _linear(index, axes)
    if factors is None:
        return None
    stride = factors[0] if kept else 1
    dilation = factors[-1] if reduced else 1
    return Slide(next(iter(kept), None), next(iter(reduced), None), stride, dilation, size)


def _linear(index: Any, axes: Sequence[tirx.IterVar]) -> list[int] | None:
    """Positive factors by which `index` is the sum of `axes`; None where it is not."""
    analyzer = Analyzer()
    zero = {axis.var: build.number(0) for axis in axes}
    factors: list[int] = []
    rest = index
    for axis in axes:
        one = analyzer.simplify(kernel.substitute(index, zero | {axis.var: build.number(1)}))
        factor = build.known(one)
        if not factor or factor < 0:
            return None
        factors.append(factor)
        rest = rest - axis.var * factor
    return factors if kernel.is_const(analyzer.simplify(rest), 0) else None


def _rows(axes: Sequence[tirx.IterVar], lead: list[Any]) -> tuple[tirx.IterVar | None, int]:
    """The axis of rows, and how many of its values read the same part of the operand."""
    used = kernel.variables(lead)
    free = [axis for axis in axes if axis.var not in used]
    if free:
        return free[-1], build.known(free[-1].dom.extent) or 0
    for axis in reversed(axes):
        sizes = _divisors(lead, axis.var)
        extent = build.known(axis.dom.extent)
        if len(sizes) == 1 and extent and extent % min(sizes) == 0:
            return axis, min(sizes)
    return None, 1


def _divisors(lead: list[Any], variable: tirx.Var) -> set[int]:
    """The `c` of `variable // c`, if `lead` uses `variable` in no other way."""
    found: set[int] = set()

    def divided(node: tirx.FloorDiv) -> Any:
        if variable.same_as(node.a) and (size := build.known(node.b)):
            found.add(size)
            return build.number(0)
        return node

    rest = [tvm_ffi.structural_map(index, (tirx.FloorDiv, divided)) for index in lead]
    return set() if variable in kernel.variables(rest) else found
