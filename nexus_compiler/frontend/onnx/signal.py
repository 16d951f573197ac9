"""Fourier transforms and what goes with them.

A transform of a known length is a matrix product with its constant matrix, which every target
multiplies fast. Complex numbers are the two elements of a last axis.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import (
    R,
    Value,
    element_type,
    host,
    is_float,
    numpy_dtype,
)
from nexus_runtime.errors import ShapeError

LONGEST = 1 << 12
"""A longer transform would be a matrix of more than 128 MiB."""


@op("DFT")
def fourier(node: Node) -> Value:
    """The discrete Fourier transform along one axis, or its inverse."""
    x = node.tensor(0)
    rank = node.rank(x)
    if node.opset >= 20:
        axis = node.axis(rank, int(node.array(2).reshape(-1)[0]) if node.has(2) else -2)
    else:
        axis = node.axis(rank, node.attr("axis"))
    if axis == rank - 1:
        raise node.refuse("its axis is the last one, which holds real and imaginary parts")
    inverse, onesided = bool(node.attr("inverse")), bool(node.attr("onesided"))
    size = node.shape(x)[axis]
    if not isinstance(size, int):
        raise node.refuse(
            f"the length of its axis, {size}, depends on the input", "fix it with `shapes=`"
        )
    length = 2 * (size - 1) if inverse and onesided else size
    if node.has(1):
        length = int(node.array(1).reshape(-1)[0])
    used = min(size, length // 2 + 1 if inverse and onesided else length)
    if used < size:
        x = node.emit(R.strided_slice(x, [axis], [0], [used], [1], assume_inbound=True))
    if inverse and onesided:
        matrix = _folded(node, used, length)
    else:
        results = length // 2 + 1 if onesided else length
        matrix = _matrix(node, used, length, results, inverse)
    return _transformed(node, x, axis, matrix)


def _matrix(node: Node, used: int, length: int, results: int, inverse: bool) -> np.ndarray:
    """From (place, part) of a signal to (frequency, part): `[used, 2, results, 2]`."""
    angles = _angles(node, used, length, results) * (1 if inverse else -1)
    cos, sin = np.cos(angles), np.sin(angles)
    whole = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return whole / length if inverse else whole


def _folded(node: Node, used: int, length: int) -> np.ndarray:
    """From half a spectrum to its real signal: `[used, 2, length, 1]`.

    A frequency that is not its own mirror image counts twice.
    """
    angles = _angles(node, used, length, length)
    twice = np.where(2 * np.arange(used) % length == 0, 1.0, 2.0)[:, None]
    return np.stack([twice * np.cos(angles), -twice * np.sin(angles)], 1)[..., None] / length


def _angles(node: Node, rows: int, length: int, columns: int) -> np.ndarray:
    if not 0 < length <= LONGEST:
        raise node.refuse(f"its length is {length}; 1 to {LONGEST} are handled")
    # Whole turns go in integers: of large angles, cosines lose digits.
    turns = np.outer(np.arange(rows), np.arange(columns)) % length
    return turns * (2 * np.pi / length)


def _transformed(node: Node, x: relax.Expr, axis: int, matrix: np.ndarray) -> relax.Expr:
    """`matrix` applied to the elements of (`axis`, last axis)."""
    shape, rank, dtype = node.shape(x), node.rank(x), node.dtype(x)
    if shape[-1] not in (1, 2):
        raise ShapeError(f"{node} takes a last axis of length 1 or 2, not {shape[-1]}")
    matrix = matrix[:, : shape[-1]]
    used, parts, results, width = matrix.shape
    order = [*(i for i in range(rank - 1) if i != axis), axis, rank - 1]
    others = [shape[i] for i in order[:-2]]
    rows = R.reshape(R.permute_dims(x, order), [*others, used * parts])
    weight = host(matrix.reshape(used * parts, results * width).astype(numpy_dtype(dtype)), dtype)
    product = node.emit(R.matmul(rows, node.importer.tensor(weight)))
    product = R.reshape(product, [*others, results, width])
    return R.permute_dims(product, np.argsort(order).tolist())


@op("STFT")
def short_time_fourier(node: Node) -> Value:
    """Fourier transforms of the frames of a signal `[batch, length, 1 or 2]`."""
    x = node.tensor(0)
    if node.rank(x) == 2:
        x = node.emit(R.expand_dims(x, [2]))
    batch, size, parts = node.shape(x)
    step = int(node.array(1).reshape(-1)[0])
    window = node.tensor(2) if node.has(2) else None
    length: Size = size if window is None else node.shape(window)[0]
    if node.has(3):
        length = int(node.array(3).reshape(-1)[0])
    if not isinstance(length, int):
        raise node.refuse("the length of its frames depends on the input")
    if window is not None and node.sizes.equal(node.shape(window)[0], length) is not True:
        raise node.refuse(f"its window is {node.shape(window)[0]} and its frames {length} long")
    count = node.sizes.simple(node.sizes.floordiv(size - length, step) + 1)
    places = node.emit(R.take(x, _places(node, count, step, length), 1, mode="clip"))
    frames = R.reshape(places, [batch, count, length, parts])
    if window is not None:
        frames = R.multiply(frames, R.reshape(window, [length, 1]))
    results = length // 2 + 1 if node.attr("onesided") else length
    return _transformed(node, node.emit(frames), 2, _matrix(node, length, length, results, False))


def _places(node: Node, count: Size, step: int, length: int) -> relax.Expr:
    """Which elements the frames hold, one frame after the other."""
    inner = np.arange(length)
    if isinstance(count, int):
        return node.importer.tensor(host((np.arange(count)[:, None] * step + inner).reshape(-1)))
    starts = R.multiply(R.arange(0, count, 1, "int64"), node.scalar(step, "int64"))
    both = R.add(R.expand_dims(starts, [1]), node.importer.tensor(host(inner)))
    return node.emit(R.reshape(both, [node.sizes.simple(count * length)]))


@op("MelWeightMatrix")
def mel_weights(node: Node) -> Value:
    """Triangles that are equally wide in mels, over the frequencies of a transform."""
    bins, length, rate, low, high = (node.array(i).reshape(-1)[0].item() for i in range(5))
    dtype = element_type(node.attr("output_datatype"), str(node))
    if not is_float(dtype):
        raise node.refuse(f"its output type is {dtype}")
    mels = 2595 * np.log10(1 + np.array([low, high]) / 700)
    # ONNX's own steps are a bin too small: it divides by the count of edges.
    edges = mels[0] + np.arange(bins + 2) * (mels[1] - mels[0]) / (bins + 2)
    edges = ((length + 1) * 700 * (10 ** (edges / 2595) - 1) // rate).astype(int)
    result = np.zeros((length // 2 + 1, bins))
    for column, (left, top, right) in enumerate(zip(edges, edges[1:], edges[2:])):
        rising, falling = np.arange(left, top + 1), np.arange(top, right)
        result[rising, column] = (rising - left) / (top - left) if top > left else 1.0
        if right > top:
            result[falling, column] = (right - falling) / (right - top)
    return host(result.astype(numpy_dtype(dtype)), dtype)
