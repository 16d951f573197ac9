"""3 x 3 convolutions with a quarter of the multiplications.

F(4 x 4, 3 x 3) of Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): tiles
of 6 x 6 pixels are transformed, 36 matrix products over the channels take the place of the windows,
and the inverse transform gives 4 x 4 results a tile. The transformed kernels follow from weights
and are made once at load. Rounding errors are about ten times those of the direct sum.

The definitions here are plain sums; `schedules/winograd.py` writes their loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx, topi

from nexus_compiler.codegen.llvm.schedules import build
from nexus_compiler.codegen.llvm.schedules.winograd import (
    INPUT,
    INVERSE,
    OUTPUT,
    RESULTS,
    TAPS,
    TILE,
    TRANSFORM,
)

_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    "float32",
)
# Costs in multiply-adds: of a byte from memory, and of one element that a transform moves.
_BYTE, _MOVED = 5, 16
_MADE = 60  # of an element of a kernel, where each call has to transform it
_GAIN = 1.25


def fits(call: relax.Call) -> bool:
    """Whether a convolution in NHWC order can be taken so."""
    attrs, (high, wide, *_) = call.attrs, (int(n) for n in call.args[1].ty.shape)
    steps = [int(n) for n in (*attrs.strides, *attrs.dilation)]
    sizes = [build.known(n) for n in list(call.ty.shape)[:3]]
    return (high, wide) == (TAPS, TAPS) and steps == [1] * 4 and all(sizes)


def tile_count(call: relax.Call) -> int:
    """Tiles of one that fits."""
    n, rows, columns = (int(size) for size in list(call.ty.shape)[:3])
    return n * -(-rows // RESULTS) * -(-columns // RESULTS)


def pays(call: relax.Call, *, changing: bool = False) -> bool:
    """Whether one that fits is worth it: small images only move larger kernels.

    `changing` kernels are transformed in each call.
    """
    channels, filters = (int(n) for n in list(call.args[1].ty.shape)[2:])
    n, rows, columns = (int(size) for size in list(call.ty.shape)[:3])
    pairs, tiles = channels * filters, tile_count(call)
    direct = pairs * TAPS * TAPS * (n * rows * columns + 4 * _BYTE)
    moved = tiles * (channels + filters) * TILE * TILE * _MOVED
    made = 4 * _BYTE + (_MADE if changing else 0)
    return direct > _GAIN * (pairs * TILE * TILE * (tiles + made) + moved)


def kernels(weight: te.Tensor, matrix: te.Tensor, width: int) -> te.Tensor:
    """w[3, 3, channels, filters] as [filters / width, 6, 6, channels, width]."""
    *_, channels, filters = weight.shape
    i, j = (te.reduce_axis((0, TAPS), name) for name in "ij")
    count = -(-int(filters) // width)

    def along(tile: Any, a: Any, b: Any, c: Any, lane: Any) -> Any:
        column = tile * width + lane
        if int(filters) % width:
            column = tirx.min(column, filters - 1)
        return te.sum(matrix[a, i] * weight[i, b, c, column], axis=i)

    # In the order of the result, so that a part of it is used while it is in the cache.
    half = te.compute((count, TILE, TAPS, channels, width), along, "half")

    def element(tile: Any, a: Any, b: Any, c: Any, lane: Any) -> Any:
        return te.sum(matrix[b, j] * half[tile, a, j, c, lane], axis=j)

    return te.compute((count, TILE, TILE, channels, width), element, "kernels")


def matrix() -> relax.Constant:
    """The transform of kernels, [6, 3]."""
    return relax.const(_KERNEL)


def transformed(x: te.Tensor, rows: int, columns: int, padding: list[int]) -> te.Tensor:
    """x[n, height, width, channels] as [6, 6, tiles, channels]."""
    n, high, wide, channels = x.shape
    down, across = -(-rows // RESULTS), -(-columns // RESULTS)
    ends = [down * RESULTS + 2 - high - padding[0], across * RESULTS + 2 - wide - padding[1]]
    x = topi.nn.pad(x, [0, *padding[:2], 0], [0, *ends, 0], name="padded")
    i, j = (te.reduce_axis((0, TILE), name) for name in "ij")

    def element(a: Any, b: Any, tile: Any, c: Any) -> Any:
        image, y, z = build.unflatten(tile, [n, down, across])
        value = x[image, y * RESULTS + i, z * RESULTS + j, c]
        return te.sum(_at(TRANSFORM, a, i) * _at(TRANSFORM, b, j) * value, axis=[i, j])

    return te.compute((TILE, TILE, n * down * across, channels), element, INPUT)


def products(values: te.Tensor, packed: te.Tensor, filters: int) -> te.Tensor:
    """[6, 6, tiles, channels] times transformed kernels: [6, 6, tiles, filters]."""
    width = packed.shape[-1]
    c = te.reduce_axis((0, values.shape[-1]), "c")

    def element(a: Any, b: Any, tile: Any, o: Any) -> Any:
        right = packed[tirx.floordiv(o, width), a, b, c, tirx.floormod(o, width)]
        return te.sum(values[a, b, tile, c] * right, axis=c)

    return te.compute((*values.shape[:-1], filters), element, "products")


def results(values: te.Tensor, n: int, rows: int, columns: int) -> te.Tensor:
    """[6, 6, tiles, filters] as [n, rows, columns, filters]."""
    down, across = -(-rows // RESULTS), -(-columns // RESULTS)
    a, b = (te.reduce_axis((0, TILE), name) for name in "ab")

    def element(image: Any, y: Any, x: Any, o: Any) -> Any:
        place = [tirx.floordiv(y, RESULTS), tirx.floordiv(x, RESULTS)]
        tile = (image * down + place[0]) * across + place[1]
        left = _at(INVERSE, tirx.floormod(y, RESULTS), a)
        right = _at(INVERSE, tirx.floormod(x, RESULTS), b)
        return te.sum(left * right * values[a, b, tile, o], axis=[a, b])

    return te.compute((n, rows, columns, values.shape[-1]), element, OUTPUT)


def _at(table: list[list[float]], row: Any, column: Any) -> Any:
    """An element of a constant matrix at an index that a loop tells."""
    value: Any = tirx.const(0.0, "float32")
    for i, line in enumerate(table):
        for j, number in enumerate(line):
            if number:
                here = tirx.all(row == i, column == j)
                value = tirx.Select(here, tirx.const(number, "float32"), value)
    return value
