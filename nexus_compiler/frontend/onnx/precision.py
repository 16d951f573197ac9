"""Sums of 16-bit numbers: taken in float32 and rounded once, as ONNX Runtime and GPUs do.

Operands are widened as a whole, and not inside of the kernels: the kernels for float32 are the
fast ones on CPUs (a float16 product of 64x768 and 768x768: 0.4 ms, not 7 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.values import R

NARROW = {"float16", "bfloat16"}


def wide(node: Node, tensor: relax.Expr) -> relax.Expr:
    """A tensor in the type in which its sums are taken."""
    if node.dtype(tensor) not in NARROW:
        return tensor
    return node.emit(R.astype(tensor, "float32"))


def summed(node: Node, make: Callable[..., Any], *tensors: relax.Expr) -> relax.Expr:
    """`make(*tensors)`, a sum of products, calculated widely and rounded to the tensors' type."""
    dtype = node.dtype(tensors[0])
    result = make(*(wide(node, tensor) for tensor in tensors))
    return node.emit(R.astype(node.emit(result), dtype)) if dtype in NARROW else result
