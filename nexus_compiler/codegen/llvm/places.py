"""Where the largest or smallest element is: argmax and argmin in vectors.

A reduction over pairs (place, value) is a loop of branches. Two over single values are not: the
extreme first, then the first place that holds it; a row is in the cache when it is read again.
The extreme of anything and NaN is NaN, and its place is that of the first NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx, topi

from nexus_compiler.codegen.llvm.keep_nan import is_number
from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.passes.legalize import Legalization

_NARROW, _WIDE = "int32", "int64"


def _reducer(combine: Callable[..., Any], start: Callable[[str], Any]) -> Any:
    # TVM counts the parameters in the code object, which its own functions lack.
    return te.comm_reducer(lambda a, b: combine(a, b), start)  # noqa: PLW0108


_FIRST = _reducer(tirx.min, tirx.max_value)


def _start(sign: int, kind: str) -> Any:
    """What no element is further from; behind all numbers of type `kind`."""
    if "float" in kind:
        return tirx.const(float("inf") * sign, kind)
    return tirx.min_value(kind) if sign < 0 else tirx.max_value(kind)


def _kernel(combine: Callable[..., Any], sign: int) -> Callable[..., te.Tensor]:
    extreme = _reducer(combine, lambda kind: _start(sign, str(kind)))

    def places(x: te.Tensor, axis: int, keepdims: bool) -> te.Tensor:
        count = x.shape[axis]
        narrow = isinstance(count, tirx.IntImm) and int(count) < 2**31
        kind = _NARROW if narrow else _WIDE
        others = [size for place, size in enumerate(x.shape) if place != axis]
        k, j = (te.reduce_axis((0, count), name) for name in "kj")

        def at(place: Any, own: Any) -> list[Any]:
            return [*own[:axis], place, *own[axis:]]

        values = te.compute(others, lambda *own: extreme(x(*at(k, own)), axis=k), name="extreme")

        def place(*own: Any) -> Any:
            value = x(*at(j, own))
            none, here = tirx.max_value(kind), tirx.Cast(kind, j.var)
            if "float" in str(x.dtype):
                none = tirx.Select(is_number(value), none, here)
            return _FIRST(tirx.Select(value == values(*own), here, none), axis=j)

        found = te.compute(others, place, name="first")
        shape = at(1, others) if keepdims else others

        def said(*own: Any) -> Any:
            rest = [*own[:axis], *own[axis + 1 :]] if keepdims else own
            return found(*rest).astype("int64")

        return te.compute(shape, said, name="place")

    return places


def _legalization(combine: Callable[..., Any], sign: int) -> Legalization:
    kernel = _kernel(combine, sign)

    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        x, axis, keep = call.args[0], call.attrs.axis, bool(call.attrs.keepdims)
        if axis is not None:
            return builder.call_te(kernel, x, int(axis) % x.ty.ndim, keep)
        total = build.product(x.ty.shape)
        flat = builder.emit(builder.call_te(topi.reshape, x, [total]))
        return builder.call_te(kernel, flat, 0, keep)

    return legalize


KERNELS: dict[str, Legalization] = {
    "relax.argmax": _legalization(tirx.max, -1),
    "relax.argmin": _legalization(tirx.min, 1),
}
