"""One reduction over axes of a tensor: sums, products, maxima, means, pools' windows.

Where the axis that lies in order in memory is kept, its values are the lanes of a few accumulators
and the reduction runs around them. Where it is reduced itself, vectors of partial results run
along it and are joined at the end: LLVM may not reorder floating-point sums, we may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel, merging
from nexus_compiler.codegen.llvm.schedules.kernel import Stage, is_const
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import cells

_NARROWEST = 4  # lanes of a vector for what is left of a row
_VECTORS = 4  # accumulators: an addition takes four cycles and one can start in each


def lane_axis(stage: Stage) -> tirx.IterVar | None:
    """The kept axis along which the operands lie in order, if there is one.

    Only the operands of the most axes count: in a variance the mean follows the kept axis, but is
    small against what lies in order along the reduced one.
    """
    axes = {axis.var for axis in (*stage.spatial, *stage.reduced)}
    found = [load for load in kernel.loads(stage.store.value) if load.indices]
    found = [load for load in found if not load.source.same_as(stage.store.buffer)]
    sizes = [len(kernel.variables(list(load.indices)) & axes) for load in found]
    for load, size in zip(found, sizes):
        if size < max(sizes):
            continue
        for axis in reversed(stage.spatial):
            if in_order(load.indices[-1], axis.var):
                return axis
    return None


def in_order(index: Any, variable: tirx.Var) -> bool:
    """Whether `index` is `variable`, or something that does not depend on it and `variable`."""
    if isinstance(index, tirx.Add):
        places = [variable in kernel.variables(part) for part in (index.a, index.b)]
        return sum(places) == 1 and in_order(index.a if places[0] else index.b, variable)
    return variable.same_as(index)


def in_partial_results(stage: Stage, machine: Machine) -> bool:
    """Whether vectors run along the last reduced axis, and along no kept one."""
    lanes = machine.lanes(str(stage.store.buffer.dtype))
    return lane_axis(stage) is None and _partial_lanes(stage, groups(stage)[-1], lanes) > 0


def groups(stage: Stage) -> list[list[tirx.IterVar]]:
    """The reduced axes; those that every operand walks through as one are together."""
    return merging.merge(stage, stage.reduced)


def is_window(stage: Stage) -> bool:
    """Whether the reduction slides over its operand, as pools and convolutions do."""
    kept = {axis.var for axis in stage.spatial}
    reduced = {axis.var for axis in stage.reduced}
    for load in kernel.loads(stage.store.value):
        for index in load.indices:
            found = kernel.variables(index)
            if found & kept and found & reduced:
                return True
    return False


def write(stage: Stage, bound: dict[Any, Any], machine: Machine, *, parallel: bool) -> tirx.Stmt:
    """The loops of a reducing stage; axes in `bound` have their values already."""
    free = [axis for axis in stage.spatial if axis.var not in bound]
    lane = lane_axis(stage)
    if lane is not None and lane in free and is_const(lane.dom.extent):
        return _columns(stage, bound, free, lane, machine, parallel)

    def one(place: list[Any]) -> tirx.Stmt:
        return _row(stage, bound | build.bind(free, place), machine)

    extents = build.extents(free)
    return _spread(extents, [*extents, *build.extents(stage.reduced)], machine, parallel, one)


def _spread(
    extents: list[Any], work: list[Any], machine: Machine, parallel: bool, body: Any
) -> tirx.Stmt:
    if not extents:
        return body([])
    kind = machine.kind(build.work(work)) if parallel else "serial"
    many = build.product(extents)
    return build.loop(many, lambda flat: body(build.unflatten(flat, extents)), kind, "row")


def _columns(
    stage: Stage,
    bound: dict[Any, Any],
    free: list[tirx.IterVar],
    lane: tirx.IterVar,
    machine: Machine,
    parallel: bool,
) -> tirx.Stmt:
    """Lanes are neighbouring results."""
    others = [axis for axis in free if axis is not lane]
    lanes = machine.lanes(str(stage.store.buffer.dtype))
    extent = int(lane.dom.extent)
    width = min(extent, lanes * _VECTORS)
    whole, rest = divmod(extent, width)
    extents = [*build.extents(others), whole + bool(rest)]

    def one(place: list[Any]) -> tirx.Stmt:
        *outer, tile = place
        values = bound | build.bind(others, outer)

        def write_tile(size: int) -> tirx.Stmt:
            return _column_tile(stage, values, lane, tile * width, size, lanes)

        if not rest:
            return write_tile(width)
        return build.branch(tile < whole, write_tile(width), write_tile(rest))

    return _spread(extents, [*build.extents([*free, *stage.reduced])], machine, parallel, one)


def _column_tile(
    stage: Stage, values: dict[Any, Any], lane: tirx.IterVar, first: Any, size: int, lanes: int
) -> tirx.Stmt:
    total = tirx.decl_buffer((size,), str(stage.store.buffer.dtype), "total", scope="local")

    def each(make: Callable[[Any], tirx.Stmt]) -> tirx.Stmt:
        return cells(1, size, lanes, lambda _, column: make(column))

    def step(at: list[Any]) -> tirx.Stmt:
        own = values | build.bind(stage.reduced, at)

        def add(i: Any) -> tirx.Stmt:
            value = _combined(stage, own | {lane.var: first + i}, total[i])
            return tirx.BufferStore(total, value, [i])

        return each(add)

    def finish(i: Any) -> tirx.Stmt:
        own = values | {lane.var: first + i}
        indices = [kernel.substitute(index, own) for index in stage.store.indices]
        return tirx.BufferStore(stage.store.buffer, total[i], indices)

    clear = each(lambda i: tirx.BufferStore(total, stage.init, [i]))
    body = [clear, build.nest(build.extents(stage.reduced), step), each(finish)]
    return build.scope([total], build.sequence(body), "columns")


def _combined(stage: Stage, values: dict[Any, Any], total: Any) -> Any:
    """The new partial result from the old one, `total`."""
    value = kernel.replace_loads(stage.store.value, stage.store.buffer, lambda _: total)
    return kernel.substitute(value, values)


def _row(stage: Stage, values: dict[Any, Any], machine: Machine) -> tirx.Stmt:
    """One result: partial results in lanes along the last reduced axes, if that is worth it."""
    dtype = str(stage.store.buffer.dtype)
    *before, inner = groups(stage)
    lanes = _partial_lanes(stage, inner, machine.lanes(dtype))
    one = tirx.decl_buffer((1,), dtype, "total", scope="local")
    part = tirx.decl_buffer((max(lanes, 1),), dtype, "part", scope="local")
    outer = [axis for group in before for axis in group]
    extent = build.number(build.product(build.extents(inner)))

    def add(buffer: Any, at: list[Any], index: Any, place: Any) -> tirx.Stmt:
        own = values | build.bind(outer, at) | build.split(inner, index)
        return tirx.BufferStore(buffer, _combined(stage, own, buffer[place]), [place])

    def along(at: list[Any]) -> tirx.Stmt:
        if not lanes:
            return build.loop(extent, lambda k: add(one, at, k, 0), name="k")

        def vector(first: Any, width: int) -> tirx.Stmt:
            make = lambda v: add(part, at, first + v, v)  # noqa: E731
            return build.loop(width, make, "vectorized", "lane")

        return _vectors(extent, lanes, vector, lambda k: add(one, at, k, 0))

    body = [tirx.BufferStore(one, stage.init, [0])]
    if lanes:
        clear = build.loop(
            lanes, lambda v: tirx.BufferStore(part, stage.init, [v]), "vectorized", "lane"
        )
        body.append(clear)
    body.append(build.nest(build.extents(outer), along))
    body += _joins(stage, part, lanes)
    if lanes:
        body.append(tirx.BufferStore(one, _join(stage, one[0], part[0]), [0]))
    indices = [kernel.substitute(index, values) for index in stage.store.indices]
    body.append(tirx.BufferStore(stage.store.buffer, one[0], indices))
    return build.scope([one, part] if lanes else [one], build.sequence(body), "row")


def _vectors(
    extent: Any, lanes: int, vector: Callable[[Any, int], tirx.Stmt], single: build.Body
) -> tirx.Stmt:
    """`extent` elements in vectors of `lanes`, what is left in narrower ones and one by one."""
    whole = tirx.floordiv(extent, lanes)
    steps = [build.loop(whole, lambda k: vector(k * lanes, lanes), name="k")]
    if not is_const(extent):
        left = tirx.floormod(extent, lanes)
        steps.append(build.loop(left, lambda k: single(whole * lanes + k), name="rest"))
        return build.sequence(steps)
    done, width = int(extent) // lanes * lanes, lanes
    while width > _NARROWEST:
        width //= 2
        if int(extent) - done >= width:
            steps.append(vector(build.number(done), width))
            done += width
    if rest := int(extent) - done:
        first = build.number(done)
        steps.append(build.loop(rest, lambda k: single(first + k), name="rest"))
    return build.sequence(steps)


def _joins(stage: Stage, part: tirx.Buffer, lanes: int) -> list[tirx.Stmt]:
    """Halve the partial results until one is left."""
    steps: list[tirx.Stmt] = []
    while lanes > 1:
        lanes //= 2

        def add(v: Any, half: int = lanes) -> tirx.Stmt:
            return tirx.BufferStore(part, _join(stage, part[v], part[v + half]), [v])

        steps.append(build.loop(lanes, add, "vectorized", "lane"))
    return steps


def _join(stage: Stage, one: Any, other: Any) -> Any:
    return type(stage.store.value)(one, other)


def _partial_lanes(stage: Stage, group: list[tirx.IterVar], lanes: int) -> int:
    """How many partial results; 0 where values do not lie in order or are too few."""
    value = stage.store.value
    if not isinstance(value, (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)):
        return 0
    if isinstance(value, (tirx.Add, tirx.Mul)) and not _is_neutral(stage.init, value):
        return 0
    operands = (value.a, value.b)
    own = [o for o in operands if isinstance(o, TensorLoad)]
    if not any(o.source.same_as(stage.store.buffer) for o in own):
        return 0
    inner = group[-1]
    for load in kernel.loads(value):
        if load.source.same_as(stage.store.buffer):
            continue
        wide = [i for i, n in zip(load.indices, load.source.shape) if not is_const(n, 1)]
        if any(inner.var in kernel.variables(index) for index in wide[:-1]):
            return 0
        index = wide[-1] if wide else None
        if index is None or not (
            inner.var.same_as(index) or inner.var not in kernel.variables(index)
        ):
            return 0
    if kernel.calls(value):
        lanes_wanted = lanes
    else:
        lanes_wanted = lanes * _VECTORS
    extent = build.known(build.product(build.extents(group))) or 4 * lanes
    while lanes_wanted > 1 and lanes_wanted * 2 > extent:
        lanes_wanted //= 2
    return lanes_wanted if lanes_wanted >= 4 else 0


def _is_neutral(init: Any, value: Any) -> bool:
    """Whether a sum or product may begin with `init` in every lane."""
    number = 0 if isinstance(value, tirx.Add) else 1
    return is_const(init, number) or (isinstance(init, tirx.FloatImm) and init.value == number)
