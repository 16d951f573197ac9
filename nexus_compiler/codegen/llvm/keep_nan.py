"""Comparisons that keep NaN, as PyTorch, NumPy and JAX have them.

TVM's max(a, b) is `a > b ? a : b`, which is b where either is NaN; its a != b is false there, and
its simplifier takes a == a for true. With the number first, max and min hand on NaN at no cost: so
do rectifiers and clips. All other maxima and minima, reductions and pools among them, take one
instruction more (two with AVX2), a test of one operand. What ONNX Runtime returns for ReduceMax,
ArgMax and MaxPool follows from where NaN stands in the vectors that it happens to use, its Max and
Relu hand it on, and the standard's own reference implementation is NumPy: ONNX models do as others.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import kernel


def keep_nan(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with numbers as the first operands of max and min, and a != b true for NaN."""

    def ordered(node: Any) -> Any:
        if isinstance(node.b, tirx.FloatImm) and not isinstance(node.a, tirx.FloatImm):
            return type(node)(node.b, node.a)
        return node

    def unequal(node: tirx.NE) -> Any:
        if not _is_float(node.a):
            return node
        if tvm_ffi.structural_equal(node.a, node.b):
            return tirx.isnan(node.a)
        # The simplifier would make a != b of not a == b.
        return tirx.any(tirx.isnan(node.a), tirx.isnan(node.b), node)

    return _in_stores(function, (((tirx.Max, tirx.Min), ordered), (tirx.NE, unequal)))


def largest_of_nan(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A scheduled `function` whose maxima and minima of two values are NaN where either is.

    Stands behind the schedules, which tell reductions by their `Max` and `Min`.
    """

    def both(node: Any) -> Any:
        if not _is_float(node.a) or isinstance(node.a, tirx.FloatImm):
            return node
        # What is tested is used twice: in a chain of maxima it is to be the single value.
        test, other = node.a, node.b
        if kernel.size(other) < kernel.size(test):
            test, other = other, test
        return tirx.Select(is_number(test), type(node)(test, other), test)

    return _in_stores(function, ((tirx.Max, tirx.Min), both))


def is_number(value: Any) -> Any:
    """Whether `value`, a float of any width, is not NaN; unlike `tirx.isnan` also in vectors."""
    kind = tvm.DataType(str(value.ty))
    if kind.bits < 32:
        value, kind = tirx.Cast("float32", value), tvm.DataType("float32")
    # TVM takes a == a for true, and LLVM sees through this.
    same = tirx.reinterpret(str(kind), tirx.reinterpret(f"int{kind.bits}", value))
    return tirx.EQ(same, value)


def _is_float(value: Any) -> bool:
    return "float" in str(value.ty)


def _in_stores(function: tirx.PrimFunc, callbacks: Any) -> tirx.PrimFunc:
    def rewrite(store: tirx.BufferStore) -> Any:
        value = tvm_ffi.structural_map(store.value, callbacks)
        if value.same_as(store.value):
            return store
        return tirx.BufferStore(store.buffer, value, store.indices)

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, rewrite))
    return function if body.same_as(function.body) else function.with_body(body)
