"""ONNX Runtime's attention on quantised tensors."""

from __future__ import annotations

from nexus_compiler.frontend.onnx.microsoft import DOMAIN
from nexus_compiler.frontend.onnx.microsoft_attention import self_attention
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.qlinear import along, in_units, product
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Value


@op("QAttention", domain=DOMAIN)
def quantized_attention(node: Node) -> list[Value]:
    """Self-attention whose one product for queries, keys and values is one of integers."""
    if node.attr("do_rotary", 0) or node.attr("past_present_share_buffer", 0):
        raise node.refuse("rotation and shared buffers are not handled")
    width = node.static(1, "its weight")[1]
    scales = [along(node, node.tensor(3), 1), node.tensor(4)]
    rows = node.emit(in_units(node, product(node, 0, 1, (6, 7)), scales, 2))
    return self_attention(node, rows, [width // 3] * 3, mask=5, past=8)
