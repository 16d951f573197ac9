"""A kernel as a list of stages, after elementwise stages have been merged into their readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tvm_ffi
from tvm import IRModule, s_tir, tirx
from tvm.ir import Op
from tvm.ir.expr import Call, TensorLoad
from tvm.s_tir.stmt import SBlock, SBlockRealize
from tvm.sym import Analyzer

_KEPT, _REDUCED = 0, 2  # the codes of `IterVar.iter_type`
# Values that take about as long as storing and loading one: may be computed twice.
CHEAP_CALLS = {"sqrt", "fabs", "floor", "ceil"}
# Nodes: a value that is used twice in each of ten stages would grow a thousandfold.
_LARGEST = 400


@dataclass(frozen=True)
class Stage:
    """One loop nest around one store: `for spatial: init; for reduced: store`.

    Axes of one turn are left out.
    """

    name: str
    spatial: tuple[tirx.IterVar, ...]
    reduced: tuple[tirx.IterVar, ...]
    store: tirx.BufferStore
    init: Any

    def axes_at(self, indices: Sequence[Any]) -> dict[Any, Any]:
        """The values of the axes for which the store writes at `indices` of its buffer."""
        own = zip(self.store.indices, indices)
        return {axis: index for axis, index in own if isinstance(axis, tirx.Var)}


@dataclass(frozen=True)
class Kernel:
    """The function with its stages in the order in which they run."""

    function: tirx.PrimFunc
    stages: tuple[Stage, ...]


def inline(function: tirx.PrimFunc) -> s_tir.Schedule:
    """Merge every stage that is cheap or has one reader into its readers.

    Stages that pad stay: a condition around each load keeps the reader from being vectorised.
    """
    schedule = s_tir.Schedule(IRModule({"main": function}))
    root = schedule.get_sblock("root")
    inner = set(schedule.get(root).alloc_buffers)
    for reference in schedule.get_child_blocks(root):
        block = schedule.get(reference)
        if inner.issuperset(region.source for region in block.writes) and _elementwise(block):
            readers = [schedule.get(reader) for reader in schedule.get_consumers(reference)]
            if _worth_inlining(block, readers):
                try_step(partial(schedule.compute_inline, reference))
    return schedule


def try_step(step: Any) -> bool:
    """Whether `step` was legal; a schedule is unchanged by an illegal one."""
    try:
        step()
    except s_tir.ScheduleError:
        return False
    return True


def _elementwise(block: SBlock) -> bool:
    return isinstance(block.body, tirx.BufferStore) and not any(map(is_reduction, block.iter_vars))


def is_reduction(axis: tirx.IterVar) -> bool:
    """Whether `axis` is summed (or maximised, ...) over."""
    return axis.iter_type == _REDUCED


def _worth_inlining(block: SBlock, readers: Sequence[SBlock]) -> bool:
    value, buffer = block.body.value, block.body.buffer
    uses = [load for reader in readers for load in loads(reader.body, buffer)]
    if len(uses) > 1 and len(uses) * size(value) > _LARGEST:
        return False
    if sum(_growth(block, load) for load in uses) > _LARGEST:
        return False
    if calls(value) <= CHEAP_CALLS and not contains(value, tirx.Div):
        return True
    # Copies of a costly value are merged again by LLVM only where one loop holds them all.
    turns = _turns(block)
    return all(_elementwise(reader) and _same(_turns(reader), turns) for reader in readers)


def _growth(block: SBlock, load: TensorLoad) -> int:
    """How many nodes are added when places used several times in `block` are those of `load`.

    In a chain of reshapes and transpositions each place is a sum of parts of the one before.
    """
    used: list[tirx.Var] = []
    tvm_ffi.structural_walk(block.body.value, (tirx.Var, used.append))
    return sum(
        (sum(map(axis.same_as, used)) - 1) * size(place)
        for axis, place in zip(block.body.indices, load.indices)
    )


def _turns(block: SBlock) -> list[Any]:
    return [axis.dom.extent for axis in block.iter_vars if not is_const(axis.dom.extent, 1)]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def size(value: Any) -> int:
    """How many nodes `value` has."""
    count = 0

    def visit(_: Any) -> None:
        nonlocal count
        count += 1

    tvm_ffi.structural_walk(value, visit)
    return count


def operator(call: Call) -> str:
    """The name of the operator that `call` calls, without its family; "" where it is none."""
    return call.op.name.rpartition(".")[2] if isinstance(call.op, Op) else ""


def calls(value: Any) -> set[str]:
    """Names of the operators that `value` calls, as `operator` has them."""
    found: set[str] = set()
    tvm_ffi.structural_walk(value, (Call, lambda call: found.add(operator(call))))
    return found


def contains(value: Any, kind: Any) -> bool:
    """Whether a node of class `kind` is in `value`."""
    found: list[Any] = []
    tvm_ffi.structural_walk(value, (kind, found.append))
    return bool(found)


def read(function: tirx.PrimFunc) -> Kernel | None:
    """The stages of `function`; None where it has a form that is none."""
    if not isinstance(function.body, SBlockRealize):
        return None
    body = function.body.block.body
    nests = body.seq if isinstance(body, tirx.SeqStmt) else [body]
    stages = [_read_stage(nest) for nest in nests]
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages):
        return None
    return Kernel(function, tuple(_apart(known, function.params)))


def _apart(stages: Sequence[Stage], params: Sequence[tirx.Var]) -> list[Stage]:
    """`stages`, of which none reads a result that another one hands out.

    It computes that once more instead, before it is handed out: so a result may take the place of
    what both are computed from.
    """
    made: list[Stage] = []
    for given in stages:
        stage, place = given, len(made)
        for number, other in reversed(list(enumerate(made))):
            handed_out = any(other.store.buffer.same_as(one) for one in params)
            if not stage.reduced and handed_out and (changed := _instead(stage, other)):
                stage, place = changed, number
        late = [other.store.buffer for other in made[place:]]
        if any(loads(stage.store.value, buffer) for buffer in late):
            stage, place = given, len(made)
        made.insert(place, stage)
    return made


def _instead(stage: Stage, other: Stage) -> Stage | None:
    """`stage` that computes what it read of `other`; None where it reads nothing of it."""
    value, buffer = stage.store.value, other.store.buffer
    found = loads(value, buffer)
    places = [other.axes_at(load.indices) for load in found]
    if not found or other.reduced or any(len(one) < len(other.spatial) for one in places):
        return None

    def again(load: TensorLoad) -> Any:
        return substitute(other.store.value, other.axes_at(load.indices))

    changed = replace_loads(value, buffer, again)
    return replace(stage, store=tirx.BufferStore(stage.store.buffer, changed, stage.store.indices))


def _read_stage(nest: tirx.Stmt) -> Stage | None:
    while isinstance(nest, tirx.For):
        nest = nest.body
    if not isinstance(nest, SBlockRealize) or not is_const(nest.predicate, 1):
        return None
    block = nest.block
    store, init = block.body, block.init
    if not isinstance(store, tirx.BufferStore) or block.alloc_buffers:
        return None
    if init is not None and not isinstance(init, tirx.BufferStore):
        return None
    if not all(_plain(axis) for axis in block.iter_vars):
        return None
    axes = [axis for axis in block.iter_vars if not is_const(axis.dom.extent, 1)]
    spatial = tuple(axis for axis in axes if not is_reduction(axis))
    reduced = tuple(axis for axis in axes if is_reduction(axis))
    if init is not None and not reduced:
        value = replace_loads(store.value, store.buffer, partial(_first, init.value))
        store, init = tirx.BufferStore(store.buffer, value, store.indices), None
    if init is None and loads(store.value, store.buffer):
        return None
    store = _tidy(drop_units(store, block.iter_vars), axes)
    begin = None if init is None else drop_units(init.value, block.iter_vars)
    return Stage(block.name_hint, spatial, reduced, store, begin)


def _tidy(store: tirx.BufferStore, axes: Sequence[tirx.IterVar]) -> Any:
    """`store` with divisions in subscripts that the extents of `axes` make unnecessary left out.

    A reshape before a transposition divides by sizes that no subscript reaches; only without them
    are loops seen to walk through memory in order.
    """
    analyzer = Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, axis.dom)

    def simple(index: Any, indices: Sequence[Any]) -> Any:
        divided = contains(index, tirx.FloorDiv) or contains(index, tirx.FloorMod)
        # `variable // size` and `variable % size` say how packed weights lie, of one tile, too.
        plain = isinstance(index, (tirx.FloorDiv, tirx.FloorMod)) and isinstance(index.a, tirx.Var)
        kept = plain and any(_is_rest(index, other) or _is_rest(other, index) for other in indices)
        return analyzer.simplify(index) if divided and not kept else index

    def all_of(indices: Sequence[Any]) -> list[Any]:
        return [simple(index, indices) for index in indices]

    def load(old: TensorLoad) -> Any:
        return tirx.BufferLoad(old.source, all_of(old.indices))

    value = replace_all_loads(store.value, load)
    return tirx.BufferStore(store.buffer, value, all_of(store.indices))


def _is_rest(rest: Any, whole: Any) -> bool:
    """Whether they are `x % n` and `x // n`."""
    if not isinstance(rest, tirx.FloorMod) or not isinstance(whole, tirx.FloorDiv):
        return False
    return same(rest.a, whole.a) and same(rest.b, whole.b)


def _first(value: Any, _: TensorLoad) -> Any:
    return value


def _plain(axis: tirx.IterVar) -> bool:
    """Whether the turns of `axis` may run in any order, and there are some."""
    return axis.iter_type in (_KEPT, _REDUCED) and not is_const(axis.dom.extent, 0)


def is_const(value: Any, number: int | None = None) -> bool:
    """Whether `value` is a number, or this `number`, at compile time."""
    return isinstance(value, tirx.IntImm) and (number is None or int(value) == number)


def substitute(node: Any, values: dict[Any, Any]) -> Any:
    """`node` with variables replaced."""
    return tvm_ffi.structural_map(node, (tirx.Var, lambda variable: values.get(variable, variable)))


def drop_units(node: Any, axes: Sequence[tirx.IterVar]) -> Any:
    """`node` with those of `axes` that have one turn set to zero, and zeros no longer added."""
    units = {axis.var: tirx.const(0, "int64") for axis in axes if is_const(axis.dom.extent, 1)}

    def tidy(total: tirx.Add) -> Any:
        return total.a if is_const(total.b, 0) else total.b if is_const(total.a, 0) else total

    return tvm_ffi.structural_map(
        node,
        ((tirx.Var, lambda variable: units.get(variable, variable)), (tirx.Add, tidy)),
    )


def replace_loads(node: Any, buffer: tirx.Buffer, make: Any) -> Any:
    """`node` with every load `l` of `buffer` replaced by `make(l)`."""
    return tvm_ffi.structural_map(
        node,
        (TensorLoad, lambda load: make(load) if load.source.same_as(buffer) else load),
    )


def replace_all_loads(node: Any, make: Any) -> Any:
    """`node` with every load `l` replaced by `make(l)`."""
    return tvm_ffi.structural_map(node, (TensorLoad, make))


def same(one: Any, other: Any) -> bool:
    """Whether two expressions over the same variables are equal."""
    return tvm_ffi.structural_equal(one, other)


def loads(node: Any, buffer: tirx.Buffer | None = None) -> list[TensorLoad]:
    """Loads in `node`, of `buffer` only where it is given."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(node, (TensorLoad, found.append))
    return [load for load in found if buffer is None or load.source.same_as(buffer)]


def variables(node: Any) -> set[tirx.Var]:
    """Variables in `node`."""
    found: set[tirx.Var] = set()
    tvm_ffi.structural_walk(node, (tirx.Var, found.add))
    return found
