"""Pools."""

from __future__ import annotations

from functools import partial

from nexus_compiler.frontend.onnx import columns, windows
from nexus_compiler.frontend.onnx.conv import CONV
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value

_MAX = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
_MEAN = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}


@op("MaxPool", "AveragePool")
def pool(node: Node) -> Value | list[Value]:
    """The largest element, or the mean, of each window."""
    x = node.tensor(0)
    shape, kernel = node.shape(x), node.attr("kernel_shape")
    if len(kernel) not in _MAX:
        raise node.refuse(f"it has {len(kernel)} spatial axes; 1, 2 and 3 are handled")
    window = windows.read(node, kernel, shape[2:])
    if node.outputs > 1 and node.kind == "MaxPool":
        return columns.largest(node, x, window)
    node.ignore("storage_order")  # it only concerns the second output
    make = _MAX if node.kind == "MaxPool" else _MEAN
    make = partial(
        make[len(kernel)],
        pool_size=window.kernel,
        strides=window.strides,
        padding=window.pads,
        dilation=window.dilations,
        ceil_mode=bool(node.attr("ceil_mode", 0)),
        count_include_pad=bool(node.attr("count_include_pad", 0)),
    )
    return make(x) if node.kind == "MaxPool" else summed(node, make, x)


@op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node) -> Value:
    """The mean or the largest element of each channel."""
    x = node.tensor(0)
    axes = list(range(2, node.rank(x)))
    if node.kind == "GlobalMaxPool":
        return R.max(x, axes, True)
    return summed(node, lambda x: R.mean(x, axes, True), x)


@op("LpPool")
def norm_pool(node: Node) -> Value:
    """The p-norm of each window."""
    x = node.tensor(0)
    dtype, p, kernel = node.dtype(x), node.attr("p"), node.attr("kernel_shape")
    batch, channels, *spatial = node.shape(x)
    window = windows.read(node, kernel, spatial)
    pads = list(window.pads)
    if node.attr("ceil_mode", 0):
        counts = columns.counts(window, columns.image_of(node, x), ceil=True)
        for i, (size, count) in enumerate(zip(spatial, counts)):
            needed = (count - 1) * window.strides[i] + window.span(i) - size - pads[i]
            pads[len(kernel) + i] = max(pads[len(kernel) + i], needed)
    planes = [node.sizes.simple(batch * channels), 1, *spatial]
    powers = R.reshape(R.power(R.abs(x), node.scalar(p, dtype)), planes)
    # Sums are a convolution with ones.
    total = CONV[len(kernel)](
        node.emit(powers),
        node.emit(R.ones([1, 1, *kernel], dtype)),
        strides=window.strides,
        padding=pads,
        dilation=window.dilations,
    )
    total = node.emit(R.power(total, node.scalar(1 / p, dtype)))
    return R.reshape(total, [batch, channels, *node.shape(total)[2:]])


@op("GlobalLpPool")
def global_norm(node: Node) -> Value:
    """The p-norm of each channel."""
    x = node.tensor(0)
    dtype, p = node.dtype(x), node.attr("p")
    powers = R.power(R.abs(x), node.scalar(p, dtype))
    total = R.sum(powers, list(range(2, node.rank(x))), True)
    return R.power(total, node.scalar(1 / p, dtype))
