"""Pools over regions of images that the input names."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import sampling
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sampling import Taps
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host


@op("RoiAlign")
def roi_align(node: Node) -> Value:
    """The mean (or largest tap) of a grid of samples in every cell of a region."""
    x, rois, owners = (node.tensor(i) for i in range(3))
    cells = node.attr("output_height"), node.attr("output_width")
    count, mode = node.attr("sampling_ratio"), node.attr("mode")
    mapping = node.attr("coordinate_transformation_mode", "output_half_pixel")
    if mode not in {"avg", "max"} or mapping not in {"half_pixel", "output_half_pixel"}:
        raise node.refuse(f"its mode is '{mode}' and its coordinates are '{mapping}'")
    aligned = node.opset >= 16 and mapping == "half_pixel"
    scale, shift = (
        node.scalar(number, node.dtype(rois))
        for number in (node.attr("spatial_scale"), 0.5 if aligned else 0.0)
    )
    rois = node.emit(R.subtract(R.multiply(rois, scale), shift))
    if count <= 0:
        if mode == "max":
            raise node.refuse("mode 'max' needs a sampling_ratio above 0")
        # How many samples a cell has depends on the region: this is a kernel of TVM's.
        columns = [R.expand_dims(R.astype(owners, node.dtype(rois)), [1]), rois]
        return R.vision.roi_align(x, R.concat(columns, 1), cells, 1.0, 0, aligned, "NCHW", "avg")
    corners = _corners(node, rois)
    grids = [
        _axis(node, corners[axis], corners[axis + 2], (cells[axis], count), aligned)
        for axis in (0, 1)
    ]
    return _pooled(node, x, grids, cells, mode)


def _corners(node: Node, rois: relax.Expr) -> list[relax.Expr]:
    """Top, left, bottom and right of every region, `[regions, 1]` each."""
    edges = node.emit(R.split(rois, 4, 1))
    return [node.emit(relax.TupleGetItem(edges, i)) for i in (1, 0, 3, 2)]


def _axis(
    node: Node, begin: relax.Expr, end: relax.Expr, grid: tuple[int, int], aligned: bool
) -> relax.Expr:
    """The coordinates of the samples of one axis, `[regions, cells * samples]`."""
    dtype, (cells, count) = node.dtype(begin), grid
    length = R.subtract(end, begin)
    if not aligned:  # a region is at least a pixel wide
        length = R.maximum(length, node.scalar(1, dtype))
    # In this order, ONNX Runtime's: at the border, rounding decides what is outside.
    cell = node.emit(R.divide(length, node.scalar(cells, dtype)))
    first = np.repeat(np.arange(cells), count).astype(dtype)
    inner = np.tile(np.arange(count) + 0.5, cells).astype(dtype)
    start = R.add(begin, R.multiply(node.importer.tensor(host(first)), cell))
    step = R.divide(R.multiply(node.importer.tensor(host(inner)), cell), node.scalar(count, dtype))
    return node.emit(R.add(start, step))


def _clipped(node: Node, at: relax.Expr, size: Size) -> tuple[Taps, relax.Expr]:
    """The two taps of every coordinate, and whether it is within a pixel of the image."""
    dtype = node.dtype(at)
    near = R.greater_equal(at, node.scalar(-1, dtype))
    near = node.emit(R.logical_and(near, R.less_equal(at, sampling.number(node, size, dtype))))
    return sampling.taps(node, sampling.limited(node, at, size), "linear"), near


def _pooled(
    node: Node, x: relax.Expr, grids: list[relax.Expr], cells: tuple[int, int], mode: str
) -> relax.Expr:
    spatial, dtype = node.shape(x)[2:], node.dtype(x)
    high, wide = node.shape(grids[0])[1], node.shape(grids[1])[1]
    axes: list[Taps] = []
    inside: list[relax.Expr] = []
    for axis, (grid, size) in enumerate(zip(grids, spatial)):
        # Every row of samples with every column.
        shape = [node.shape(grid)[0], high, wide]
        spread = R.broadcast_to(R.expand_dims(grid, [2 - axis]), shape)
        flat = node.emit(R.reshape(spread, [shape[0], high * wide]))
        found, near = _clipped(node, flat, size)
        axes.append(found)
        inside.append(near)
    owners = R.astype(node.tensor(2), "int64")
    near = R.expand_dims(R.logical_and(*inside), [2, 3])
    weights = sampling.outer(node, R.multiply, axes[0].weights, axes[1].weights)
    found = sampling.pixels(node, x, [axis.places for axis in axes], node.emit(owners))
    assert weights is not None
    parts = R.multiply(found, R.astype(R.expand_dims(weights, [3]), dtype))
    parts = node.emit(R.where(near, parts, node.scalar(0, dtype)))
    regions, _, taps, channels = node.shape(parts)
    split = [regions, cells[0], high // cells[0], cells[1], wide // cells[1], taps, channels]
    parts = R.reshape(parts, split)
    if mode == "avg":
        count = node.scalar((high // cells[0]) * (wide // cells[1]), dtype)
        pooled = R.divide(R.sum(parts, [2, 4, 5]), count)
    else:  # of the weighted taps, not of the samples: so ONNX's reference and ONNX Runtime
        pooled = R.max(parts, [2, 4, 5])
    return R.permute_dims(pooled, [0, 3, 1, 2])


@op("MaxRoiPool")
def max_roi_pool(node: Node) -> Value:
    """The largest element of every cell of a region."""
    x, rois = node.tensors()
    return R.vision.roi_pool(x, rois, tuple(node.attr("pooled_shape")), node.attr("spatial_scale"))
