"""Running sums and products along an axis, as TE kernels.

Each result is the one before it and one element, in this order, as NumPy and PyTorch have it: no
partial sums that round otherwise. Where the axis is not the last one, what lies side by side in
memory runs side by side in vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from nexus_compiler.codegen.llvm import work
from nexus_compiler.codegen.llvm.orders.rows import local, put
from nexus_compiler.codegen.llvm.schedules import build

FAMILY = {work.FAMILY: "scan"}
_SIDE = 64  # running results of one task: they stay in registers
_PARALLEL = 32768  # elements from which on rows may run on all cores


def scan(
    x: te.Tensor,
    axis: int | None,
    dtype: str,
    exclusive: bool,
    product: bool,
) -> te.Tensor:
    """Elements of type `dtype` and the shape of `x`; flat where `axis` is None.

    Args:
        exclusive: whether each result leaves out the element at its own place.
        product: of elements, or their sum.
    """
    shape = list(x.shape)
    if axis is None:
        x = te.compute([build.product(shape)], lambda i: x(*build.unflatten(i, shape)), name="flat")
        shape, axis = list(x.shape), 0
    outer, count, inner = shape[:axis], shape[axis], shape[axis + 1 :]
    tiles = build.ceil(build.product(inner), _SIDE)

    def body(given: tirx.Buffer, out: tirx.Buffer) -> tirx.Stmt:
        def task(flat: Any) -> tirx.Stmt:
            *place, tile = build.unflatten(flat, [*outer, tiles])
            width = build.part(build.product(inner), tile, _SIDE) if inner else 1
            total = local(_SIDE if inner else 1, dtype, "total")

            def at(k: Any, i: Any) -> list[Any]:
                return [*place, k, *build.unflatten(tile * _SIDE + i, inner)]

            def add(k: Any, i: Any) -> tirx.Stmt:
                value = tirx.BufferLoad(given, at(k, i))
                value = value if str(value.ty) == dtype else tirx.Cast(dtype, value)
                steps = [put(total, i, total[i] * value if product else total[i] + value)]
                steps.insert(0 if exclusive else 1, tirx.BufferStore(out, total[i], at(k, i)))
                return build.sequence(steps)

            clear = build.loop(width, lambda i: put(total, i, tirx.const(int(product), dtype)))
            run = build.loop(count, lambda k: build.loop(width, lambda i: add(k, i)))
            return build.scope([total], build.sequence([clear, run]), "scan")

        parallel = build.work(shape) >= _PARALLEL and (outer or inner)
        kind = "parallel" if parallel else "serial"
        return build.loop(build.product([*outer, tiles]), task, kind, "task")

    def extern(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        return body(ins[0], outs[0])

    return te.extern([shape], [x], extern, dtype=[dtype], name="scan", attrs=FAMILY)
