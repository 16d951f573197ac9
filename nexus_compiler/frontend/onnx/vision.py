"""Operators on images that read them at places which they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import sampling, windows
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sampling import Taps
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host

_MODES = {
    **{"nearest": "nearest", "linear": "linear", "bilinear": "linear"},
    **{"cubic": "cubic", "bicubic": "cubic"},
}


@op("GridSample")
def grid_sample(node: Node) -> Value:
    """Samples an image at the places of a grid; from -1 to 1 is the whole image."""
    x, grid = node.tensors()
    spatial = node.shape(x)[2:]
    mode, padding = _MODES.get(node.attr("mode")), node.attr("padding_mode")
    if mode is None or padding not in {"zeros", "border", "reflection"}:
        raise node.refuse(f"its mode is '{node.attr('mode')}' and its padding_mode '{padding}'")
    corners = bool(node.attr("align_corners"))
    places = node.shape(grid)[1:-1]
    flat = R.reshape(grid, [node.shape(grid)[0], node.sizes.product(places), len(spatial)])
    columns = node.emit(R.split(flat, len(spatial), 2))
    axes: list[Taps] = []
    for axis, size in enumerate(spatial):
        # The last number of the grid is for the first axis.
        column = R.squeeze(relax.TupleGetItem(columns, len(spatial) - 1 - axis), [2])
        at = _in_pixels(node, node.emit(column), size, corners)
        at = node.emit(R.round(at)) if mode == "nearest" else at
        at = _bounded(node, at, size, corners, padding)
        found = sampling.taps(node, at, mode)
        axes.append(Taps(_bounded(node, found.places, size, corners, padding), found.weights))
    result = sampling.sample(node, x, axes, zeros=padding == "zeros")
    return sampling.unflatten(node, result, places)


def _in_pixels(node: Node, x: relax.Expr, size: Size, corners: bool) -> relax.Expr:
    dtype = node.dtype(x)
    one, half = node.scalar(1, dtype), node.scalar(0.5, dtype)
    whole = sampling.number(node, node.sizes.simple(size - 1 if corners else size), dtype)
    moved = R.multiply(R.add(x, one), whole)
    return node.emit(R.multiply(moved if corners else R.subtract(moved, one), half))


def _bounded(node: Node, x: relax.Expr, size: Size, corners: bool, padding: str) -> relax.Expr:
    """Coordinates reflected into the image. Else they stay: a tap outside is an edge, or 0."""
    if padding != "reflection" or (corners and node.sizes.equal(size, 1) is True):
        return x
    # A wave that goes up and down between the borders.
    dtype = node.dtype(x)
    low = node.scalar(0 if corners else -0.5, dtype)
    length = sampling.number(node, node.sizes.simple(size - 1 if corners else size), dtype)
    period = node.emit(R.add(length, length))
    turn = node.emit(R.subtract(x, low))
    turn = R.subtract(turn, R.multiply(R.floor(R.divide(turn, period)), period))
    inner = R.add(R.subtract(length, R.abs(R.subtract(turn, length))), low)
    # Inside, not even the last digit may change.
    outside = R.logical_or(R.less(x, low), R.greater(x, R.add(low, length)))
    return node.emit(R.where(outside, inner, x))


@op("DeformConv")
def deform_conv(node: Node) -> Value:
    """A convolution whose taps are each moved by an offset, and scaled by a mask."""
    x, weight, offset = (node.tensor(i) for i in range(3))
    batch, channels, *spatial = node.shape(x)
    outputs, _, *kernel = node.static(weight, "its weight")
    if len(kernel) != 2 or not isinstance(channels, int):
        raise node.refuse("only images with two axes and a known number of channels are handled")
    node.ignore("kernel_shape")
    if node.dtype(x) == "float16":
        raise node.refuse("its coordinates would not fit float16")
    window = windows.read(node, kernel, spatial)
    groups, parts = node.attr("group"), node.attr("offset_group")
    grid = node.static(offset, "its offsets")[2:]
    count = math.prod(kernel)
    rows, area = node.sizes.simple(batch * parts), math.prod(grid)
    offset = node.emit(R.reshape(offset, [rows, count, 2, area]))
    axes: list[Taps] = []
    for axis in range(2):
        start = _starts(node, window, axis, grid)
        own = R.squeeze(R.strided_slice(offset, [2], [axis], [axis + 1], [1]), [2])
        at = R.reshape(R.add(own, start), [rows, count * area])
        axes.append(sampling.taps(node, node.emit(at), "linear"))
    images = node.emit(R.reshape(x, [rows, channels // parts, *spatial]))
    found = sampling.sample(node, images, axes, zeros=True)
    if node.has(4):
        mask = R.reshape(node.tensor(4), [rows, count * area, 1])
        found = node.emit(R.multiply(found, mask))
    columns = R.permute_dims(R.reshape(found, [rows, count, area, channels // parts]), [0, 3, 1, 2])
    columns = R.reshape(columns, [batch, groups, channels // groups * count, area])
    kernels = R.reshape(weight, [groups, outputs // groups, channels // groups * count])
    result = R.reshape(R.matmul(kernels, columns), [batch, outputs, *grid])
    return R.add(result, R.reshape(node.tensor(3), [outputs, 1, 1])) if node.has(3) else result


def _starts(node: Node, window: windows.Window, axis: int, sizes: Sequence[int]) -> relax.Expr:
    """Where the taps lie on `axis` without offsets: `[taps, outputs]`."""
    steps = np.arange(sizes[axis]) * window.strides[axis] - window.pads[axis]
    places = np.arange(window.kernel[axis]) * window.dilations[axis]
    both = places[:, None] + steps  # [taps of the axis, outputs of the axis]
    shape = [1, 1, 1, 1]
    shape[axis], shape[axis + 2] = both.shape
    full = np.broadcast_to(both.reshape(shape), [*window.kernel, *sizes])
    flat = full.reshape(math.prod(window.kernel), math.prod(sizes))
    return node.importer.tensor(host(flat.astype(node.dtype(2))))
