"""Products with matrices of four or eight bits, as quantised language models have them."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx.microsoft import DOMAIN
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value, is_float


@op("MatMulNBits", domain=DOMAIN)
def matmul_bits(node: Node) -> Value:
    """A product with a matrix `[columns, blocks, bytes]` that has a scale for every block."""
    x, dtype = node.tensor(0), node.dtype(0)
    bits, block = node.attr("bits", 4), node.attr("block_size")
    rows, columns = node.attr("K"), node.attr("N")
    if bits not in {4, 8} or node.has(4):
        raise node.refuse(f"{bits} bits and groups by index are not handled, only 4 and 8 bits")
    node.ignore("accuracy_level")  # it allows less exact sums than ours
    blocks = -(-rows // block)
    codes = _unpacked(node, node.tensor(1), bits, columns * blocks, block)
    scales = R.reshape(node.tensor(2), [columns * blocks, 1])
    zero = _zeros(node, bits, columns, blocks)
    whole = R.multiply(R.subtract(R.astype(codes, dtype), R.astype(zero, dtype)), scales)
    matrix = node.emit(R.reshape(whole, [columns, blocks * block]))
    if blocks * block > rows:
        matrix = node.emit(R.strided_slice(matrix, [1], [0], [rows], [1]))
    result = summed(node, R.matmul, x, node.emit(R.permute_dims(matrix)))
    return R.add(result, node.tensor(5)) if node.has(5) else result


def _zeros(node: Node, bits: int, columns: int, blocks: int) -> relax.Expr:
    """What stands for 0 in every block, `[columns * blocks, 1]`."""
    if not node.has(3):
        return node.scalar(1 << (bits - 1), "int32")
    points = node.tensor(3)
    if is_float(node.dtype(points)):
        return node.emit(R.reshape(points, [columns * blocks, 1]))
    each = -(-blocks * bits // 8) * 8 // bits  # a column ends with a whole byte
    codes = _unpacked(node, points, bits, columns, each)
    if each > blocks:
        codes = node.emit(R.strided_slice(codes, [1], [0], [blocks], [1]))
    return node.emit(R.reshape(codes, [columns * blocks, 1]))


def _unpacked(node: Node, packed: relax.Expr, bits: int, rows: int, each: int) -> relax.Expr:
    """The numbers in the bytes as int32, `[rows, each]`; the first of two is in the lower half."""
    wide = node.emit(R.astype(R.reshape(packed, [rows, each * bits // 8]), "int32"))
    if bits == 8:
        return wide
    low = R.bitwise_and(wide, node.scalar(15, "int32"))
    high = R.right_shift(wide, node.scalar(4, "int32"))
    pairs = R.concat([R.expand_dims(low, [2]), R.expand_dims(high, [2])], 2)
    return node.emit(R.reshape(pairs, [rows, each]))
