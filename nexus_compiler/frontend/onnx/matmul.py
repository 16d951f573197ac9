"""Matrix products."""

from __future__ import annotations

import string

from tvm import relax

from nexus_compiler.frontend.onnx.broadcast import align, contract
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value


@op("MatMul")
def matmul(node: Node) -> Value:
    """NumPy's matmul."""
    a, b = node.tensors()
    if node.rank(a) > 2 and node.rank(b) > 2:
        a, b = align(node, [a, b], skip=2)
    return summed(node, R.matmul, *contract(node, a, b))


@op("Gemm")
def gemm(node: Node) -> Value:
    """alpha * A @ B + beta * C."""
    a, b = node.tensor(0), node.tensor(1)
    if node.attr("transA"):
        a = node.emit(R.permute_dims(a))
    if node.attr("transB"):
        b = node.emit(R.permute_dims(b))
    node.ignore("broadcast")  # before opset 7; without it C has the full shape anyway
    product = _scaled(node, summed(node, R.matmul, *contract(node, a, b)), node.attr("alpha"))
    beta = node.attr("beta")
    if not node.has(2):
        return product
    return R.add(product, _scaled(node, node.tensor(2), beta))


def _scaled(node: Node, tensor: relax.Expr, factor: float) -> relax.Expr:
    tensor = node.emit(tensor)
    return tensor if factor == 1 else R.multiply(tensor, node.scalar(factor, node.dtype(tensor)))


def _named(node: Node, equation: str) -> str:
    """`equation` with a letter for every axis that an ellipsis stands for."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    counts = [node.rank(i) - len(t.replace("...", "")) for i, t in enumerate(terms)]
    most = max(count for count, term in zip(counts, terms) if "..." in term)
    free = [letter for letter in string.ascii_letters if letter not in equation][:most]
    sizes: dict[str, Size] = {}
    for index, (term, count) in enumerate(zip(terms, counts)):
        if "..." not in term:
            continue
        letters = free[most - count :]
        first = term.index("...")
        for place, letter in enumerate(letters):
            size = node.shape(index)[first + place]
            if not node.sizes.equal(sizes.setdefault(letter, size), size):
                raise node.refuse("the axes under its ellipsis broadcast", "name every axis")
        terms[index] = term.replace("...", "".join(letters))
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = "..." + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    return ",".join(terms) + "->" + right.replace("...", "".join(free))


@op("Einsum")
def einsum(node: Node) -> Value:
    """A sum of products, by Einstein's notation."""
    equation = node.attr("equation").replace(" ", "")
    if "..." in equation:
        equation = _named(node, equation)
    return summed(node, lambda *all_: R.einsum(relax.Tuple(all_), equation), *node.tensors())
