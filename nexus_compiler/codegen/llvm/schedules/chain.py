"""Kernels of several stages over the same rows: softmax, norms, losses, and single reductions.

All stages of one row run before the next row begins, so that what one leaves for the next stays in
the first cache.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel, reduce, spatial
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.machine import Machine


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """Every stage in its best loops, together where they share rows."""
    stages = kernel_.stages
    if not stages or any(stage.reduced and stage.init is None for stage in stages):
        return None
    windows = [stage for stage in stages if stage.reduced and reduce.is_window(stage)]
    if not all(reduce.in_partial_results(stage, machine) for stage in windows):
        return None
    inner = list(kernel_.function.body.block.alloc_buffers)
    shared = _shared(stages)
    if len(stages) > 1 and shared:
        body = _together(stages, shared, machine)
    else:
        body = build.sequence([_write(stage, {}, machine, parallel=True) for stage in stages])
    return build.function(kernel_.function, body, inner)


def _write(stage: Stage, bound: dict[Any, Any], machine: Machine, *, parallel: bool) -> tirx.Stmt:
    family = reduce if stage.reduced else spatial
    return family.write(stage, bound, machine, parallel=parallel)


def _together(stages: tuple[Stage, ...], shared: int, machine: Machine) -> tirx.Stmt:
    extents = build.extents(stages[-1].spatial[:shared])
    work = sum(build.work(build.extents([*stage.spatial, *stage.reduced])) for stage in stages)

    def row(flat: Any) -> tirx.Stmt:
        place = build.unflatten(flat, extents)
        return build.sequence(
            [
                _write(stage, build.bind(stage.spatial[:shared], place), machine, parallel=False)
                for stage in stages
            ]
        )

    return build.loop(build.product(extents), row, machine.kind(work), "row")


def _shared(stages: tuple[Stage, ...]) -> int:
    """How many leading axes all stages have in common, with nothing handed across their values."""
    count = min(len(stage.spatial) for stage in stages)
    for stage in stages:
        lane = reduce.lane_axis(stage) if stage.reduced else None
        limit = len(stage.spatial)
        if lane is not None:
            limit = next(i for i, axis in enumerate(stage.spatial) if axis is lane)
        elif not stage.reduced:
            limit = max(limit - 1, 0) if len(stage.spatial) == _most(stages) else limit
        count = min(count, limit)
    while count and not _aligned(stages, count):
        count -= 1
    return count


def _most(stages: tuple[Stage, ...]) -> int:
    return max(len(stage.spatial) + len(stage.reduced) for stage in stages)


def _aligned(stages: tuple[Stage, ...], count: int) -> bool:
    turns = build.extents(stages[-1].spatial)
    written = [stage.store.buffer for stage in stages]
    for stage in stages:
        if not all(map(kernel.same, build.extents(stage.spatial[:count]), turns)):
            return False
        accesses = [(load.source, load.indices) for load in kernel.loads(stage.store.value)]
        accesses.append((stage.store.buffer, stage.store.indices))
        handed = [a for a in accesses if any(a[0].same_as(own) for own in written)]
        if not all(_leads(stage, buffer, indices, count) for buffer, indices in handed):
            return False
    return True


def _leads(stage: Stage, buffer: tirx.Buffer, indices: Any, count: int) -> bool:
    wide = [i for i, extent in zip(indices, buffer.shape) if not kernel.is_const(extent, 1)]
    axes = stage.spatial[:count]
    return len(wide) >= count and all(axis.var.same_as(i) for axis, i in zip(axes, wide))
