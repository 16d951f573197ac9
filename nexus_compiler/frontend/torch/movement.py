"""Operators that move, repeat or join tensors as a whole."""

from __future__ import annotations

from typing import Any

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "_reshape_copy",
    "flatten",
    "unsqueeze",
    "squeeze",
    "view_copy",
    "pixel_view",
    "unflatten",
)
def reshape(node: Node) -> Any:
    """A new shape for the same elements; PyTorch has computed it."""
    if "dtype" in node:
        raise node.refuse("it reads the bits as another type")
    return R.reshape(node["self"], node.dims(node.shape))


@op("permute", "transpose", "t", "numpy_T", "permute_copy")
def permute(node: Node) -> Any:
    """Another order of the axes."""
    order = list(range(node.rank()))
    if "dims" in node:
        order = node.axes("dims")
    elif "dim0" in node:
        first, second = node.axis("dim0"), node.axis("dim1")
        if order:
            order[first], order[second] = order[second], order[first]
    else:
        order.reverse()
    return R.permute_dims(node["self"], order) if len(order) > 1 else node["self"]


@op("expand", "expand_as", "broadcast_to")
def expand(node: Node) -> Any:
    """Axes of length 1 repeated."""
    return R.broadcast_to(node["self"], node.dims(node.shape))


@op("cat", "concatenate")
def cat(node: Node) -> Any:
    """Joins tensors on an axis; PyTorch allows empty vectors among them."""
    joined: Any = node.fx.args[0]
    fakes = [argument.meta["val"] for argument in joined]
    rank = len(node.shape)
    kept = [
        node.cast(value, node.dtype)
        for value, fake in zip(node["tensors"], fakes)
        if fake.dim() == rank and not (rank == 1 and sizes.plain(fake.shape[0]) == 0)
    ]
    axis = node.axis(rank=rank)
    if not kept:
        return node.full(node.shape, 0, node.dtype)
    if len(kept) == 1:
        return kept[0]
    return R.concat(node.importer.shapes.of_one_size([node.emit(one) for one in kept], axis), axis)


@op("stack")
def stack(node: Node) -> Any:
    """Joins tensors on a new axis."""
    axis = node.axis(rank=len(node.shape))
    parts = [node.cast(value, node.dtype) for value in node["tensors"]]
    wide = [node.emit(R.expand_dims(part, [axis])) for part in parts]
    return R.concat(node.importer.shapes.of_one_size(wide, axis), axis)


@op("flip")
def flip(node: Node) -> Any:
    """Axes turned round."""
    x = node["self"]
    for axis in node.axes("dims"):
        x = node.emit(R.flip(x, axis))
    return x


@op("repeat", "tile")
def repeat(node: Node) -> Any:
    """A tensor repeated along its axes; there may be new ones in front."""
    counts = node["repeats" if "repeats" in node else "dims"]
    shape = node.shape_of("self")
    rank = max(len(counts), len(shape))
    shape = [1] * (rank - len(shape)) + shape
    counts = [1] * (rank - len(counts)) + counts
    doubled = [item for size in shape for item in (1, size)]
    spread = [item for size, count in zip(shape, counts) for item in (count, size)]
    wide = node.broadcast(node.reshape(node["self"], doubled), spread)
    return R.reshape(wide, node.dims(node.shape))


@op("repeat_interleave.self_int")
def repeat_interleave(node: Node) -> Any:
    """Every element of an axis repeated."""
    x, count = node["self"], node["repeats"]
    axis = node.axis() if "dim" in node else 0
    shape = node.shape_of("self") if "dim" in node else [sizes.product(node.shape_of("self"))]
    doubled = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
    spread = [*shape[: axis + 1], count, *shape[axis + 1 :]]
    return R.reshape(node.broadcast(node.reshape(x, doubled), spread), node.dims(node.shape))


@op("tril", "triu")
def triangle(node: Node) -> Any:
    """The lower or upper triangle; the rest is 0."""
    x, k, lower = node["self"], node["diagonal"], node.kind == "tril"
    if sizes.is_symbolic(k):
        rows, columns = (
            node.emit(R.arange(0, *node.dims([size]), dtype="int64")) for size in node.shape[-2:]
        )
        away = R.subtract(columns, node.emit(R.expand_dims(rows, [1])))
        inside = (R.less_equal if lower else R.greater_equal)(away, node.scalar(k, "int64"))
        return R.where(inside, x, node.scalar(0, node.dtype))
    make = R.tril if lower else R.triu
    if node.dtype == "bool":
        return node.cast(node.emit(make(node.cast(x, "int8"), k)), "bool")
    return make(x, k)


@op("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(node: Node) -> Any:
    """Channels become pixels, or the other way."""
    x = node["self"]
    *rest, channels, height, width = node.shape_of("self")
    count = len(rest)
    if "upscale_factor" in node:
        f = node["upscale_factor"]
        parts, order = [channels // (f * f), f, f, height, width], [0, 3, 1, 4, 2]
    else:
        f = node["downscale_factor"]
        parts, order = [channels, height // f, f, width // f, f], [0, 2, 4, 1, 3]
    moved = R.permute_dims(
        node.reshape(x, [*rest, *parts]), [*range(count), *(count + axis for axis in order)]
    )
    return R.reshape(moved, node.dims(node.shape))
