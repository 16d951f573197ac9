"""Matrix products."""

from __future__ import annotations

from typing import Any

from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op("mm", "bmm", "matmul", "mv", "dot")
def product(node: Node) -> Any:
    """A product of matrices, of stacks of matrices, or of vectors."""
    names = ["self", *(name for name in ("mat2", "other", "vec", "tensor") if name in node)]
    return _matmul(node, *(node.tensor(name) for name in names))


def _matmul(node: Node, a: Any, b: Any) -> Any:
    kind = dtype_of(a)
    if kind == "bool" or not kind.startswith(("float", "bfloat")):
        return node.cast(node.emit(R.matmul(a, b)), node.dtype)
    return R.matmul(a, b)


@op("linear")
def linear(node: Node) -> Any:
    """x @ weight.T + bias."""
    weight = node.tensor("weight")
    if len(weight.ty.shape.values) > 1:
        weight = node.emit(R.permute_dims(weight))
    result = R.matmul(node.tensor("input"), weight)
    return R.add(result, node.tensor("bias")) if "bias" in node else result


@op("addmm", "baddbmm", "addmv")
def add_product(node: Node) -> Any:
    """beta * self + alpha * a @ b."""
    pairs = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}
    first, second = pairs[node.kind]
    result = R.matmul(node.tensor(first), node.tensor(second))
    if (alpha := node["alpha"]) != 1:
        result = R.multiply(result, node.scalar(alpha, node.dtype))
    if (beta := node["beta"]) == 0:
        return result
    bias = node.tensor("self")
    return R.add(result, bias if beta == 1 else R.multiply(bias, node.scalar(beta, node.dtype)))
