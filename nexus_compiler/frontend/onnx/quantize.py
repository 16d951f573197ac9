"""Quantised operators, spelled out in ordinary arithmetic."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import windows
from nexus_compiler.frontend.onnx.conv import CONV, kernel_of
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value, element_type, is_float


@op("QuantizeLinear")
def quantize(node: Node) -> Value:
    """round(x / scale) + zero point, limited to the type."""
    x, scale = node.tensor(0), node.tensor(1)
    number = node.attr("output_dtype", 0)
    zero = node.tensor(2) if node.has(2) else None
    dtype = node.dtype(zero) if zero is not None else "uint8"
    dtype = element_type(number, str(node)) if number else dtype
    node.ignore("saturate")  # for float8 only
    if node.attr("precision", 0) not in {0, 1} or node.attr("block_size", 0):
        raise node.refuse("blocks and a precision other than float32 are not handled")
    axis = _axis(node, x, scale)
    return _quantized(node, x, _spread(node, scale, x, axis), _spread(node, zero, x, axis), dtype)


@op("DequantizeLinear")
def dequantize(node: Node) -> Value:
    """(x - zero point) * scale."""
    x, scale = node.tensor(0), node.tensor(1)
    if node.attr("block_size", 0) or node.attr("output_dtype", 0):
        raise node.refuse("blocks and an output type of its own are not handled")
    zero = node.tensor(2) if node.has(2) else None
    axis = _axis(node, x, scale)
    scale, zero = _spread(node, scale, x, axis), _spread(node, zero, x, axis)
    return _dequantized(node, x, scale, zero)


def _axis(node: Node, x: relax.Expr, scale: relax.Expr) -> int:
    """The axis that the scales run along; without effect where there is but one."""
    axis = node.attr("axis", 1)
    return node.axis(node.rank(x), axis) if node.rank(scale) == 1 and node.rank(x) else 0


def _spread(node: Node, value: relax.Expr | None, x: relax.Expr, axis: int) -> relax.Expr | None:
    """A scale or zero point in a shape that broadcasts along `axis` of `x`."""
    if value is None or node.rank(value) == 0:
        return value
    after = node.rank(x) - axis - 1
    return node.emit(R.reshape(value, [*node.shape(value), *[1] * after])) if after > 0 else value


def _quantized(
    node: Node, x: relax.Expr, scale: relax.Expr | None, zero: relax.Expr | None, dtype: str
) -> relax.Expr:
    if is_float(dtype):
        raise node.refuse(f"it quantises to {dtype}")
    limits = np.iinfo(dtype)
    steps = R.round(R.divide(R.astype(x, "float32"), R.astype(scale, "float32")))
    if zero is not None:
        steps = R.add(steps, R.astype(zero, "float32"))
    low, high = node.scalar(limits.min, "float32"), node.scalar(limits.max, "float32")
    return R.astype(R.minimum(R.maximum(steps, low), high), dtype)


def _dequantized(
    node: Node, x: relax.Expr, scale: relax.Expr | None, zero: relax.Expr | None
) -> relax.Expr:
    shifted = R.astype(x, "int32")
    if zero is not None:
        shifted = R.subtract(shifted, R.astype(zero, "int32"))
    assert scale is not None
    return node.emit(R.multiply(R.astype(shifted, node.dtype(scale)), scale))


def _centred(node: Node, index: int, zero: int, rows: bool = False) -> relax.Expr:
    """An integer input less its zero point, as int32."""
    x = R.astype(node.tensor(index), "int32")
    if not node.has(zero):
        return node.emit(x)
    point = R.astype(node.tensor(zero), "int32")
    if rows and node.rank(zero) == 1 and node.shape(zero) != [1]:
        point = R.expand_dims(point, [1])
    return node.emit(R.subtract(x, point))


@op("MatMulInteger")
def matmul_integer(node: Node) -> Value:
    """A matrix product of integers, in int32."""
    return R.matmul(_centred(node, 0, 2, rows=True), _centred(node, 1, 3))


@op("ConvInteger")
def conv_integer(node: Node) -> Value:
    """A convolution of integers, in int32."""
    if node.has(3) and node.rank(3):
        raise node.refuse("zero points per channel are not handled")
    return _convolved(node, _centred(node, 0, 2), _centred(node, 1, 3))


def _convolved(node: Node, x: relax.Expr, weight: relax.Expr) -> relax.Expr:
    kernel = kernel_of(node, weight)
    window = windows.read(node, kernel, node.shape(x)[2:])
    result = CONV[len(kernel)](
        x,
        weight,
        strides=window.strides,
        padding=window.pads,
        dilation=window.dilations,
        groups=node.attr("group"),
    )
    return node.emit(result)


@op("QLinearMatMul")
def qlinear_matmul(node: Node) -> Value:
    """A matrix product between quantised tensors."""
    left = _dequantized(node, node.tensor(0), node.tensor(1), node.tensor(2))
    right = _dequantized(node, node.tensor(3), node.tensor(4), node.tensor(5))
    if any(node.shape(i) not in ([], [1]) for i in (1, 4)):
        raise node.refuse("scales per row or column are not handled")
    zero = node.tensor(7)
    return _quantized(node, R.matmul(left, right), node.tensor(6), zero, node.dtype(zero))
