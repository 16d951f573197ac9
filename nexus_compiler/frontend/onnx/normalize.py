"""Normalisations."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value


@op("BatchNormalization")
def batch_norm(node: Node) -> Value | list[Value]:
    """Batch normalisation with stored statistics, or with those of the batch in training."""
    x, scale, bias, mean, variance = node.tensors()
    if node.attr("training_mode", 0):
        return _batch_norm_of_training(node, x, scale, bias, [mean, variance])
    if node.opset < 7 and not node.attr("is_test", 0):
        raise node.refuse("it is in training mode", "export the model in evaluation mode")
    if not node.attr("spatial", 1):
        raise node.refuse("spatial=0 is not handled", "export with opset 9 or newer")
    node.ignore("momentum", "consumed_inputs", "is_test")
    result = node.emit(
        R.nn.batch_norm(
            x, scale, bias, mean, variance, axis=1, epsilon=node.attr("epsilon"), training=False
        )
    )
    return relax.TupleGetItem(result, 0)


def _batch_norm_of_training(
    node: Node, x: relax.Expr, scale: relax.Expr, bias: relax.Expr, stored: list[relax.Expr]
) -> list[Value]:
    """The result, and the stored statistics moved towards those of the batch."""
    axes = [axis for axis in range(node.rank(x)) if axis != 1]
    dtype, kind = node.dtype(x), node.dtype(stored[0])
    wide = x if dtype == "float64" else node.emit(R.astype(x, "float32"))
    own = [node.emit(make(wide, axes, False)) for make in (R.mean, R.variance)]
    spread = [1, -1, *[1] * (node.rank(x) - 2)]

    def column(tensor: relax.Expr) -> relax.Expr:
        return node.emit(R.reshape(node.emit(R.astype(tensor, node.dtype(wide))), spread))

    epsilon = node.scalar(node.attr("epsilon"), node.dtype(wide))
    root = R.sqrt(R.add(column(own[1]), epsilon))
    factor = node.emit(R.divide(column(scale), root))
    result = R.add(R.multiply(R.subtract(wide, column(own[0])), factor), column(bias))
    keep = node.attr("momentum")
    moved = [
        R.add(
            R.multiply(old, node.scalar(keep, kind)),
            R.multiply(R.astype(new, kind), node.scalar(1 - keep, kind)),
        )
        for old, new in zip(stored, own)
    ]
    return [R.astype(result, dtype), *moved]


@op("LayerNormalization")
def layer_norm(node: Node) -> list[Value]:
    """Layer normalisation over `axis` and all axes after it; on demand its statistics, too."""
    x, scale = node.tensor(0), node.tensor(1)
    rank, shape, dtype = node.rank(x), node.shape(x), node.dtype(x)
    axes = list(range(node.axis(rank), rank))
    epsilon = node.attr("epsilon")
    if node.attr("stash_type") != 1:
        raise node.refuse("it computes its statistics in another type than float32")
    inner = shape[axes[0] :]
    if node.has(2):
        bias = node.tensor(2)
    else:
        bias = node.emit(R.zeros(inner, dtype))
    scale, bias = (
        t if node.rank(t) == len(axes) else R.broadcast_to(t, inner) for t in (scale, bias)
    )
    result = R.nn.layer_norm(x, scale, bias, axes, epsilon)
    if node.outputs == 1:
        return [result]
    mean = node.emit(R.mean(x, axes, True))
    spread = R.add(R.variance(x, axes, True), node.scalar(epsilon, dtype))
    return [result, mean, R.divide(node.scalar(1, dtype), R.sqrt(spread))]


def _widened(node: Node, tensor: relax.Expr, inner: list[Size]) -> relax.Expr:
    """A scale or bias of the size that TVM asks for; ONNX lets it broadcast."""
    own = node.shape(tensor)
    same = len(own) == len(inner) and all(node.sizes.equal(a, b) for a, b in zip(own, inner))
    return tensor if same else node.emit(R.broadcast_to(tensor, inner))


@op("RMSNormalization")
def rms_norm(node: Node) -> Value:
    """Scaling by the root of the mean square."""
    x, scale = node.tensor(0), node.tensor(1)
    rank = node.rank(x)
    axes = list(range(node.axis(rank), rank))
    if node.attr("stash_type") != 1:
        raise node.refuse("it computes its statistics in another type than float32")
    scale = _widened(node, scale, node.shape(x)[axes[0] :])
    epsilon = node.attr("epsilon")
    if len(axes) < rank:
        return R.nn.rms_norm(x, scale, axes, epsilon)
    # TVM's kernel cannot normalise over all axes.
    mean = R.add(R.mean(R.multiply(x, x), axes, True), node.scalar(epsilon, node.dtype(x)))
    return R.multiply(R.divide(x, R.sqrt(mean)), scale)


@op("InstanceNormalization")
def instance_norm(node: Node) -> Value:
    """Normalisation of every channel of every sample on its own."""
    x, scale, bias = node.tensors()
    axes = list(range(2, node.rank(x)))
    return R.nn.instance_norm(x, scale, bias, 1, axes, node.attr("epsilon"))


@op("LRN")
def local_response(node: Node) -> Value:
    """Division by the activity of neighbouring channels."""
    x = node.tensor(0)
    dtype, shape, size = node.dtype(x), node.shape(x), node.attr("size")
    pixels = node.sizes.product(shape[2:])
    squares = R.reshape(R.multiply(x, x), [shape[0], 1, shape[1], pixels])
    before = (size - 1) // 2
    mean = R.nn.avg_pool2d(
        squares,
        pool_size=(size, 1),
        padding=(before, 0, size - 1 - before, 0),
        count_include_pad=True,
    )
    line = R.add(
        node.scalar(node.attr("bias"), dtype),
        R.multiply(node.scalar(node.attr("alpha"), dtype), R.reshape(mean, shape)),
    )
    return R.divide(x, R.power(line, node.scalar(node.attr("beta"), dtype)))


@op("LpNormalization")
def lp_norm(node: Node) -> Value:
    """Division by the 1- or 2-norm of an axis; where that is 0, the result is 0."""
    x = node.tensor(0)
    dtype, axis = node.dtype(x), node.axis(node.rank(x))
    if node.attr("p") == 1:
        norm = node.emit(R.sum(R.abs(x), [axis], True))
    else:
        norm = node.emit(R.sqrt(R.sum(R.multiply(x, x), [axis], True)))
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    return R.divide(x, R.where(R.equal(norm, zero), one, norm))
