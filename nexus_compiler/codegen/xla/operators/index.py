"""Reading by index: slices and gathers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, operator


def take(x: Any, indices: Any, axis: int | None, mode: str) -> Any:
    """Slices of `x` along `axis` (flat where None).

    Indices that are out of range give the nearest slice ("clip"), count around ("wrap") or give
    NaN ("nan"). "fast" promises that there are none; there a negative one counts from the end, as
    PyTorch means it whose importer writes `x[:, -1]` so (TVM's kernel reads outside the tensor).
    """
    x = x.reshape(-1) if axis is None else x
    place = 0 if axis is None else axis % x.ndim
    if mode == "wrap":
        return jnp.take(x, indices, axis=place, mode="wrap")
    if mode == "fast":
        indices = jnp.where(indices < 0, indices + x.shape[place], indices)
    taken = jnp.take(x, indices, axis=place, mode="clip")
    if mode != "nan":
        return taken
    inside = (indices >= 0) & (indices < x.shape[place])
    inside = inside.reshape((1,) * place + indices.shape + (1,) * (x.ndim - place - 1))
    return jnp.where(inside, taken, jnp.asarray(jnp.nan, x.dtype))


@operator("take")
def take_operator(node: Node) -> Any:
    """Slices along one axis by a tensor of indices."""
    axis = None if node.attrs.axis is None else int(node.attrs.axis)
    return take(node[0], node.array(1, "int64"), axis, str(node.attrs.mode))


def _cut(x: Any, axis: int, begin: Any, step: int, length: Any) -> Any:
    """`length` elements of one axis; by gather, as symbolic bounds cannot be shown to fit."""
    start = begin + x.shape[axis] if isinstance(begin, int) and begin < 0 else begin
    places = jnp.asarray(start, "int64") + step * lax.iota("int64", length)
    return jnp.take(x, places, axis=axis, mode="clip")


@operator("strided_slice")
def strided_slice(node: Node) -> Any:
    """`x[begin:end:stride]` along some axes."""
    x, axes, begins, ends, *rest = node.inputs
    strides = rest[0] if rest else (1,) * len(axes)
    shape = node.shape
    for axis, begin, end, stride in zip(axes, begins, ends, strides):
        place = axis % x.ndim
        if all(isinstance(value, int) for value in (x.shape[place], begin, end)):
            cut: list[Any] = [slice(None)] * x.ndim
            cut[place] = slice(*slice(begin, end, stride).indices(x.shape[place]))
            if stride < 0 and cut[place].stop < 0:
                cut[place] = slice(cut[place].start, None, stride)
            x = x[tuple(cut)]
        else:
            x = _cut(x, place, begin, int(stride), shape[place])
    return x


@operator("gather_elements")
def gather_elements(node: Node) -> Any:
    """One element per index, along one axis; other axes of the indices may be shorter."""
    x, indices = node.inputs
    axis = int(node.attrs.axis) % x.ndim
    for other in range(x.ndim):
        if other != axis and x.shape[other] != indices.shape[other]:
            x = lax.slice_in_dim(x, 0, indices.shape[other], axis=other)
    return jnp.take_along_axis(x, indices, axis=axis)


def positions(x: Any, indices: Any, batch: int = 0) -> tuple[Any, ...]:
    """ONNX's index vectors [..., m] as one index per axis, behind `batch` axes taken in step."""
    lead = indices.ndim - 1
    steps = [lax.broadcasted_iota(indices.dtype, indices.shape[:-1], axis) for axis in range(batch)]
    count = indices.shape[-1]
    return (*steps, *(indices[(slice(None),) * lead + (i,)] for i in range(count)))


@operator("gather_nd")
def gather_nd(node: Node) -> Any:
    """Slices by index vectors, the last axis of the indices."""
    x, indices = node.inputs
    return x[positions(x, indices, int(node.attrs.batch_dims))]


@operator("index_tensor")
def index_tensor(node: Node) -> Any:
    """`x[i, j, ...]` by tensors of indices, which broadcast."""
    return node[0][tuple(node[1])]


@operator("bucketize")
def bucketize(node: Node) -> Any:
    """Between which of the sorted boundaries each element falls."""
    side = "right" if node.attrs.right else "left"
    return jnp.searchsorted(node[1], node[0], side=side).astype(node.dtype)


@operator("reverse_sequence")
def reverse_sequence(node: Node) -> Any:
    """Reverse the first `lengths[b]` elements of each sequence."""
    x, lengths = node.inputs
    along, batch = int(node.attrs.seq_axis) % x.ndim, int(node.attrs.batch_axis) % x.ndim
    shape = [1] * x.ndim
    shape[batch] = lengths.shape[0]
    limit = lengths.reshape(shape)
    place = lax.broadcasted_iota(lengths.dtype, x.shape, along)
    return jnp.take_along_axis(x, jnp.where(place < limit, limit - 1 - place, place), axis=along)
