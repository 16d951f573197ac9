"""Pools of one axis, by those of two; and adaptive means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims
from nexus_runtime.errors import UnsupportedOperator

op = relax.op


def _by_plane(backward: Callable[..., Any]) -> Rule:
    """One axis as two of which the first is 1 long."""

    def rule(site: Site) -> Sequence[relax.Expr | None]:
        x, attrs = site.args[0], site.attrs
        pads = [int(pad) for pad in attrs.padding]
        found = backward(
            _plane(site, site.adjoint),
            _plane(site, x),
            pool_size=(1, int(attrs.pool_size[0])),
            strides=(1, int(attrs.strides[0])),
            padding=(0, pads[0], 0, pads[-1]),
            dilation=(1, int(attrs.dilation[0])),
            ceil_mode=bool(attrs.ceil_mode),
            count_include_pad=bool(attrs.count_include_pad),
        )
        return [site.like(site.put(found), x)]

    return rule


def _plane(site: Site, value: relax.Expr) -> relax.Var:
    batch, channels, length = dims(value)
    return site.reshape(value, [batch, channels, 1, length])


def _adaptive_avg(site: Site) -> Sequence[relax.Expr | None]:
    """Windows that tile the input; others overlap by turns."""
    x = site.args[0]
    before, after = dims(x), dims(site.result)
    split: list[Any] = before[:2]
    thin, area = list(split), 1
    for length, count in zip(before[2:], after[2:]):
        if length % count:
            raise UnsupportedOperator(
                f"the gradient of an adaptive pool needs {length} to be a multiple of {count}"
            )
        split += [count, length // count]
        thin += [count, 1]
        area *= length // count
    share = site.reshape(site.div(site.adjoint, area), thin)
    return [site.like(site.put(op.broadcast_to(share, relax.ShapeExpr(split))), x)]


RULES: dict[str, Rule] = {
    "nn.adaptive_avg_pool1d": _adaptive_avg,
    "nn.adaptive_avg_pool2d": _adaptive_avg,
    "nn.avg_pool1d": _by_plane(op.grad.avg_pool2d_backward),
    "nn.max_pool1d": _by_plane(op.grad.max_pool2d_backward),
}
