"""Quantising and what it undoes, spelled out in ordinary arithmetic."""

from __future__ import annotations

import ml_dtypes
from tvm import relax

from nexus_compiler.frontend.onnx import narrow
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Host, R, Value, element_type, is_float, numpy_dtype
from nexus_runtime.errors import ShapeError
from nexus_runtime.tensors import BITS

MICROSOFT = "com.microsoft"


@op("QuantizeLinear", domain=MICROSOFT)
@op("QuantizeLinear")
def quantize(node: Node) -> Value:
    """round(x / scale) + zero point, limited to the type."""
    x, scale = node.tensor(0), node.tensor(1)
    number, precision = node.attr("output_dtype", 0), node.attr("precision", 0)
    dtype = node.dtype(2) if node.has(2) else "uint8"
    dtype = element_type(number, str(node)) if number and not node.has(2) else dtype
    wide = element_type(precision, str(node)) if precision else _wider(node, x, scale)
    saturate = bool(node.attr("saturate", 1))  # for float8 only
    spread = _Spread(node, x, scale)
    ratio = R.divide(R.astype(x, wide), R.astype(spread(scale), wide))
    ratio = node.emit(R.astype(ratio, "float32"))
    if is_float(dtype):
        if node.has(2):
            node.value(2)  # the specification asks for 0
        return node.importer.labelled(narrow.encode(node, ratio, dtype, saturate=saturate), dtype)
    zero = spread(whole(node, 2)) if node.has(2) else None
    return rounded(node, ratio, zero, dtype)


@op("DequantizeLinear", domain=MICROSOFT)
@op("DequantizeLinear")
def dequantize(node: Node) -> Value:
    """(x - zero point) * scale."""
    x, scale = whole(node, 0), node.tensor(1)
    number = node.attr("output_dtype", 0)
    dtype = element_type(number, str(node)) if number else node.dtype(scale)
    spread = _Spread(node, x, scale)
    if has_zero_point(node, 2):
        x = node.emit(R.subtract(x, spread(whole(node, 2))))
    wide = "float64" if node.dtype(scale) == "float64" else "float32"
    product = R.multiply(R.astype(x, wide), R.astype(spread(scale), wide))
    return R.astype(product, dtype) if dtype != wide else product


def _wider(node: Node, x: relax.Expr, scale: relax.Expr) -> str:
    """The type that holds both; whole numbers are divided in the type of the scale."""
    own, other = node.dtype(x), node.dtype(scale)
    return own if own == other and is_float(own) else "float32"


class _Spread:
    """Brings scales and zero points of one node into shapes that broadcast against its `x`."""

    def __init__(self, node: Node, x: relax.Expr, scale: relax.Expr) -> None:
        self.node, self.shape, self.block = node, node.shape(x), node.attr("block_size", 0)
        rank, axis = len(self.shape), node.attr("axis", 1)
        # Without effect where there is but one scale.
        self.axis = node.axis(rank, axis) if node.rank(scale) and rank else 0

    def __call__(self, value: relax.Expr) -> relax.Expr:
        node, rank = self.node, self.node.rank(value)
        if rank == 0:
            return value
        if self.block:
            repeated = node.emit(R.repeat(value, self.block, self.axis))
            size = self.shape[self.axis]
            if node.sizes.equal(node.shape(repeated)[self.axis], size):
                return repeated
            return node.emit(R.strided_slice(repeated, [self.axis], [0], [size], [1]))
        if rank > 1:
            raise ShapeError(f"{node} has scales of {rank} dimensions, but no block_size")
        after = len(self.shape) - self.axis - 1
        return node.emit(R.reshape(value, [*node.shape(value), *[1] * after])) if after else value


def whole(node: Node, index: int) -> relax.Expr:
    """A quantised input as int32, or as float32 where its type is a float."""
    dtype = node.dtype(index)
    if dtype in BITS:
        return narrow.decode(node, node.bits(index), dtype)
    return node.emit(R.astype(node.tensor(index), "int32"))


def has_zero_point(node: Node, index: int) -> bool:
    """Whether input `index` is a zero point other than the constant 0."""
    if not node.has(index):
        return False
    value = node.value(index)
    plain = isinstance(value, Host) and not value.symbolic and value.dtype not in BITS
    return not plain or bool(value.array.any())


def rounded(node: Node, x: relax.Expr, zero: relax.Expr | None, dtype: str) -> relax.Expr:
    """float32 `x` rounded, half to even, moved by `zero`, and limited to the range of `dtype`."""
    limits = ml_dtypes.iinfo(numpy_dtype(dtype))
    steps = R.round(x)
    if zero is not None:
        steps = R.add(steps, R.astype(zero, "float32"))
    low, high = (node.scalar(int(limit), "float32") for limit in (limits.min, limits.max))
    result = node.emit(R.minimum(R.maximum(steps, low), high))
    if dtype in BITS:
        return node.importer.labelled(narrow.encode(node, result, dtype), dtype)
    return node.emit(R.astype(result, dtype))
