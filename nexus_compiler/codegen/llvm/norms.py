"""Means, and norms over groups of channels, one kernel for all that a group needs.

TVM's norms take the variance for the mean of squares less the square of the mean, which loses all
digits where the mean is large against the deviation. These go through a group three times, its mean
being known the second time: it stays in the cache.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx, topi

from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.passes.legalize import Legalization, default

_EPILOGUES_FUSE = {"op_pattern": 4}  # what TVM's fusion calls OutEWiseFusable
_WIDE = "float32"


def mean(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """A sum and a division, so that what is before and behind them can become one kernel."""
    x, axes, keep = call.args[0], call.attrs.axis, bool(call.attrs.keepdims)
    if "float" not in str(x.ty.dtype.dtype):
        return default("relax.mean")(builder, call)
    over = range(x.ty.ndim) if axes is None else [int(axis) for axis in axes]
    count = build.product([x.ty.shape[axis] for axis in over])
    total = builder.emit(builder.call_te(topi.sum, x, list(over), keep, primfunc_name_hint="sum"))
    return builder.call_te(_shared, total, count, primfunc_name_hint="mean")


def _shared(total: te.Tensor, count: Any) -> te.Tensor:
    return topi.divide(total, tirx.Cast(total.dtype, build.number(count)))


def group_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Of images whose channels are second or last; TVM's for others."""
    return _normal(builder, call, int(call.attrs.num_groups))


def instance_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Groups of one channel."""
    return _normal(builder, call, None)


def _normal(builder: relax.BlockBuilder, call: relax.Call, groups: int | None) -> relax.Expr:
    x, scale, offset = call.args
    rank, channel = x.ty.ndim, int(call.attrs.channel_axis) % x.ty.ndim
    over = sorted(int(axis) % rank for axis in call.attrs.axes)
    pixels = [axis for axis in range(1, rank) if axis != channel]
    if over != pixels or channel not in (1, rank - 1):
        return default(str(call.op.name))(builder, call)
    sizes = list(x.ty.shape)
    many = groups or sizes[channel]
    channels = [many, 1 if groups is None else tirx.floordiv(sizes[channel], many)]
    area = build.product([sizes[axis] for axis in pixels])
    first = channel == 1 and rank > 2
    shape = [sizes[0], *channels, area] if first else [sizes[0], area, *channels]
    grouped = builder.emit(builder.call_te(topi.reshape, x, shape))
    options: dict[str, Any] = {"primfunc_name_hint": "group_norm"}
    epsilon = float(call.attrs.epsilon)
    found = builder.call_te(
        normalised,
        grouped,
        scale,
        offset,
        epsilon,
        first,
        primfunc_attrs=_EPILOGUES_FUSE,
        **options,
    )
    return builder.call_te(topi.reshape, builder.emit(found), sizes)


def normalised(
    x: te.Tensor, scale: te.Tensor, offset: te.Tensor, epsilon: float, first: bool
) -> te.Tensor:
    """x[n, groups, members, pixels], or [n, pixels, groups, members] where not `first`.

    (x - mean) / sqrt(variance + epsilon) of each (n, group), scaled and moved by channel.
    """
    samples, *rest = x.shape
    many, members, area = rest if first else (rest[1], rest[2], rest[0])
    groups = [samples, many]
    count = tirx.Cast(_WIDE, build.number(build.product([members, area])))

    def value(n: Any, g: Any, c: Any, p: Any) -> Any:
        return x(*([n, g, c, p] if first else [n, p, g, c])).astype(_WIDE)

    def axes() -> list[tirx.IterVar]:
        c, p = te.reduce_axis((0, members), "c"), te.reduce_axis((0, area), "p")
        return [c, p] if first else [p, c]

    def total(name: str, term: Any) -> te.Tensor:
        over = axes()
        c, p = over if first else reversed(over)
        return te.compute(groups, lambda n, g: te.sum(term(n, g, c, p), axis=over), name=name)

    sums = total("sums", value)
    middle = te.compute(groups, lambda n, g: sums(n, g) / count, name="middle")
    squares = total("squares", lambda *at: _square(value(*at) - middle(*at[:2])))
    inverse = te.compute(
        groups,
        lambda n, g: (
            tirx.const(1.0, _WIDE) / tirx.sqrt(squares(n, g) / count + tirx.const(epsilon, _WIDE))
        ),
        name="inverse",
    )

    def element(*at: Any) -> Any:
        n, g, c, p = at if first else (at[0], at[2], at[3], at[1])
        channel = g * members + c
        normal = (value(n, g, c, p) - middle(n, g)) * inverse(n, g)
        moved = normal * scale(channel).astype(_WIDE) + offset(channel).astype(_WIDE)
        return moved.astype(x.dtype)

    return te.compute(x.shape, element, name="normal")


def _square(value: Any) -> Any:
    return value * value


KERNELS: dict[str, Legalization] = {
    "relax.mean": mean,
    "relax.nn.group_norm": group_norm,
    "relax.nn.instance_norm": instance_norm,
}
