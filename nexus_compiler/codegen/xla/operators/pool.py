"""Pooling, and the windows that the gradients of pooling share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from nexus_compiler.codegen.xla.operators.conv import padding_pairs
from nexus_compiler.codegen.xla.registry import Node, operator


@dataclass(frozen=True)
class Windows:
    """Window, stride, dilation and padding of every axis of a tensor, batch and channel too."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    count_padding: bool


def spatial_axes(node: Node, layout: str) -> list[int]:
    """The axes of a plain layout that are neither batch nor channel."""
    if not layout.isupper():
        raise node.refuse(f"the packed layout {layout}", hint="use a plain layout such as NCHW")
    return [axis for axis, letter in enumerate(layout) if letter not in "NC"]


def windows(node: Node) -> Windows:
    """The windows that the attributes of a pooling describe."""
    attrs, layout = node.attrs, str(node.attrs.layout)
    if str(attrs.out_layout) not in ("", layout):
        raise node.refuse(f"layout {layout} to {attrs.out_layout}")
    axes = spatial_axes(node, layout)
    size, stride, dilation = [1] * len(layout), [1] * len(layout), [1] * len(layout)
    padding = [(0, 0)] * len(layout)
    for place, axis in enumerate(axes):
        size[axis] = int(attrs.pool_size[place])
        stride[axis] = int(attrs.strides[place])
        dilation[axis] = int(attrs.dilation[place])
        before, after = padding_pairs(attrs.padding, len(axes))[place]
        # With ceil_mode Relax counts the windows of a tensor that is `stride - 1` longer.
        padding[axis] = (before, after + (stride[axis] - 1 if attrs.ceil_mode else 0))
    return Windows(
        tuple(size), tuple(stride), tuple(dilation), tuple(padding), bool(attrs.count_include_pad)
    )


def _reduce(x: Any, start: Any, combine: Any, w: Windows) -> Any:
    return lax.reduce_window(
        x, start, combine, w.size, w.stride, w.padding, window_dilation=w.dilation
    )


def max_pool(x: Any, w: Windows) -> Any:
    """The largest element of each window."""
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = -np.inf if floating else np.iinfo(x.dtype).min
    return _reduce(x, np.array(lowest, x.dtype), lax.max, w)


def avg_pool(x: Any, w: Windows) -> Any:
    """The mean of each window, over its elements or over what of it lies in the tensor."""
    zero = np.array(0, x.dtype)
    total = _reduce(x, zero, lax.add, w)
    if w.count_padding:
        return lax.div(total, jnp.full_like(total, int(np.prod(w.size))))
    count = _reduce(jnp.ones_like(x), zero, lax.add, w)
    return lax.div(total, lax.max(count, jnp.ones_like(count)))


@operator("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d")
def max_pool_operator(node: Node) -> Any:
    """Maximum pooling."""
    return max_pool(node[0], windows(node))


@operator("nn.avg_pool1d", "nn.avg_pool2d", "nn.avg_pool3d")
def avg_pool_operator(node: Node) -> Any:
    """Average pooling."""
    return avg_pool(node[0], windows(node))


def _means(size: int, bins: int, dtype: Any) -> np.ndarray:
    """[bins, size]: row i holds the weights of bin i, from floor(i*size/bins) to the ceiling."""
    matrix = np.zeros((bins, size))
    for row in range(bins):
        begin, end = row * size // bins, -(-(row + 1) * size // bins)
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix.astype(dtype)


@operator("nn.adaptive_avg_pool1d", "nn.adaptive_avg_pool2d", "nn.adaptive_avg_pool3d")
def adaptive_avg_pool(node: Node) -> Any:
    """Means over a fixed number of bins per axis; bins overlap where they do not divide it."""
    x, shape = node[0], node.shape
    for axis in spatial_axes(node, str(node.attrs.layout)):
        size, bins = x.shape[axis], shape[axis]
        if bins == 1:
            x = jnp.mean(x, axis=axis, keepdims=True)
        elif isinstance(size, int) and isinstance(bins, int):
            weights = _means(size, bins, x.dtype)
            pooled = jnp.tensordot(x, weights, axes=[[axis], [1]], preferred_element_type=x.dtype)
            x = jnp.moveaxis(pooled, -1, axis)
        elif size != bins:
            raise node.refuse(f"{bins} bins over an axis of unknown length {size}")
    return x
