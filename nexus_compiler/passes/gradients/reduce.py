"""Reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims, dtype, positive

op = relax.op


def _kept(site: Site, value: relax.Expr) -> relax.Expr:
    """A result of the reduction with the reduced dimensions as 1; a scalar stretches as it is."""
    if site.attrs.keepdims or not dims(value):
        return value
    shape = dims(site.args[0])
    for axis in positive(site.attrs.axis, len(shape)):
        shape[axis] = 1
    return site.reshape(value, shape)


def _spread(site: Site, value: relax.Expr) -> relax.Var:
    return site.put(op.broadcast_to(value, site.args[0].ty.shape))


def count(site: Site, value: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    """How many values of `value` lie along `axes`, as a constant or, where that is open, a sum."""
    shape: list[Any] = [dims(value)[axis] for axis in axes]
    if all(isinstance(dim, int) for dim in shape):
        return site.number(math.prod(shape))
    return site.put(op.sum(site.put(op.ones(relax.ShapeExpr(shape), dtype(value)))))


def _mean(site: Site) -> Sequence[relax.Expr | None]:
    x = site.args[0]
    share = site.div(site.adjoint, count(site, x, positive(site.attrs.axis, len(dims(x)))))
    return [_spread(site, _kept(site, share))]


def _sum(site: Site) -> Sequence[relax.Expr | None]:
    return [_spread(site, _kept(site, site.adjoint))]


def _variance(site: Site) -> Sequence[relax.Expr | None]:
    """2 (x - mean) / n; TVM's own forgets that x - mean is small where x and mean are large."""
    x = site.args[0]
    axes = positive(site.attrs.axis, len(dims(x)))
    centred = site.sub(x, site.put(op.mean(x, axis=axes, keepdims=True)))
    factor = site.div(site.mul(_kept(site, site.adjoint), 2), count(site, x, axes))
    return [site.mul(centred, factor)]


def _std(site: Site) -> Sequence[relax.Expr | None]:
    """(x - mean) / (n * std)."""
    x = site.args[0]
    axes = positive(site.attrs.axis, len(dims(x)))
    centred = site.sub(x, site.put(op.mean(x, axis=axes, keepdims=True)))
    share = site.div(site.div(site.adjoint, site.result), count(site, x, axes))
    return [site.mul(centred, _kept(site, share))]


def _extreme(site: Site) -> Sequence[relax.Expr | None]:
    """To the greatest (least) values; equal ones share, as in PyTorch's amax."""
    x = site.args[0]
    axes = positive(site.attrs.axis, len(dims(x)))
    hit = site.put(op.equal(x, _kept(site, site.result)))
    hit = site.put(op.astype(hit, dtype(x)))
    hits = site.put(op.sum(hit, axis=axes, keepdims=True))
    return [site.mul(hit, site.div(_kept(site, site.adjoint), hits))]


def _prod(site: Site) -> Sequence[relax.Expr | None]:
    """product / x: right where no value is zero."""
    whole = _kept(site, site.mul(site.adjoint, site.result))
    return [site.div(_spread(site, whole), site.args[0])]


RULES: dict[str, Rule] = {
    "max": _extreme,
    "mean": _mean,
    "min": _extreme,
    "prod": _prod,
    "std": _std,
    "sum": _sum,
    "variance": _variance,
}
