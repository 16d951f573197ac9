"""Elementwise stages that divide axes, pad operands or choose elements, with neighbours in vectors.

A gradient of a pool reads window `y // 2`, and what it does there depends on `y % 2`; so do images
that are enlarged or put together from parts. Written out for each remainder, divisions and most
conditions are gone, and what several remainders load and compare is loaded and compared once. All
that is left of the conditions is the same for the whole vector.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.expr import Call

from nexus_compiler.codegen.llvm.schedules import build, kernel, merging
from nexus_compiler.codegen.llvm.schedules.kernel import Stage, is_const
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import cells

_MOST = 16  # remainders that are written out together
_VECTORS = 4  # that are loaded, compared and stored at once
_LOADS = 3  # from which on LLVM leaves choices to branches


def write(
    stage: Stage, bound: dict[Any, Any], machine: Machine, *, parallel: bool
) -> tirx.Stmt | None:
    """The loops of such a stage; None where it is none, or its lanes do not lie in order."""
    free = [axis for axis in stage.spatial if axis.var not in bound]
    if not free or not _in_lanes(stage, free[-1]):
        return None
    divisors = _divisors(stage, free[:-1])
    if not divisors and not _pads(stage) and not _chooses(stage, free):
        return None
    *outer, lane = free
    counts = [build.ceil(a.dom.extent, divisors.get(a.var, 1)) for a in outer]
    lanes = machine.lanes(str(stage.store.buffer.dtype))
    extent = int(lane.dom.extent)
    width = min(extent, lanes * max(1, _VECTORS // math.prod(divisors.values())))
    whole, rest = divmod(extent, width)

    def place(at: list[Any]) -> tirx.Stmt:
        *lead, tile = at

        def tiled(size: int) -> tirx.Stmt:
            return _phases(stage, bound, outer, lead, divisors, lane, (tile * width, size, lanes))

        if not rest:
            return tiled(width)
        return build.branch(tile < whole, tiled(width), tiled(rest))

    turns = [*counts, whole + bool(rest)]
    # The places of a row stand in a loop of their own: they need no division.
    split = max(len(turns) - 2, min(len(outer), 1))
    kind = machine.kind(build.work(build.extents(free))) if parallel else "serial"

    def row(flat: Any) -> tirx.Stmt:
        lead = build.unflatten(flat, turns[:split])
        return build.nest(turns[split:], lambda at: place([*lead, *at]))

    return build.loop(build.product(turns[:split]), row, kind, "row")


def _phases(
    stage: Stage,
    bound: dict[Any, Any],
    outer: list[tirx.IterVar],
    lead: list[Any],
    divisors: dict[Any, int],
    lane: tirx.IterVar,
    tile: tuple[Any, int, int],
) -> tirx.Stmt:
    """The elements of all remainders at one place, in vectors of one tile of lanes."""
    first, size, lanes = tile
    made: list[tirx.Stmt] = []
    for remainders in itertools.product(*(range(divisors.get(a.var, 1)) for a in outer)):
        values, inside = dict(bound), list[Any]()
        for axis, at, remainder in zip(outer, lead, remainders):
            divisor = divisors.get(axis.var, 1)
            values[axis.var] = at if divisor == 1 else at * divisor + remainder
            extent = build.known(axis.dom.extent)
            if divisor > 1 and (extent is None or extent % divisor > 0) and remainder:
                inside.append(values[axis.var] < axis.dom.extent)

        def element(_: Any, column: Any, values: dict[Any, Any] = values) -> tirx.Stmt:
            return kernel.substitute(stage.store, values | {lane.var: first + column})

        body = cells(1, size, lanes, element)
        made.append(build.branch(tirx.all(*inside), body) if inside else body)
    return build.sequence(made)


def _in_lanes(stage: Stage, lane: tirx.IterVar) -> bool:
    """Whether `lane` is the last subscript of what is stored and loaded, and of nothing else."""
    if not is_const(lane.dom.extent) or int(lane.dom.extent) < 2:
        return False
    if kernel.calls(stage.store.value) - {"if_then_else", "reinterpret"}:
        return False
    found: list[bool] = []

    def visit(indices: Any) -> None:
        if any(lane.var in kernel.variables(index) for index in indices):
            *rest, last = indices
            found.append(lane.var not in kernel.variables(list(rest)) and _follows(last, lane.var))

    visit(stage.store.indices)
    for load in kernel.loads(stage.store.value):
        if str(load.ty) in ("bfloat16", "float16"):
            return False
        visit(load.indices)
    bare = kernel.replace_all_loads(stage.store.value, lambda load: tirx.const(0, str(load.ty)))
    return len(found) > 0 and all(found) and lane.var not in kernel.variables(bare)


def _follows(index: Any, variable: tirx.Var) -> bool:
    """Whether `index` is `variable` plus what does not depend on it."""
    if isinstance(index, tirx.Add):
        parts = [part for part in (index.a, index.b) if variable in kernel.variables(part)]
        return len(parts) == 1 and _follows(parts[0], variable)
    return variable.same_as(index)


def _divisors(stage: Stage, axes: list[tirx.IterVar]) -> dict[Any, int]:
    """By which number each of `axes` is divided where it is divided, as far as they are few."""
    found: dict[Any, int] = {}

    def visit(node: Any) -> None:
        divisor = build.known(node.b) or 0
        for axis in axes:
            if divisor > 1 and _shifted(node.a, axis.var):
                found[axis.var] = math.lcm(found.get(axis.var, 1), divisor)

    tvm_ffi.structural_walk(stage.store.value, ((tirx.FloorDiv, tirx.FloorMod), visit))
    kept: dict[Any, int] = {}
    for variable, divisor in found.items():
        if math.prod(kept.values()) * divisor <= _MOST:
            kept[variable] = divisor
    return kept


def _shifted(value: Any, variable: tirx.Var) -> bool:
    """Whether `value` is `variable`, or that and a number."""
    if isinstance(value, (tirx.Add, tirx.Sub)) and is_const(value.b):
        value = value.a
    return variable.same_as(value)


def _chooses(stage: Stage, free: list[tirx.IterVar]) -> bool:
    """Whether elements are chosen from several loads, in rows that are not one with others."""
    value = stage.store.value
    if not kernel.contains(value, tirx.Select) or len(kernel.loads(value)) < _LOADS:
        return False
    return len(merging.merge(stage, free)[-1]) == 1


def _pads(stage: Stage) -> bool:
    """Whether conditions that are the same for all lanes stand before several loads."""
    found: list[Any] = []

    def visit(call: Call) -> None:
        if kernel.operator(call) == "if_then_else":
            found.append(call.args[0])

    tvm_ffi.structural_walk(stage.store.value, (Call, visit))
    return len(found) > 1
