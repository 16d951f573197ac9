"""Pools."""

from __future__ import annotations

import math

from nexus_compiler.frontend.onnx import windows
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value

_MAX = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
_MEAN = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}


@op("MaxPool", "AveragePool")
def pool(node: Node) -> Value:
    """The largest element, or the mean, of each window."""
    x = node.tensor(0)
    shape, kernel = node.shape(x), node.attr("kernel_shape")
    if len(kernel) not in _MAX:
        raise node.refuse(f"it has {len(kernel)} spatial axes; 1, 2 and 3 are handled")
    window = windows.read(node, kernel, shape[2:])
    node.ignore("storage_order")  # it only concerns the second output, which `finish` refuses
    make = _MAX if node.kind == "MaxPool" else _MEAN
    return make[len(kernel)](
        x,
        pool_size=window.kernel,
        strides=window.strides,
        padding=window.pads,
        dilation=window.dilations,
        ceil_mode=bool(node.attr("ceil_mode", 0)),
        count_include_pad=bool(node.attr("count_include_pad", 0)),
    )


@op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node) -> Value:
    """The mean or the largest element of each channel."""
    x = node.tensor(0)
    make = R.mean if node.kind == "GlobalAveragePool" else R.max
    return make(x, list(range(2, node.rank(x))), True)


@op("LpPool")
def norm_pool(node: Node) -> Value:
    """The p-norm of each window."""
    x = node.tensor(0)
    dtype, p, kernel = node.dtype(x), node.attr("p"), node.attr("kernel_shape")
    window = windows.read(node, kernel, node.shape(x)[2:])
    if any(d != 1 for d in window.dilations) or node.attr("ceil_mode", 0):
        raise node.refuse("dilations and ceil_mode are not handled")
    powers = R.power(R.abs(x), node.scalar(p, dtype))
    mean = _MEAN[len(kernel)](
        powers,
        pool_size=window.kernel,
        strides=window.strides,
        padding=window.pads,
        count_include_pad=True,
    )
    total = R.multiply(mean, node.scalar(math.prod(kernel), dtype))
    return R.power(total, node.scalar(1 / p, dtype))


@op("GlobalLpPool")
def global_norm(node: Node) -> Value:
    """The p-norm of each channel."""
    x = node.tensor(0)
    dtype, p = node.dtype(x), node.attr("p")
    powers = R.power(R.abs(x), node.scalar(p, dtype))
    total = R.sum(powers, list(range(2, node.rank(x))), True)
    return R.power(total, node.scalar(1 / p, dtype))
