"""Pools and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from nexus_compiler.frontend.torch import sizes, windows
from nexus_compiler.frontend.torch.convolution import spread_conv
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.resize import along
from nexus_compiler.frontend.torch.values import R, is_float
from nexus_compiler.frontend.torch.windows import Window


def _spec(node: Node, rank: int) -> Window:
    kernel = node["kernel_size"]
    return windows.window(node, kernel * rank if len(kernel) == 1 else kernel)


def _batched(node: Node, name: str, rank: int) -> tuple[Any, list[Any]]:
    """An argument with a batch axis, and its shape."""
    shape = node.shape_of(name)
    if len(shape) == rank + 2:
        return node[name], shape
    return node.reshape(node[name], [1, *shape]), [1, *shape]


def _lowest(dtype: str) -> float:
    return float("-inf") if is_float(dtype) else int(np.iinfo(dtype).min)


@op("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(node: Node) -> Any:
    """The maximum of each window, and on demand where in the image it is."""
    rank = int(node.kind[len("max_pool")])
    spec, whole = _spec(node, rank), not node.kind.endswith("indices")
    x, shape = _batched(node, "self", rank)
    out = node.shape[-rank:]
    wide = (
        windows.padded(node, x, shape, spec, out, _lowest(node.dtype))
        if (windows.is_static(shape[2:]))
        else None
    )
    if not whole and node.reads(1):
        if wide is None:
            raise node.refuse("its indices are read and the size of its image is dynamic")
        return _with_indices(node, wide, spec, shape)
    make = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}[rank]
    if wide is None:
        border = (*spec.padding, *spec.padding)
        value = make(x, spec.kernel, spec.stride, border, spec.dilation, bool(node["ceil_mode"]))
    else:
        value = make(wide, spec.kernel, spec.stride, 0, spec.dilation)
    value = node.reshape(node.emit(value), node.shape)
    return value if whole else [value, None]


def _with_indices(node: Node, wide: Any, spec: Window, shape: Sequence[int]) -> list[Any]:
    """The windows' places compared one after another; of equal elements the first is named."""
    out = node.shape[-spec.rank :]
    # Where the first place of each window is in the flat image; beyond the border it may be < 0.
    steps = [int(np.prod(shape[axis + 3 :])) for axis in range(spec.rank)]
    lines = [
        (np.arange(out[a]) * spec.stride[a] - spec.padding[a]).reshape(
            [-1 if b == a else 1 for b in range(spec.rank)]
        )
        * steps[a]
        for a in range(spec.rank)
    ]
    base = node.constant(np.broadcast_to(reduce(np.add, lines), out).astype(np.int64))
    best: Any = None
    index: Any = None
    for place in spec.places():
        value = windows.tap(node, wide, spec, place, out)
        offset = sum(place[a] * spec.dilation[a] * steps[a] for a in range(spec.rank))
        here = node.emit(R.add(base, node.scalar(offset, "int64")))
        here = node.emit(R.broadcast_to(here, value.ty.shape))
        if best is None:
            best, index = value, here
        else:
            larger = node.emit(R.greater(value, best))
            index = node.emit(R.where(larger, here, index))
            best = node.emit(R.where(larger, value, best))
    return [node.reshape(best, node.shapes(0)), node.reshape(index, node.shapes(1))]


@op("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def max_pool_backward(node: Node) -> Any:
    """Each gradient goes to where the maximum was."""
    rank = int(node.kind[len("max_pool")])
    shape, grads = node.shape, node.shape_of("grad_output")
    rows = sizes.product(shape[:-rank])
    image, places = sizes.product(shape[-rank:]), sizes.product(grads[-rank:])
    zeros = node.full([rows, image], 0, node.dtype)
    indices = node.reshape(node["indices"], [rows, places])
    grad = node.reshape(node["grad_output"], [rows, places])
    summed = node.emit(R.scatter_elements(zeros, indices, grad, 1, "add"))
    return R.reshape(summed, node.dims(shape))


@op("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(node: Node) -> Any:
    """The mean of each window."""
    rank = int(node.kind[len("avg_pool")])
    spec = _spec(node, rank)
    x, shape = _batched(node, "self", rank)
    out = node.shape[-rank:]
    make = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}[rank]
    if not windows.is_static(shape[2:]):
        if node["ceil_mode"] or node.get("divisor_override"):
            raise node.refuse("the size of its image is dynamic and it rounds up")
        border = (*spec.padding, *spec.padding)
        include = bool(node["count_include_pad"])
        value = make(x, spec.kernel, spec.stride, border, spec.dilation, False, include)
        return R.reshape(node.emit(value), node.dims(node.shape))
    wide = windows.padded(node, x, shape, spec, out, 0)
    value = node.emit(make(wide, spec.kernel, spec.stride, 0, spec.dilation))
    factor = int(np.prod(spec.kernel)) / _divisors(node, spec, shape[2:], out)
    if not (factor == 1).all():
        value = R.multiply(value, node.constant(factor.astype(dtype_of(value))))
    return R.reshape(value, node.dims(node.shape))


def _divisors(node: Node, spec: Window, image: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """What the sum of each window is divided by."""
    if override := node.get("divisor_override"):
        return np.full(out, override)
    counts: list[np.ndarray] = []
    for axis in range(spec.rank):
        start = np.arange(out[axis]) * spec.stride[axis] - spec.padding[axis]
        end = np.minimum(start + spec.kernel[axis], image[axis] + spec.padding[axis])
        if not node["count_include_pad"]:
            start, end = np.maximum(start, 0), np.minimum(end, image[axis])
        line = [-1 if other == axis else 1 for other in range(spec.rank)]
        counts.append((end - start).reshape(line))
    return np.broadcast_to(reduce(np.multiply, counts), out)


@op("avg_pool2d_backward", "avg_pool3d_backward")
def avg_pool_backward(node: Node) -> Any:
    """Each gradient goes in equal parts to the elements of its window."""
    rank = int(node.kind[len("avg_pool")])
    spec = _spec(node, rank)
    grad, shape = _batched(node, "grad_output", rank)
    image = node.shape[-rank:]
    if not windows.is_static([*shape[1:], *image]):
        raise node.refuse("the size of its image is dynamic")
    parts = (1 / _divisors(node, spec, image, shape[2:])).astype(node.dtype)
    parts = parts.reshape(-1)[:1].reshape(()) if (parts == parts.flat[0]).all() else parts
    grad = node.emit(R.multiply(grad, node.constant(parts)))
    ones = node.full([shape[1], 1, *spec.kernel], 1, node.dtype)
    whole = spread_conv(node, grad, shape, ones, [shape[1], 1], spec, image)
    return R.reshape(whole, node.dims(node.shape))


@op(
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
)
def adaptive_avg_pool(node: Node) -> Any:
    """Means of as many parts of each axis as are asked for."""
    rank = len(node["output_size"])
    x, image, out = node["self"], node.shape_of("self")[-rank:], node.shape[-rank:]
    first = node.rank() - rank
    if all(size == 1 for size in out):
        return R.mean(x, list(range(first, node.rank())), True)
    if not windows.is_static([*image, *out]):
        raise node.refuse("the size of its image is dynamic")
    for axis in range(rank):
        x = along(node, x, first + axis, _means(image[axis], out[axis]))
    return x


def _means(length: int, parts: int) -> np.ndarray:
    matrix = np.zeros((length, parts))
    for part in range(parts):
        begin, end = part * length // parts, -(-(part + 1) * length // parts)
        matrix[begin:end, part] = 1 / (end - begin)
    return matrix


@op("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
def adaptive_avg_pool_backward(node: Node) -> Any:
    """Each gradient goes in equal parts to the elements of its part."""
    rank = int(node.kind[len("_adaptive_avg_pool")])
    x, image, out = node["grad_output"], node.shape[-rank:], node.shape_of("grad_output")[-rank:]
    if not windows.is_static([*image, *out]):
        raise node.refuse("the size of its image is dynamic")
    for axis in range(rank):
        first = len(node.shape) - rank
        x = along(node, x, first + axis, _means(image[axis], out[axis]).T)
    return x
