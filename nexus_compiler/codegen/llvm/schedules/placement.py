"""Where the results of a reduction go: straight to the output, or through one elementwise stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Stage


@dataclass(frozen=True)
class Placement:
    """How to finish one result.

    Attributes:
        stage: the reduction.
        store: the last store of the kernel.
        names: the last stage's variables by the reduction's.
        order: the reduction's kept axes in the order of the last stage's loops.
        others: of further stages behind the reduction, which are written after this one.
    """

    stage: Stage
    store: tirx.BufferStore
    names: dict[tirx.Var, tirx.Var]
    order: tuple[tirx.IterVar, ...]
    others: tuple[Placement, ...] = ()

    def finish(self, values: dict[Any, Any], total: Any) -> tirx.Stmt:
        """The last stores, for the reduction's axes at `values` and its result `total`."""
        stores = [one._store(values, total) for one in (self, *self.others)]
        return stores[0] if len(stores) == 1 else tirx.SeqStmt(stores)

    def _store(self, values: dict[Any, Any], total: Any) -> tirx.Stmt:
        own = {self.names.get(variable, variable): value for variable, value in values.items()}
        value = total
        if not self.store.same_as(self.stage.store):
            buffer = self.stage.store.buffer
            value = kernel.substitute(self.store.value, own)
            value = kernel.replace_loads(value, buffer, lambda _: total)
        indices = [kernel.substitute(index, own) for index in self.store.indices]
        return tirx.BufferStore(self.store.buffer, value, indices)


def place(stages: Sequence[Stage]) -> Placement | None:
    """The placement for a reduction and the stages after it; None where they do not fit.

    Each of these reads the reduction, and is written in the same order.
    """
    total, *ends = stages
    made = [end.store.buffer for end in ends]
    if any(kernel.loads(end.store.value, buffer) for end in ends for buffer in made):
        return None
    found = [_place((total, end)) for end in ends] if ends else [_place((total,))]
    first, *others = found
    if first is None or any(one is None or one.order != first.order for one in others):
        return None
    return replace(first, others=tuple(one for one in others if one is not None))


def _place(stages: Sequence[Stage]) -> Placement | None:
    total, last = stages[0], stages[-1]
    axes = {axis.var: axis for axis in total.spatial}
    written = [index for index in total.store.indices if not kernel.is_const(index)]
    if len(written) != len(axes) or not _distinct(written, axes):
        return None
    if len(stages) == 1:
        return Placement(total, total.store, {}, tuple(axes[variable] for variable in written))
    found = kernel.loads(last.store.value, total.store.buffer)
    if last.reduced or not found or not all(kernel.same(load, found[0]) for load in found):
        return None
    read = [i for i, own in zip(found[0].indices, total.store.indices) if not kernel.is_const(own)]
    loops = {axis.var: axis for axis in last.spatial}
    if len(read) != len(loops) or not _distinct(read, loops):
        return None
    back = dict(zip(read, written))
    # A slice reads fewer results than there are; it would be written out of bounds.
    turns = [axes[own].dom.extent for own in written]
    if not all(map(kernel.same, turns, (loops[name].dom.extent for name in read))):
        return None
    return Placement(
        total,
        last.store,
        dict(zip(written, read)),
        tuple(axes[back[axis.var]] for axis in last.spatial),
    )


def _distinct(indices: Sequence[Any], axes: dict[tirx.Var, tirx.IterVar]) -> bool:
    if not all(isinstance(index, tirx.Var) and index in axes for index in indices):
        return False
    return len(set(indices)) == len(indices)
