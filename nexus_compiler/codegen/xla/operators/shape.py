"""Data movement that keeps every element: shape, order and repetition."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, ints, operator


@operator("reshape", "flatten", "nn.batch_flatten")
def reshape(node: Node) -> Any:
    """The same elements in another shape."""
    return lax.reshape(node[0], node.shape)


@operator("broadcast_to")
def broadcast_to(node: Node) -> Any:
    """Repeat along axes of length one."""
    return jnp.broadcast_to(node[0], node[1])


@operator("expand_dims")
def expand_dims(node: Node) -> Any:
    """New axes of length one, counted in the result."""
    return jnp.expand_dims(node[0], ints(node.attrs.axis))


@operator("squeeze")
def squeeze(node: Node) -> Any:
    """Drop axes of length one; all of them where none is named."""
    axis = node.attrs.axis
    return jnp.squeeze(node[0], None if axis is None else tuple(ints(axis)))


@operator("permute_dims")
def permute_dims(node: Node) -> Any:
    """Reorder the axes; reverse them where no order is given."""
    axes = node.attrs.axes
    return jnp.transpose(node[0], None if axes is None else ints(axes))


@operator("flip")
def flip(node: Node) -> Any:
    """Reverse one axis."""
    return jnp.flip(node[0], int(node.attrs.axis))


@operator("tile")
def tile(node: Node) -> Any:
    """Repeat whole blocks."""
    return jnp.tile(node[0], tuple(ints(node.attrs.repeats)))


@operator("repeat")
def repeat(node: Node) -> Any:
    """Repeat each element; the result is flat where no axis is given."""
    x = node[0] if node.attrs.axis is not None else node[0].reshape(-1)
    axis = 0 if node.attrs.axis is None else int(node.attrs.axis) % x.ndim
    times = int(node.attrs.repeats)
    # jnp.repeat gathers, and wants the total length as a number; this also takes symbolic axes.
    spread = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
    )
    return lax.reshape(spread, node.shape)


@operator("nn.pad")
def pad(node: Node) -> Any:
    """Widen by a constant or by the tensor's own elements; a negative width cuts off."""
    x, mode = node[0], str(node.attrs.pad_mode)
    flat = ints(node.attrs.pad_width)
    widths = list(zip(flat[::2], flat[1::2]))
    if mode == "constant":
        value = jnp.asarray(float(node.attrs.pad_value), x.dtype)
        return lax.pad(x, value, [(before, after, 0) for before, after in widths])
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in modes:
        raise node.refuse(f"the mode '{mode}'")
    return jnp.pad(x, widths, mode=modes[mode])


@operator("nn.pixel_shuffle")
def pixel_shuffle(node: Node) -> Any:
    """[..., C*r*r, H, W] to [..., C, H*r, W*r]."""
    x, factor = node[0], int(node.attrs.upscale_factor)
    *lead, channels, height, width = x.shape
    split = x.reshape(*lead, channels // factor**2, factor, factor, height, width)
    rank = len(lead)
    order = [*range(rank), rank, rank + 3, rank + 1, rank + 4, rank + 2]
    return lax.reshape(jnp.transpose(split, order), node.shape)


@operator("shape_of")
def shape_of(node: Node) -> Any:
    """The dimensions, which are known (some by name) while exporting."""
    return tuple(node[0].shape)


@operator("shape_to_tensor")
def shape_to_tensor(node: Node) -> Any:
    """A shape as int64 [rank]."""
    return jnp.stack([jnp.asarray(dim, "int64") for dim in node[0]])


@operator("size")
def size(node: Node) -> Any:
    """The number of elements as int64 []."""
    count = 1
    for dim in node[0].shape:
        count = count * dim
    return jnp.asarray(count, "int64")
