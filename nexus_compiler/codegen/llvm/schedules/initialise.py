"""Reductions that no family knows, over an extent that may be zero.

A naive reduction sets its result in the first turn of its loop: over nothing it leaves the memory
as it was. Set apart, the result is the identity, as it must be for an empty batch.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from nexus_compiler.codegen.llvm.schedules.kernel import is_const

_REDUCED = 2  # tirx.IterVar.CommReduce


def initialise(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with the initial values of its open-ended reductions set before their loops."""
    try:
        schedule = s_tir.Schedule(function)
        for block in schedule.get_child_blocks(schedule.get_sblock("root")):
            _decompose(schedule, block)
    except s_tir.ScheduleError:
        return function
    return schedule.mod["main"]


def _decompose(schedule: s_tir.Schedule, block: s_tir.SBlockRV) -> None:
    statement, loops = schedule.get(block), schedule.get_loops(block)
    axes = statement.iter_vars
    if statement.init is None or len(axes) != len(loops):
        return
    reduced = [i for i, axis in enumerate(axes) if axis.iter_type == _REDUCED]
    if any(not is_const(axes[i].dom.extent) for i in reduced):
        schedule.decompose_reduction(block, loops[reduced[0]])
