"""Operators that take tensors apart, or replace a part."""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R


def cut(node: Node, x: Any, axis: int, begin: Size, end: Size, step: int = 1) -> relax.Var:
    """A part of one axis; the bounds are inside of it."""
    begins, ends = node.dims([begin]), node.dims([end])
    return node.emit(R.strided_slice(x, [axis], begins, ends, [step], assume_inbound=True))


@op("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "tensor_split")
def split(node: Node) -> list[Any]:
    """Parts of an axis, with the sizes that PyTorch has computed."""
    axis, begin = node.axis(), 0
    parts: list[Any] = []
    x = node["self"]
    for index in range(len(node.out)):
        end = begin + node.shapes(index)[axis]
        parts.append(cut(node, x, axis, begin, end) if len(node.out) > 1 else x)
        begin = end
    return parts


@op("unbind")
def unbind(node: Node) -> list[Any]:
    """The elements of an axis."""
    axis = node.axis()
    return [
        node.reshape(cut(node, node["self"], axis, index, index + 1), node.shapes(index))
        for index in range(len(node.out))
    ]


def _from_start(node: Node, place: Size, size: Size) -> Size:
    return place + size if sizes.is_negative(place) else place


@op("slice", "slice_copy")
def slice_(node: Node) -> Any:
    """A part of an axis, as Python's slices."""
    axis, x = node.axis(), node["self"]
    size, length = node.shape_of("self")[axis], node.shape[axis]
    begin, step = slice_start(node, size), node["step"]
    if step == 1 and length == size:
        return x
    if length == 0:
        return node.full(node.shape, 0, node.dtype)
    return cut(node, x, axis, begin, begin + (length - 1) * step + 1, step)


def slice_start(node: Node, size: Size) -> Size:
    """The start of a slice, counted from the front and inside of an axis of `size`."""
    start = node.get("start", 0)
    place = _from_start(node, start, size)
    if isinstance(place, int) and isinstance(size, int):
        return min(max(place, 0), size)
    return 0 if sizes.is_negative(place) else place


@op("narrow")
def narrow(node: Node) -> Any:
    """A part of an axis, by its start and length."""
    axis = node.axis()
    begin = _from_start(node, node["start"], node.shape_of("self")[axis])
    return cut(node, node["self"], axis, begin, begin + node.shape[axis])


@op("select", "select_copy")
def select(node: Node) -> Any:
    """One element of an axis."""
    axis = node.axis()
    place = _from_start(node, node["index"], node.shape_of("self")[axis])
    return node.reshape(cut(node, node["self"], axis, place, place + 1), node.shape)


@op("roll")
def roll(node: Node) -> Any:
    """Elements moved along axes; what falls off comes back at the front."""
    x, shape = node["self"], node.shape
    if not node["dims"]:
        x, shape = node.reshape(x, [sizes.product(shape)]), [sizes.product(shape)]
    for given, axis in zip(node["shifts"], node["dims"] or [0]):
        size = shape[axis]
        shift = given % max(size, 1) if isinstance(size, int) else given
        if shift == 0:
            continue
        border = -shift if sizes.is_negative(shift) else size - shift
        place = axis % len(shape)
        parts = [cut(node, x, place, border, size), cut(node, x, place, 0, border)]
        x = node.emit(R.concat(parts, place))
    return node.reshape(x, node.shape)


@op("slice_scatter", "select_scatter")
def slice_scatter(node: Node) -> Any:
    """A part of an axis replaced by another tensor."""
    axis, x, source = node.axis(), node["self"], node.cast(node["src"], node.dtype)
    size = node.shape[axis]
    shape = list(node.shape)
    if "index" in node:
        begin, length, step = _from_start(node, node["index"], size), 1, 1
        shape[axis] = 1
        source = node.reshape(source, shape)
    else:
        length, step = node.shape_of("src")[axis], node["step"]
        begin = slice_start(node, size)
    if step != 1:
        return _scatter_steps(node, x, source, axis, begin, step)
    end = begin + length
    parts = [] if begin == 0 else [cut(node, x, axis, 0, begin)]
    parts.append(source)
    parts += [] if end == size else [cut(node, x, axis, end, size)]
    return R.concat(parts, axis) if len(parts) > 1 else source


def _scatter_steps(node: Node, x: Any, source: Any, axis: int, begin: Size, step: int) -> Any:
    places = node.emit(R.arange(0, *node.dims([node.shape_of("src")[axis]]), dtype="int64"))
    places = R.add(R.multiply(places, node.scalar(step, "int64")), node.scalar(begin, "int64"))
    line = [1] * node.rank()
    line[axis] = node.shape_of("src")[axis]
    indices = node.broadcast(node.reshape(node.emit(places), line), node.shape_of("src"))
    return R.scatter_elements(x, indices, source, axis)


@op("unfold")
def unfold(node: Node) -> Any:
    """Windows over an axis, on a new last axis."""
    axis = node.axis("dimension")
    size, step = node["size"], node["step"]
    count = node.shape[axis]
    last = (count - 1) * step
    taps = [cut(node, node["self"], axis, i, i + last + 1, step) for i in range(size)]
    rank = node.rank()
    return R.concat([node.emit(R.expand_dims(tap, [rank])) for tap in taps], rank)


@op("diagonal", "diagonal_copy")
def diagonal(node: Node) -> Any:
    """A diagonal of two axes, as the last axis."""
    first, second = node.axis("dim1"), node.axis("dim2")
    rows, columns = (node.shape_of("self")[axis] for axis in (first, second))
    order = [a for a in range(node.rank()) if a not in {first, second}] + [first, second]
    x = node.emit(R.permute_dims(node["self"], order))
    rest = [node.shape_of("self")[axis] for axis in order[:-2]]
    flat = node.reshape(x, [*rest, rows * columns])
    offset, length = node["offset"], node.shape[-1]
    begin = offset if offset >= 0 else -offset * columns
    end = begin + (length - 1) * (columns + 1) + 1
    return cut(node, flat, len(rest), begin, end, columns + 1)
