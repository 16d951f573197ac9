"""Normalisations and softmax. Narrow floats are normalised in float32, as TVM does."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax, nn

from nexus_compiler.codegen.xla.registry import Node, axes_of, operator


def _wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _standard(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    mean = jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean(lax.square(x - mean), axis=axes, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon)


def _along(vector: Any, axes: tuple[int, ...], rank: int) -> Any:
    """A parameter over `axes` with ones elsewhere, so that it broadcasts against the tensor."""
    shape = [1] * rank
    for axis, size in zip(axes, vector.shape):
        shape[axis] = size
    return _wide(vector).reshape(shape)


def _affine(node: Node, y: Any, axes: tuple[int, ...]) -> Any:
    if node.attrs.scale:
        y = y * _along(node[1], axes, y.ndim)
    if node.attrs.center:
        y = y + _along(node[2], axes, y.ndim)
    return y.astype(node[0].dtype)


@operator("nn.layer_norm")
def layer_norm(node: Node) -> Any:
    """Normalise over `axes`; scale and offset have the shape of these axes."""
    axes = axes_of(node.attrs.axes, node[0].ndim)
    return _affine(node, _standard(_wide(node[0]), axes, float(node.attrs.epsilon)), axes)


@operator("nn.rms_norm")
def rms_norm(node: Node) -> Any:
    """Divide by the root of the mean square over `axes`, and scale."""
    x, axes = _wide(node[0]), axes_of(node.attrs.axes, node[0].ndim)
    mean = jnp.mean(lax.square(x), axis=axes, keepdims=True)
    y = x * lax.rsqrt(mean + float(node.attrs.epsilon)) * _along(node[1], axes, x.ndim)
    return y.astype(node[0].dtype)


@operator("nn.group_norm")
def group_norm(node: Node) -> Any:
    """Normalise over `axes` within groups of channels; scale and offset are per channel."""
    x, attrs = node[0], node.attrs
    groups, channel = int(attrs.num_groups), int(attrs.channel_axis) % x.ndim
    split = (*x.shape[:channel], groups, x.shape[channel] // groups, *x.shape[channel + 1 :])
    # Splitting the channel moves the axes behind it by one.
    moved = (axis + (axis > channel) for axis in axes_of(attrs.axes, x.ndim) if axis != channel)
    y = _standard(_wide(x).reshape(split), (channel + 1, *moved), float(attrs.epsilon))
    return _affine(node, y.reshape(x.shape), (channel,))


@operator("nn.instance_norm")
def instance_norm(node: Node) -> Any:
    """Normalise over `axes` alone; scale and offset are per channel."""
    x, attrs = node[0], node.attrs
    channel = int(attrs.channel_axis) % x.ndim
    y = _standard(_wide(x), axes_of(attrs.axes, x.ndim), float(attrs.epsilon))
    return _affine(node, y, (channel,))


@operator("nn.batch_norm")
def batch_norm(node: Node) -> Any:
    """Data, scale, offset, mean, variance to result, new mean, new variance.

    In training the statistics are the batch's (the variance is the biased one) and the moving ones
    go towards them by `momentum`.
    """
    (x, _, _, mean, variance), attrs = node.inputs, node.attrs
    axis = int(attrs.axis) % x.ndim
    new_mean, new_variance = mean, variance
    if attrs.training:
        others = tuple(other for other in range(x.ndim) if other != axis)
        momentum = float(attrs.momentum)
        old_mean, old_variance = mean, variance
        mean, variance = jnp.mean(x, axis=others), jnp.var(x, axis=others)
        new_mean = (1 - momentum) * old_mean + momentum * mean
        new_variance = (1 - momentum) * old_variance + momentum * variance
    y = _wide(x) - _along(mean, (axis,), x.ndim)
    y = y * lax.rsqrt(_along(variance, (axis,), x.ndim) + float(attrs.epsilon))
    return _affine(node, y, (axis,)), new_mean, new_variance


@operator("nn.softmax")
def softmax(node: Node) -> Any:
    """Softmax along one axis."""
    return nn.softmax(node[0], axis=int(node.attrs.axis))


@operator("nn.log_softmax")
def log_softmax(node: Node) -> Any:
    """Logarithm of the softmax along one axis."""
    return nn.log_softmax(node[0], axis=int(node.attrs.axis))
