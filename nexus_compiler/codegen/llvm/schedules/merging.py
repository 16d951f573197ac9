"""Neighbouring axes that every operand walks through alike, which can be one loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Stage


def merge(stage: Stage, axes: Sequence[tirx.IterVar]) -> list[list[tirx.IterVar]]:
    """`axes` in groups that can be one loop each."""
    accesses = [(stage.store.buffer, list(stage.store.indices))]
    accesses += [(load.source, list(load.indices)) for load in kernel.loads(stage.store.value)]
    free = _free_variables(stage.store.value)
    groups: list[list[tirx.IterVar]] = []
    for axis in axes:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and not {last.var, axis.var} & free
            and all(joint(buffer, indices, last, axis) for buffer, indices in accesses)
        ):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _free_variables(value: Any) -> set[tirx.Var]:
    """Variables that are used outside of plain subscripts."""
    bare = kernel.replace_all_loads(value, lambda load: tirx.const(0, str(load.ty)))
    found = kernel.variables(bare)
    for load in kernel.loads(value):
        for index in load.indices:
            if not isinstance(index, tirx.Var):
                found |= kernel.variables(index)
    return found


def joint(buffer: Any, indices: list[Any], outer: tirx.IterVar, inner: tirx.IterVar) -> bool:
    """Whether `outer` and `inner` subscript neighbouring dimensions in full, or none."""
    at = {index: place for place, index in enumerate(indices) if isinstance(index, tirx.Var)}
    if (outer.var in at) != (inner.var in at):
        return False
    if inner.var not in at:
        return True
    uses = [sum(v.same_as(i) for i in indices) for v in (outer.var, inner.var)]
    place = at[inner.var]
    full = kernel.same(buffer.shape[place], inner.dom.extent)
    return full and place == at[outer.var] + 1 and uses == [1, 1]
