"""ONNX Runtime's own fused operators, in the pieces that it made them of.

Models that its optimiser has written consist of these. ONNX knows no schema for them: what an
absent attribute means stands here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from nexus_compiler.frontend.onnx import windows
from nexus_compiler.frontend.onnx.broadcast import contract
from nexus_compiler.frontend.onnx.conv import convolved, kernel_of
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value

DOMAIN = "com.microsoft"


@op("Gelu", "BiasGelu", domain=DOMAIN)
def gelu(node: Node) -> Value:
    """The exact Gelu, of a sum on demand."""
    return R.nn.gelu(_sum(node, 0, 1))


@op("FastGelu", domain=DOMAIN)
def fast_gelu(node: Node) -> Value:
    """Gelu by tanh, of a sum on demand."""
    return R.nn.gelu_tanh(_sum(node, 0, 1))


@op("QuickGelu", domain=DOMAIN)
def quick_gelu(node: Node) -> Value:
    """x * sigmoid(alpha * x)."""
    x = node.tensor(0)
    scaled = R.multiply(x, node.scalar(node.attr("alpha", 1.702), node.dtype(x)))
    return R.multiply(x, R.sigmoid(scaled))


@op("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(node: Node) -> Value:
    """The first half of the last axis times the Gelu of the second."""
    halves = node.emit(R.split(_sum(node, 0, 1), 2, -1))
    return R.multiply(relax.TupleGetItem(halves, 0), R.nn.gelu(relax.TupleGetItem(halves, 1)))


def _sum(node: Node, *indices: int) -> relax.Expr:
    """The sum of those inputs that are given."""
    total = node.tensor(indices[0])
    for index in indices[1:]:
        if node.has(index):
            total = node.emit(R.add(total, node.tensor(index)))
    return total


@op("FusedMatMul", domain=DOMAIN)
def fused_matmul(node: Node) -> Value:
    """alpha * A @ B, either one transposed on demand."""
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        raise node.refuse("transBatchA and transBatchB are not handled")
    a, b = (
        _transposed(node, i) if node.attr(name, 0) and node.rank(i) > 1 else node.tensor(i)
        for i, name in enumerate(("transA", "transB"))
    )
    return _times(node, summed(node, R.matmul, *contract(node, a, b)), node.attr("alpha", 1.0))


def _transposed(node: Node, index: int) -> relax.Expr:
    rank = node.rank(index)
    order = [*range(rank - 2), rank - 1, rank - 2]
    return node.emit(R.permute_dims(node.tensor(index), order))


def _times(node: Node, x: relax.Expr, factor: float) -> relax.Expr:
    x = node.emit(x)
    return x if factor == 1 else R.multiply(x, node.scalar(factor, node.dtype(x)))


@op("FusedGemm", domain=DOMAIN)
def fused_gemm(node: Node) -> Value:
    """An activation of alpha * A @ B + beta * C."""
    a = _transposed(node, 0) if node.attr("transA", 0) else node.tensor(0)
    b = _transposed(node, 1) if node.attr("transB", 0) else node.tensor(1)
    result = _times(node, summed(node, R.matmul, *contract(node, a, b)), node.attr("alpha", 1.0))
    beta = node.attr("beta", 1.0)
    if node.has(2):
        result = R.add(result, _times(node, node.tensor(2), beta))
    names = [name for name in ("alpha", "beta", "gamma") if _given(node, f"activation_{name}")]
    parameters = [node.attr(f"activation_{name}") for name in names]
    return _activated(node, node.emit(result), parameters)


def _given(node: Node, name: str) -> bool:
    return node.attr(name) is not None


@op("FusedConv", domain=DOMAIN)
def fused_conv(node: Node) -> Value:
    """An activation of a convolution plus, on demand, another tensor."""
    x, weight = node.tensor(0), node.tensor(1)
    kernel = kernel_of(node, weight)
    window = windows.read(node, kernel, node.shape(x)[2:])
    result = convolved(node, x, weight, window, node.attr("group", 1))
    if node.has(2):
        bias = node.tensor(2)
        result = R.add(result, R.reshape(bias, [1, *node.shape(bias), *[1] * len(kernel)]))
    if node.has(3):
        result = R.add(result, node.tensor(3))
    return _activated(node, node.emit(result), node.attr("activation_params", []))


def _activated(node: Node, x: relax.Expr, parameters: Sequence[float]) -> relax.Expr:
    kind, dtype = node.attr("activation", ""), node.dtype(x)
    plain = {"": lambda x: x, "Relu": R.nn.relu, "Sigmoid": R.sigmoid, "Tanh": R.tanh}
    if kind in plain and not parameters:
        return plain[kind](x)
    if kind == "LeakyRelu" and len(parameters) == 1:
        return R.nn.leakyrelu(x, parameters[0])
    if kind not in {"Clip", "HardSigmoid"} or len(parameters) != 2:
        raise node.refuse(f"its activation is '{kind}' with the parameters {list(parameters)}")
    low, high = parameters
    if kind == "HardSigmoid":
        x = R.add(R.multiply(x, node.scalar(low, dtype)), node.scalar(high, dtype))
        low, high = 0.0, 1.0
    return R.minimum(R.maximum(x, node.scalar(low, dtype)), node.scalar(high, dtype))


@op("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_norm(node: Node) -> list[Value]:
    """Layer normalisation of a sum; the fourth output is the sum."""
    total = _sum(node, 0, 1, 4)
    bias = node.tensor(3) if node.has(3) else None
    mean, inverse, result = _normalized(node, total, node.tensor(2), bias, 1e-12)
    return [result, mean, inverse, total]


@op("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_rms_norm(node: Node) -> list[Value]:
    """A sum, divided by the root of its mean square; the fourth output is the sum."""
    total = _sum(node, 0, 1, 3)
    inverse, result = _rms(node, total, node.tensor(2), node.attr("epsilon", 1e-12))
    # The second output is the mean, which is not computed here.
    if node.outputs > 1 and node.proto.output[1]:
        raise node.refuse("its second output is not handled")
    return [result, inverse, inverse, total]


@op("SimplifiedLayerNormalization")
@op("SimplifiedLayerNormalization", domain=DOMAIN)
def rms_norm(node: Node) -> list[Value]:
    """Division by the root of the mean square of the last axis."""
    x = node.tensor(0)
    if node.axis(node.rank(x), node.attr("axis", -1)) != node.rank(x) - 1:
        raise node.refuse("it normalises more than its last axis")
    node.ignore("stash_type")  # statistics are float32 anyway
    inverse, result = _rms(node, x, node.tensor(1), node.attr("epsilon", 1e-5))
    return [result, inverse]


def _rms(
    node: Node, x: relax.Expr, scale: relax.Expr, epsilon: float
) -> tuple[relax.Expr, relax.Expr]:
    dtype, last = node.dtype(x), node.rank(x) - 1
    wide = node.emit(R.astype(x, "float32"))
    mean = R.add(R.mean(R.multiply(wide, wide), [last], True), node.scalar(epsilon, "float32"))
    inverse = node.emit(R.divide(node.scalar(1, "float32"), R.sqrt(mean)))
    result = R.multiply(R.astype(R.multiply(wide, inverse), dtype), scale)
    return inverse, node.emit(result)


def _normalized(
    node: Node, x: relax.Expr, scale: relax.Expr, bias: relax.Expr | None, epsilon: float
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """The mean, one over the deviation, and the layer normalisation of the last axis."""
    last, dtype = node.rank(x) - 1, node.dtype(x)
    epsilon = node.attr("epsilon", epsilon)
    bias = node.emit(R.zeros(node.shape(scale), dtype)) if bias is None else bias
    result = node.emit(R.nn.layer_norm(x, scale, bias, [last], epsilon))
    wide = R.astype(x, "float32")
    mean = node.emit(R.mean(wide, [last], True))
    spread = R.add(R.variance(wide, [last], True), node.scalar(epsilon, "float32"))
    return mean, node.emit(R.divide(node.scalar(1, "float32"), R.sqrt(spread))), result


@op("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_norm(node: Node) -> list[Value]:
    """The normalised sum of the embeddings of words, places and segments; lengths; the sum."""
    ids = node.tensor(0)
    batch, length = node.shape(ids)
    total = R.take(node.tensor(2), ids, 0, mode="clip")
    if node.has(8):
        places = node.tensor(8)
    else:
        places = node.emit(R.expand_dims(R.arange(0, length, 1, "int64"), [0]))
    total = R.add(total, R.take(node.tensor(3), places, 0, mode="clip"))
    if node.has(1) and node.has(4):
        total = R.add(total, R.take(node.tensor(4), node.tensor(1), 0, mode="clip"))
    total = node.emit(total)
    result = _normalized(node, total, node.tensor(5), node.tensor(6), 1e-12)[2]
    node.ignore("mask_index_type")
    if node.has(7):
        lengths = R.sum(R.astype(node.tensor(7), "int32"), [1])
    else:
        lengths = R.zeros([batch], "int32")
    return [result, node.emit(lengths), total]
