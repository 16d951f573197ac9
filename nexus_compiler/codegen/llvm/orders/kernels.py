"""Sort, argsort and topk over any axis, as TE kernels.

All are stable: equal elements stay in their order, in both directions. NaN is greater than every
number, as PyTorch and NumPy have it; the result is the same on every target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from nexus_compiler.codegen.llvm import work
from nexus_compiler.codegen.llvm.orders import first, keys
from nexus_compiler.codegen.llvm.orders.rows import Row, local, narrow, put, sort, wide
from nexus_compiler.codegen.llvm.schedules import build

FAMILY = {work.FAMILY: "order"}
_PARALLEL = 32768  # elements from which on rows may run on all cores


def argsort(x: te.Tensor, axis: int, down: bool, dtype: str) -> te.Tensor:
    """The places of the elements along `axis`, in order; shape of `x`, type `dtype`."""

    def write(given: tirx.Buffer, outs: Sequence[tirx.Buffer], where: Any, p: Any, own: Any) -> Any:
        del given
        return tirx.BufferStore(outs[0], tirx.Cast(dtype, where), own(p))

    return _over_rows(x, axis, down, None, [dtype], write, "argsort")[0]


def sorted_values(x: te.Tensor, axis: int, down: bool) -> te.Tensor:
    """The elements along `axis`, in order."""

    def write(given: tirx.Buffer, outs: Sequence[tirx.Buffer], where: Any, p: Any, own: Any) -> Any:
        return tirx.BufferStore(outs[0], tirx.BufferLoad(given, own(wide(where))), own(p))

    return _over_rows(x, axis, down, None, [str(x.dtype)], write, "sort")[0]


def topk(x: te.Tensor, k: int, axis: int, parts: str, largest: bool, dtype: str) -> list[te.Tensor]:
    """The first `k` elements along `axis`, in order, and where they are, as `parts` says.

    Args:
        parts: "values", "indices" or "both".
        dtype: of the indices.
    """
    kinds = {"values": [str(x.dtype)], "indices": [dtype], "both": [str(x.dtype), dtype]}[parts]

    def write(given: tirx.Buffer, outs: Sequence[tirx.Buffer], where: Any, p: Any, own: Any) -> Any:
        made = []
        if parts != "indices":
            value = tirx.BufferLoad(given, own(wide(where)))
            made.append(tirx.BufferStore(outs[0], value, own(p)))
        if parts != "values":
            made.append(tirx.BufferStore(outs[-1], tirx.Cast(dtype, where), own(p)))
        return build.sequence(made)

    return _over_rows(x, axis, largest, k, kinds, write, "topk")


def _over_rows(
    x: te.Tensor,
    axis: int,
    down: bool,
    wanted: int | None,
    kinds: Sequence[str],
    write: Callable[..., tirx.Stmt],
    name: str,
) -> list[te.Tensor]:
    shape, count = list(x.shape), x.shape[axis]
    others = [*shape[:axis], *shape[axis + 1 :]]
    taken = count if wanted is None else wanted
    out = [*shape[:axis], build.number(taken), *shape[axis + 1 :]]

    def body(given: tirx.Buffer, outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        def row(flat: Any) -> tirx.Stmt:
            place = build.unflatten(flat, others)
            own = lambda i: [*place[:axis], build.number(i), *place[axis:]]  # noqa: E731
            load = lambda i: tirx.BufferLoad(given, own(i))  # noqa: E731
            room = Row.of(keys.kind(str(x.dtype)), keys.bits(str(x.dtype)), count)
            ordered = _ordered(room, load, count, wanted, down)
            finish = build.loop(
                taken, lambda p: write(given, outs, room.places[room.begin + p], p, own)
            )
            return build.scope(room.buffers, build.sequence([ordered, finish]), "row")

        parallel = others and build.work(shape) >= _PARALLEL
        return build.loop(build.product(others), row, "parallel" if parallel else "serial", "row")

    made = te.extern(
        [out] * len(kinds),
        [x],
        lambda ins, outs: body(ins[0], outs),
        dtype=list(kinds),
        name=name,
        attrs=FAMILY,
    )
    return made if isinstance(made, list) else [made]


def _ordered(
    row: Row, load: Callable[[Any], Any], count: Any, wanted: int | None, down: bool
) -> tirx.Stmt:
    """The first places of one row, at the places that `Row.begin` tells."""
    dtype = str(load(0).ty)

    def fill(i: Any) -> tirx.Stmt:
        return put(row.keys, i, keys.key(load(i), down=down))

    def number(i: Any) -> tirx.Stmt:
        return put(row.places, i, narrow(i))

    filled = build.loop(count, fill)
    if wanted is not None and first.is_search(wanted, count) and keys.has_spare(dtype):
        return build.sequence([filled, first.search(row, wanted, count, keys.last(dtype))])
    if wanted is None or not first.is_selection(wanted, count):
        return build.sequence([filled, build.loop(count, number), sort(row, count)])
    found, left = local(1, "int64", "found"), tirx.Var("left", "int64")
    steps = [filled, first.select(row, wanted, count, found), tirx.Bind(left, found[0])]
    return build.scope([found], build.sequence([*steps, sort(row, left)]), "first")
