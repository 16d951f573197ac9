"""The convolution with a memory that state space models put before their recurrence."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


@op("CausalConvWithState")
def causal_conv(node: Node) -> list[Value]:
    """Every channel on its own, over the present and the past; then the last elements of both.

    A few taps per channel are a few products: unlike a grouped convolution, they fuse.
    """
    x, weight = node.tensor(0), node.tensor(1)
    batch, channels, length = node.shape(x)
    taps = node.static(weight, "its weight")[2]
    dtype, activation = node.dtype(x), node.attr("activation", "none")
    if activation not in {"none", "silu", "swish"}:
        raise node.refuse(f"its activation is '{activation}'")
    past = [batch, channels, taps - 1]
    line = x
    if taps > 1:
        before = node.tensor(3) if node.has(3) else node.emit(R.zeros(past, dtype))
        line = node.emit(R.concat([before, x], 2))
    elif node.has(3):
        node.value(3)  # it is empty
    total = _summed(node, line, weight, taps)
    if node.has(2):
        total = R.add(total, R.astype(R.expand_dims(node.tensor(2), [1]), "float32"))
    result = node.emit(R.astype(total, dtype))
    if activation != "none":
        result = node.emit(R.multiply(result, R.sigmoid(result)))
    end = node.sizes.simple(length + taps - 1)
    if taps == 1:
        return [result, node.emit(R.zeros(past, dtype))]
    state = R.strided_slice(line, [2], [length], [end], [1], assume_inbound=True)
    return [result, node.emit(state)]


def _summed(node: Node, line: relax.Expr, weight: relax.Expr, taps: int) -> relax.Expr:
    """The taps times the elements that they cover, in float32."""
    length = node.sizes.simple(node.shape(line)[2] - taps + 1)
    total: relax.Expr | None = None
    for tap in range(taps):
        end = node.sizes.simple(length + tap)
        piece = R.strided_slice(line, [2], [tap], [end], [1], assume_inbound=True)
        share = R.squeeze(R.strided_slice(weight, [2], [tap], [tap + 1], [1]), [1])
        part = R.multiply(R.astype(piece, "float32"), R.astype(share, "float32"))
        total = node.emit(part if total is None else R.add(total, part))
    assert total is not None
    return total
