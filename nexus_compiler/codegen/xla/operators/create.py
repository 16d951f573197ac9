"""Tensors from nothing: constants, ranges, identity, triangles, one-hot, windows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, operator


@operator("zeros", "zeros_like")
def zeros(node: Node) -> Any:
    """All 0."""
    return jnp.zeros(node.shape, node.dtype)


@operator("ones", "ones_like")
def ones(node: Node) -> Any:
    """All 1."""
    return jnp.ones(node.shape, node.dtype)


@operator("full", "full_like")
def full(node: Node) -> Any:
    """All equal to a scalar tensor."""
    return jnp.broadcast_to(node.array(1, node.dtype).astype(node.dtype), node.shape)


@operator("arange")
def arange(node: Node) -> Any:
    """`start`, `start + step`, ... below `end`."""
    start, end, step = node.inputs
    if all(isinstance(value, int | float) for value in node.inputs):
        return jnp.asarray(np.arange(start, end, step).astype(node.dtype))
    counted = lax.iota(node.dtype, node.shape[0])
    return jnp.asarray(start, node.dtype) + counted * jnp.asarray(step, node.dtype)


def _diagonal_distance(shape: tuple[Any, ...]) -> Any:
    """Column minus row, int64, of the last two axes."""
    rows, columns = lax.iota("int64", shape[-2]), lax.iota("int64", shape[-1])
    return columns[None, :] - rows[:, None]


@operator("eye")
def eye(node: Node) -> Any:
    """Ones on the k-th diagonal."""
    offset = node.array(2, "int64") if len(node.inputs) > 2 else jnp.asarray(0, "int64")
    return (_diagonal_distance(node.shape) == offset).astype(node.dtype)


@operator("eye_like")
def eye_like(node: Node) -> Any:
    """Ones on the k-th diagonal of a matrix of the shape of another."""
    offset = node.array(1, "int64") if len(node.inputs) > 1 else jnp.asarray(0, "int64")
    return (_diagonal_distance(node.shape) == offset).astype(node.dtype)


@operator("tril")
def tril(node: Node) -> Any:
    """Keep what is on or below the k-th diagonal."""
    x, keep = node[0], _diagonal_distance(node.shape) <= node.array(1, "int64")
    return jnp.where(keep, x, jnp.zeros_like(x))


@operator("triu")
def triu(node: Node) -> Any:
    """Keep what is on or above the k-th diagonal."""
    x, keep = node[0], _diagonal_distance(node.shape) >= node.array(1, "int64")
    return jnp.where(keep, x, jnp.zeros_like(x))


@operator("one_hot")
def one_hot(node: Node) -> Any:
    """A new axis of length `depth` that is `on` at the index and `off` elsewhere."""
    indices, on, off = node.inputs
    axis = int(node.attrs.axis) % (indices.ndim + 1)
    places = jnp.expand_dims(lax.iota(indices.dtype, int(node.attrs.depth)), 1)
    places = places.reshape([-1 if place == axis else 1 for place in range(indices.ndim + 1)])
    hit = jnp.expand_dims(indices, axis) == places
    return jnp.where(hit, jnp.asarray(on, node.dtype), jnp.asarray(off, node.dtype))


@operator("hamming_window")
def hamming_window(node: Node) -> Any:
    """`alpha - beta cos(2 pi n / N)`; N is one less where the window is not periodic."""
    size, periodic, alpha, beta = node.inputs
    if not isinstance(size, int):
        raise node.refuse("a window of unknown length")
    period = size if periodic else size - 1
    angle = 2 * np.pi * np.arange(size) / max(period, 1)
    return jnp.asarray((alpha - beta * np.cos(angle)).astype(node.dtype))
