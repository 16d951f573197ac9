"""Normalisations: y = (x - mean) / sqrt(variance + epsilon) * scale + offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims, positive

op = relax.op


def _mean(site: Site, value: relax.Expr, axes: Sequence[int]) -> relax.Var:
    return site.put(op.mean(value, axis=list(axes), keepdims=True))


def _normal(site: Site, x: relax.Expr, axes: Sequence[int]) -> tuple[relax.Var, relax.Var]:
    """x normalised over `axes`, and 1 / its deviation."""
    centred = site.sub(x, _mean(site, x, axes))
    variance = _mean(site, site.mul(centred, centred), axes)
    inverse = site.put(op.rsqrt(site.add(variance, float(site.attrs.epsilon))))
    return site.mul(centred, inverse), inverse


def _back(
    site: Site, adjoint: relax.Expr, normal: relax.Expr, inverse: relax.Expr, axes: Sequence[int]
) -> relax.Var:
    """What flows to x: the adjoint of `normal` less its mean and its part along `normal`."""
    along = site.mul(normal, _mean(site, site.mul(adjoint, normal), axes))
    return site.mul(site.sub(site.sub(adjoint, _mean(site, adjoint, axes)), along), inverse)


def _spread(site: Site, weight: relax.Expr, axes: Sequence[int], rank: int) -> relax.Var:
    """A weight over `axes`, with 1 for all other dimensions."""
    column: list[Any] = [1] * rank
    for axis, dim in zip(axes, dims(weight)):
        column[axis] = dim
    return site.reshape(weight, column)


def _layer_norm(site: Site) -> Sequence[relax.Expr | None]:
    x, scale, offset = site.args
    rank = len(dims(x))
    axes = positive(site.attrs.axes, rank)
    others = [axis for axis in range(rank) if axis not in axes]
    normal, inverse = _normal(site, x, axes)
    adjoint = site.mul(site.adjoint, _spread(site, scale, axes, rank))
    by_scale = site.put(op.sum(site.mul(site.adjoint, normal), axis=others))
    by_offset = site.put(op.sum(site.adjoint, axis=others))
    by_x = _back(site, adjoint, normal, inverse, axes)
    return [by_x, site.like(by_scale, scale), site.like(by_offset, offset)]


def _group_norm(site: Site) -> Sequence[relax.Expr | None]:
    groups, channel = int(site.attrs.num_groups), int(site.attrs.channel_axis)
    return _by_group(site, groups, channel % len(dims(site.args[0])), site.attrs.axes)


def _instance_norm(site: Site) -> Sequence[relax.Expr | None]:
    channel = int(site.attrs.channel_axis) % len(dims(site.args[0]))
    return _by_group(site, dims(site.args[0])[channel], channel, site.attrs.axes)


def _by_group(site: Site, groups: int, channel: int, over: Any) -> Sequence[relax.Expr | None]:
    """Channels cut into (groups, channels of a group), normalised over the second and `over`."""
    x, scale, _ = site.args
    shape = dims(x)
    rank, members = len(shape), shape[channel] // groups
    split = [*shape[:channel], groups, members, *shape[channel + 1 :]]
    axes = [axis + (axis > channel) for axis in positive(over, rank) if axis != channel]
    axes = sorted([channel + 1, *axes])
    normal, inverse = _normal(site, site.reshape(x, split), axes)
    adjoint = site.mul(site.adjoint, _spread(site, scale, [channel], rank))
    by_x = _back(site, site.reshape(adjoint, split), normal, inverse, axes)
    others = [axis for axis in range(rank) if axis != channel]
    by_scale = site.put(op.sum(site.mul(site.adjoint, site.reshape(normal, shape)), axis=others))
    return [site.reshape(by_x, shape), by_scale, site.put(op.sum(site.adjoint, axis=others))]


def _rms_norm(site: Site) -> Sequence[relax.Expr | None]:
    """y = x / sqrt(mean(x^2) + epsilon) * scale."""
    x, scale = site.args
    rank = len(dims(x))
    axes = positive(site.attrs.axes, rank)
    others = [axis for axis in range(rank) if axis not in axes]
    square = _mean(site, site.mul(x, x), axes)
    inverse = site.put(op.rsqrt(site.add(square, float(site.attrs.epsilon))))
    normal = site.mul(x, inverse)
    adjoint = site.mul(site.adjoint, _spread(site, scale, axes, rank))
    along = site.mul(normal, _mean(site, site.mul(adjoint, normal), axes))
    by_scale = site.put(op.sum(site.mul(site.adjoint, normal), axis=others))
    return [site.mul(site.sub(adjoint, along), inverse), site.like(by_scale, scale)]


RULES: dict[str, Rule] = {
    "nn.group_norm": _group_norm,
    "nn.instance_norm": _instance_norm,
    "nn.layer_norm": _layer_norm,
    "nn.rms_norm": _rms_norm,
}
