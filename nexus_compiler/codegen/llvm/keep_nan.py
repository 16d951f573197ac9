"""Comparisons that keep NaN, as PyTorch, ONNX and NumPy have them.

TVM's max(a, b) is `a > b ? a : b`, which is b where either is NaN; its a != b is false there, and
its simplifier takes a == a for true. With the number first, max and min hand on NaN at no cost: so
do rectifiers and clips.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx


def keep_nan(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with numbers as the first operands of max and min, and a != b true for NaN."""

    def ordered(node: Any) -> Any:
        if isinstance(node.b, tirx.FloatImm) and not isinstance(node.a, tirx.FloatImm):
            return type(node)(node.b, node.a)
        return node

    def unequal(node: tirx.NE) -> Any:
        if "float" not in str(node.a.ty):
            return node
        if tvm_ffi.structural_equal(node.a, node.b):
            return tirx.isnan(node.a)
        # The simplifier would make a != b of not a == b.
        return tirx.any(tirx.isnan(node.a), tirx.isnan(node.b), node)

    def rewrite(store: tirx.BufferStore) -> Any:
        callbacks = (((tirx.Max, tirx.Min), ordered), (tirx.NE, unequal))
        value = tvm_ffi.structural_map(store.value, callbacks)
        if value.same_as(store.value):
            return store
        return tirx.BufferStore(store.buffer, value, store.indices)

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, rewrite))
    return function if body.same_as(function.body) else function.with_body(body)
