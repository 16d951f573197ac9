"""Arithmetic on quantised tensors: exact sums of integers in int32, then one factor."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx import windows
from nexus_compiler.frontend.onnx.conv import CONV, kernel_of
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.quantize import MICROSOFT, has_zero_point, rounded, whole
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


def along(node: Node, value: relax.Expr, after: int) -> relax.Expr:
    """One number, or one for every place of an axis with `after` axes behind it."""
    shape = node.shape(value)
    if len(shape) > 1 or node.sizes.equal(node.sizes.product(shape), 1) is True:
        return node.emit(R.reshape(value, [])) if shape in ([1], []) else value
    return node.emit(R.reshape(value, [*shape, *[1] * after])) if after else value


def centred(node: Node, index: int, zero: int, after: int) -> relax.Expr:
    """An input less its zero point, as int32."""
    x = whole(node, index)
    if not has_zero_point(node, zero):
        return x
    return node.emit(R.subtract(x, along(node, whole(node, zero), after)))


def product(node: Node, a: int, b: int, zeros: tuple[int, int]) -> relax.Expr:
    """The matrix product of inputs `a` and `b` less their zero points, int32."""
    left = centred(node, a, zeros[0], 1)
    return node.emit(R.matmul(left, centred(node, b, zeros[1], 0)))


def _convolved(node: Node, x: int, weight: int, zeros: tuple[int, int]) -> relax.Expr:
    image = centred(node, x, zeros[0], 0)
    weights = centred(node, weight, zeros[1], node.rank(weight) - 1)
    kernel = kernel_of(node, weights)
    window = windows.read(node, kernel, node.shape(image)[2:])
    result = CONV[len(kernel)](
        image,
        weights,
        strides=window.strides,
        padding=window.pads,
        dilation=window.dilations,
        groups=node.attr("group", 1),
    )
    return node.emit(result)


@op("MatMulInteger")
def matmul_integer(node: Node) -> Value:
    """A matrix product of integers, in int32."""
    return product(node, 0, 1, (2, 3))


@op("ConvInteger")
def conv_integer(node: Node) -> Value:
    """A convolution of integers, in int32."""
    return _convolved(node, 0, 1, (2, 3))


def _factor(node: Node, scales: list[relax.Expr], last: relax.Expr | None = None) -> relax.Expr:
    """The product of scales, divided by the last: in their own type, as ONNX's reference does."""
    result = scales[0]
    for scale in scales[1:]:
        result = R.multiply(result, scale)
    result = result if last is None else R.divide(result, last)
    return node.emit(R.astype(node.emit(result), "float32"))


def _requantized(node: Node, total: relax.Expr, factor: relax.Expr, zero: int) -> relax.Expr:
    scaled = node.emit(R.multiply(R.astype(total, "float32"), factor))
    if not node.has(zero):
        return rounded(node, scaled, None, node.dtype(0))
    return rounded(node, scaled, along(node, whole(node, zero), 0), node.dtype(zero))


@op("QLinearMatMul")
def qlinear_matmul(node: Node) -> Value:
    """A matrix product between quantised tensors."""
    total = product(node, 0, 3, (2, 5))
    scales = [along(node, node.tensor(1), 1), along(node, node.tensor(4), 0)]
    factor = _factor(node, scales, along(node, node.tensor(6), 1))
    return _requantized(node, total, factor, 7)


@op("QLinearConv")
def qlinear_conv(node: Node) -> Value:
    """A convolution between quantised tensors; its bias is in the units of the sums."""
    total = _convolved(node, 0, 3, (2, 5))
    after = node.rank(total) - 2
    if node.has(8):
        total = node.emit(R.add(total, along(node, node.tensor(8), after)))
    scales = [along(node, node.tensor(1), 0), along(node, node.tensor(4), after)]
    return _requantized(node, total, _factor(node, scales, along(node, node.tensor(6), 0)), 7)


def _real(node: Node, index: int) -> relax.Expr:
    """A quantised input, then its scale and zero point, as float32."""
    x = R.astype(centred(node, index, index + 2, 0), "float32")
    return node.emit(R.multiply(x, along(node, node.tensor(index + 1), 0)))


def _stored(node: Node, x: relax.Expr, scale: int) -> relax.Expr:
    """float32 `x` quantised by a scale and, behind it, a zero point."""
    ratio = node.emit(R.divide(x, along(node, node.tensor(scale), 0)))
    if not node.has(scale + 1):
        return rounded(node, ratio, None, node.dtype(0))
    return rounded(node, ratio, along(node, whole(node, scale + 1), 0), node.dtype(scale + 1))


@op("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def qlinear_binary(node: Node) -> Value:
    """The sum or product of two quantised tensors."""
    make = R.add if node.kind == "QLinearAdd" else R.multiply
    return _stored(node, node.emit(make(_real(node, 0), _real(node, 3))), 6)


@op("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_unary(node: Node) -> Value:
    """An activation of a quantised tensor."""
    x = _real(node, 0)
    if node.kind == "QLinearSigmoid":
        return _stored(node, node.emit(R.sigmoid(x)), 3)
    return _stored(node, node.emit(R.nn.leakyrelu(x, node.attr("alpha", 0.01))), 3)


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(node: Node) -> Value:
    """A matrix product of integers in the units of their scales, with a bias on demand."""
    total = product(node, 0, 1, (4, 5))
    return in_units(node, total, [along(node, node.tensor(2), 1), node.tensor(3)], 6)


def in_units(node: Node, total: relax.Expr, scales: list[relax.Expr], bias: int) -> relax.Expr:
    """`total` times two scales, the second per column or alone; input `bias` is added if given."""
    factor = _factor(node, [scales[0], along(node, scales[1], 0)])
    result = node.emit(R.multiply(R.astype(total, "float32"), factor))
    return R.add(result, node.tensor(bias)) if node.has(bias) else result


@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(node: Node) -> Value:
    """A product of a tensor, quantised to uint8 by its own range, with a quantised matrix."""
    result = by_its_range(node, node.tensor(0), centred(node, 1, 3, 0), node.tensor(2))
    return R.add(result, node.tensor(4)) if node.has(4) else result


def by_its_range(node: Node, x: relax.Expr, weight: relax.Expr, scale: relax.Expr) -> relax.Expr:
    """float32 `x`, quantised by its range, times an int32 matrix in units of `scale`."""
    quantized, own, zero = by_range(node, x)
    left = R.subtract(R.astype(quantized, "int32"), R.astype(zero, "int32"))
    total = node.emit(R.matmul(node.emit(left), weight))
    factor = _factor(node, [own, along(node, scale, 0)])
    return node.emit(R.multiply(R.astype(total, "float32"), factor))


@op("DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> list[Value]:
    """uint8 over the range of the tensor, which is made to hold 0; its scale; its zero point."""
    return list(by_range(node, node.tensor(0)))


def by_range(node: Node, x: relax.Expr) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """float32 `x` as uint8 over its own range, made to hold 0; its scale; its zero point."""
    nothing, one, last = (node.scalar(number, "float32") for number in (0, 1, 255))
    low = node.emit(R.minimum(R.min(x), nothing))
    width = node.emit(R.subtract(R.maximum(R.max(x), nothing), low))
    scale = node.emit(R.where(R.equal(width, nothing), one, R.divide(width, last)))
    zero = R.round(R.minimum(R.maximum(R.negative(R.divide(low, scale)), nothing), last))
    zero = node.emit(zero)
    quantized = rounded(node, node.emit(R.divide(x, scale)), zero, "uint8")
    return quantized, scale, node.emit(R.astype(zero, "uint8"))
