"""Turns every Relax operator into a call of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, te, tirx, topi

from nexus_compiler.passes.base import Pass

Legalization = Callable[[relax.BlockBuilder, Any], Any]
"""Emits the kernel of a call."""


@dataclass(frozen=True)
class Legalize(Pass):
    """Operators become `call_tir` of naive kernels; operators that TVM lacks break the law here."""

    name: ClassVar[str] = "legalize"
    leaves: ClassVar[str] = "lowered"
    identities: str = "infinite"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; equal calls share a kernel."""
        return relax.transform.LegalizeOps(self.kernels(module))(module)

    def kernels(self, module: IRModule) -> dict[str, Legalization]:
        """The operators whose kernels are not TVM's."""
        return {
            "relax.max": _extreme("relax.max", tirx.max, -1),
            "relax.min": _extreme("relax.min", tirx.min, 1),
            "relax.argmax": _place("relax.argmax", lambda a, b: a > b, -1),
            "relax.argmin": _place("relax.argmin", lambda a, b: a < b, 1),
            **{f"relax.nn.max_pool{rank}d": _largest_of_windows(rank) for rank in (1, 2, 3)},
        }


# TVM's own searches start from the largest finite number: of nothing but infinities they return
# what is not there. These start from infinity.


def _is_float(call: Any) -> bool:
    return "float" in str(call.args[0].ty.dtype.dtype)


def default(name: str) -> Legalization:
    """TVM's own legalization of the operator `name`."""
    return tvm.ir.Op.get(name).get_attr("FLegalize")


def _reducer(combine: Callable[..., Any], start: float) -> Any:
    # TVM counts the parameters in the code object, which its own functions lack.
    return te.comm_reducer(
        lambda a, b: combine(a, b),  # noqa: PLW0108
        lambda kind: tirx.const(start, kind),
    )


def _extreme(name: str, combine: Callable[..., Any], sign: int) -> Legalization:
    reducer = _reducer(combine, float("inf") * sign)

    def kernel(x: Any, axis: Any, keepdims: bool) -> Any:
        def element(full: list[Any], reduced: list[Any]) -> Any:
            return reducer(x(*full), axis=reduced)

        return _over(x, axis, keepdims, element)

    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        if not _is_float(call):
            return default(name)(builder, call)
        return builder.call_te(kernel, call.args[0], call.attrs.axis, bool(call.attrs.keepdims))

    return legalize


def _place(name: str, better: Callable[[Any, Any], Any], sign: int) -> Legalization:
    infinity = float("inf") * sign

    def combine(a: Any, b: Any) -> tuple[Any, Any]:
        # Of equal elements the first; the start is behind all of them.
        wins = tirx.Or(better(a[1], b[1]), tirx.And(a[1] == b[1], a[0] < b[0]))
        return tirx.Select(wins, a[0], b[0]), tirx.Select(wins, a[1], b[1])

    def start(place: Any, kind: Any) -> tuple[Any, Any]:
        return tirx.max_value(place), tirx.const(infinity, kind)

    reducer = te.comm_reducer(combine, start)

    def kernel(x: Any, axis: Any, keepdims: bool) -> Any:
        def element(full: list[Any], reduced: list[Any]) -> Any:
            return reducer((reduced[0].var, x(*full)), axis=reduced)

        pair = _over(x, axis, keepdims, element)
        return te.compute(pair[0].shape, lambda *i: pair[0](*i).astype("int64"), name="place")

    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        axis = call.attrs.axis
        if not _is_float(call) or axis is None:
            return default(name)(builder, call)
        return builder.call_te(kernel, call.args[0], [axis], bool(call.attrs.keepdims))

    return legalize


def _over(x: Any, axis: Any, keepdims: bool, element: Callable[..., Any]) -> Any:
    """Reduce `x` over the axes `axis`, all for None."""
    rank = len(x.shape)
    axes = sorted(int(a) % rank for a in (range(rank) if axis is None else axis))
    reduced = {a: te.reduce_axis((0, x.shape[a]), name=f"k{a}") for a in axes}
    if keepdims:
        shape = [1 if a in reduced else size for a, size in enumerate(x.shape)]
        kept = list(range(rank))
    else:
        kept = [a for a in range(rank) if a not in reduced]
        shape = [x.shape[a] for a in kept]

    def compute(*places: Any) -> Any:
        own = dict(zip(kept, places))
        full = [reduced[a].var if a in reduced else own[a] for a in range(rank)]
        return element(full, list(reduced.values()))

    return te.compute(shape, compute, name="reduced")


def _largest_of_windows(rank: int) -> Legalization:
    name, reducer = f"relax.nn.max_pool{rank}d", _reducer(tirx.max, -float("inf"))

    def kernel(x: Any, attrs: Any, shape: Any) -> Any:
        kernel, strides, dilation, padding = (
            [int(i) for i in value]
            for value in (attrs.pool_size, attrs.strides, attrs.dilation, attrs.padding)
        )
        after = [
            # Where sizes are rounded up, the last window reaches beyond the end.
            (shape[axis + 2] - 1) * strides[axis]
            + (kernel[axis] - 1) * dilation[axis]
            + 1
            - x.shape[axis + 2]
            - padding[axis]
            if attrs.ceil_mode
            else padding[rank + axis]
            for axis in range(rank)
        ]
        if attrs.ceil_mode or any(padding):
            lowest = tirx.const(-float("inf"), x.dtype)
            x = topi.nn.pad(x, [0, 0, *padding[:rank]], [0, 0, *after], lowest, name="pad_temp")
        taps = [te.reduce_axis((0, kernel[axis]), name=f"k{axis}") for axis in range(rank)]

        def element(batch: Any, channel: Any, *places: Any) -> Any:
            own = [
                place * strides[axis] + taps[axis] * dilation[axis]
                for axis, place in enumerate(places)
            ]
            return reducer(x(batch, channel, *own), axis=taps)

        return te.compute(shape, element, name="pool_max")

    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        plain = (
            str(call.attrs.layout).startswith("NC") and call.attrs.layout == call.attrs.out_layout
        )
        if not _is_float(call) or not plain:
            return default(name)(builder, call)
        return builder.call_te(kernel, call.args[0], call.attrs, call.ty.shape.values)

    return legalize
