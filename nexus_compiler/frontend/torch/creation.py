"""Operators that make tensors of nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R, is_float

_FILL = {
    "zeros": 0, "zeros_like": 0, "new_zeros": 0, "empty": 0, "empty_like": 0, "new_empty": 0,
    "empty_strided": 0, "new_empty_strided": 0, "ones": 1, "ones_like": 1, "new_ones": 1,
    "empty_permuted": 0, "zero": 0,
}  # fmt: skip


@op(*_FILL)
def fill(node: Node) -> Any:
    """Zeros or ones; what is left open by PyTorch is zero here."""
    kind = node.kind
    return node.full(node.shape, _FILL[kind], node.dtype)


@op("full", "full_like", "new_full", "fill")
def full(node: Node) -> Any:
    """One value."""
    value = node["value"] if "value" in node else node["fill_value"]
    if not isinstance(value, int | float) and hasattr(value, "ty"):
        return node.broadcast(node.cast(value, node.dtype), node.shape)
    return node.full(node.shape, value, node.dtype)


@op("scalar_tensor")
def scalar_tensor(node: Node) -> Any:
    """A number as a tensor."""
    return node.scalar(node["s"], node.dtype)


@op("arange", "prims::iota")
def arange(node: Node) -> Any:
    """Numbers at equal distances; PyTorch has computed how many."""
    start, step = node.get("start", 0), node.get("step", 1)
    # Counted in integers: a sum of rounded steps would drift away.
    kind = "float64" if is_float(node.dtype) else "int64"
    line = node.emit(R.arange(0, *node.dims(node.shape), dtype="int64"))
    line = node.cast(line, kind)
    if step != 1:
        line = node.emit(R.multiply(line, node.scalar(step, kind)))
    if start != 0:
        line = node.emit(R.add(line, node.scalar(start, kind)))
    return node.cast(line, node.dtype)


@op("eye")
def eye(node: Node) -> Any:
    """Ones on the diagonal."""
    rows, columns = node.shape
    if not (isinstance(rows, int) and isinstance(columns, int)):
        raise node.refuse("its size depends on the input")
    return node.constant(np.eye(rows, columns).astype(node.dtype))
