"""Operators that put windows back into images, and those that tell which pixel was the largest.

Which pixel belongs to which window is known while importing: it goes into constant tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import sampling
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host
from nexus_compiler.frontend.onnx.windows import Window
from nexus_runtime.errors import ShapeError


def counts(window: Window, image: Sequence[int], *, ceil: bool) -> list[int]:
    """How many windows fit on every axis; with `ceil`, the last may reach past the end."""
    rank, result = len(image), list[int]()
    for axis, size in enumerate(image):
        stride, before = window.strides[axis], window.pads[axis]
        room = size + before + window.pads[rank + axis] - window.span(axis)
        count = (-(-room // stride) if ceil else room // stride) + 1
        # No window may start behind the image.
        result.append(count - (ceil and (count - 1) * stride >= size + before))
    return result


def image_of(node: Node, x: relax.Expr) -> list[int]:
    """The sizes of the axes of `x` behind batch and channels."""
    sizes = node.shape(x)[2:]
    image = [size for size in sizes if isinstance(size, int)]
    if len(image) < len(sizes):
        raise node.refuse(f"its images must have fixed sizes, not {sizes}", "give `shapes=`")
    return image


def places(window: Window, image: Sequence[int], grid: Sequence[int]) -> np.ndarray:
    """The flat place in `image` of every tap of every window, -1 outside: `[windows, taps]`."""
    rank = len(image)
    result = np.zeros([*grid, *window.kernel], np.int64)
    outside = np.zeros_like(result, bool)
    for axis, size in enumerate(image):
        starts = np.arange(grid[axis]) * window.strides[axis] - window.pads[axis]
        own = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = own.shape
        own = own.reshape(shape)
        result = result * size + own
        outside |= (own < 0) | (own >= size)
    return np.where(outside, -1, result).reshape(math.prod(grid), -1)


@op("Col2Im")
def col2im(node: Node) -> Value:
    """Images from their windows; where windows overlap, they add up."""
    x = node.tensor(0)
    image = [int(size) for size in node.array(1).reshape(-1)]
    kernel = tuple(int(size) for size in node.array(2).reshape(-1))
    rank, taps = len(image), math.prod(kernel)
    pads = tuple(node.attr("pads") or [0] * (2 * rank))
    strides = tuple(node.attr("strides") or [1] * rank)
    window = Window(kernel, strides, tuple(node.attr("dilations") or [1] * rank), pads)
    grid = counts(window, image, ceil=False)
    batch, rows, blocks = node.shape(x)
    channels = node.sizes.floordiv(rows, taps)
    if node.sizes.equal(blocks, math.prod(grid)) is not True:
        raise ShapeError(f"{node} needs {math.prod(grid)} blocks, not {blocks}")
    table = _sources(places(window, image, grid), math.prod(image))
    # One more column, of zeros, for the pixels that fewer windows cover than others.
    flat = R.reshape(x, [batch, channels, taps * math.prod(grid)])
    flat = R.nn.pad(flat, [0, 0, 0, 0, 0, 1])
    found = R.take(flat, node.importer.tensor(host(table)), 2, mode="clip")
    return R.reshape(R.sum(found, [3]), [batch, channels, *image])


def _sources(targets: np.ndarray, pixels: int) -> np.ndarray:
    """For every pixel the (tap, window) pairs that end there, filled up with their number."""
    flat = targets.T.reshape(-1)  # taps before windows, as in the input
    order = np.argsort(flat, kind="stable")
    order = order[np.count_nonzero(flat < 0) :]
    times = np.bincount(flat[order], minlength=pixels)
    table = np.full((pixels, int(times.max(initial=0)) or 1), flat.size)
    first = np.cumsum(times) - times
    table[flat[order], np.arange(order.size) - first[flat[order]]] = order
    return table


def largest(node: Node, x: relax.Expr, window: Window) -> list[Value]:
    """The largest element of every window, and its place in the whole tensor."""
    batch, channels = node.shape(x)[:2]
    image = image_of(node, x)
    grid = counts(window, image, ceil=bool(node.attr("ceil_mode", 0)))
    table = places(window, image, grid)
    # A tap outside reads the first one inside: it can never win against it.
    inner = np.where(table >= 0, table, np.iinfo(np.int64).max).min(1, keepdims=True)
    table = np.where(table >= 0, table, inner)
    area, taps = math.prod(image), table.shape[1]
    flat = R.reshape(x, [batch, channels, area])
    found = node.emit(R.take(flat, node.importer.tensor(host(table)), 2, mode="clip"))
    winner = node.emit(R.argmax(found, 3))
    start = node.importer.tensor(host(np.arange(len(table)) * taps))
    pixel = _ordered(table, image) if node.attr("storage_order") else table
    place = R.take(
        node.importer.tensor(host(pixel.reshape(-1))), R.add(winner, start), 0, mode="clip"
    )
    planes = R.arange(0, node.sizes.simple(batch * channels), 1, "int64")
    planes = R.multiply(R.reshape(planes, [batch, channels, 1]), node.scalar(area, "int64"))
    shape: list[Size] = [batch, channels, *grid]
    return [R.reshape(R.max(found, [3]), shape), R.reshape(R.add(place, planes), shape)]


def _ordered(table: np.ndarray, image: Sequence[int]) -> np.ndarray:
    """Places counted with the first axis running fastest."""
    return np.ravel_multi_index(np.unravel_index(table, image), image, order="F")


@op("MaxUnpool")
def max_unpool(node: Node) -> Value:
    """Puts elements back to where MaxPool found them; the rest is 0."""
    x, indices = node.tensor(0), node.tensor(1)
    batch, channels, *spatial = node.static(x, "its input")
    kernel = node.attr("kernel_shape")
    rank = len(kernel)
    strides, pads = node.attr("strides") or [1] * rank, node.attr("pads") or [0] * (2 * rank)
    inner = [
        (size - 1) * strides[i] - pads[i] - pads[rank + i] + kernel[i]
        for i, size in enumerate(spatial)
    ]
    total = batch * channels * math.prod(inner)
    dtype = node.dtype(x)
    empty = node.emit(R.zeros([total], dtype))
    last = sampling.number(node, total - 1, "int64")
    inside = R.minimum(R.maximum(R.reshape(indices, [-1]), node.scalar(0, "int64")), last)
    filled = R.scatter_elements(empty, node.emit(inside), R.reshape(x, [-1]), 0, "update")
    result = R.reshape(filled, [batch, channels, *inner])
    if not node.has(2):
        return result
    # The places count in the smaller image: so ONNX's reference, unlike ONNX Runtime.
    target = [int(size) for size in node.array(2).reshape(-1)]
    grown = [max(a - b, 0) for a, b in zip(target, [batch, channels, *inner])]
    if [a + b for a, b in zip([batch, channels, *inner], grown)] != target:
        raise node.refuse(f"its output shape {target} is smaller than {[batch, channels, *inner]}")
    return R.nn.pad(node.emit(result), [item for size in grown for item in (0, size)])
