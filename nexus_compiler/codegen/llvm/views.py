"""Kernels that only give the same memory another shape."""

from __future__ import annotations

from tvm import relax, tirx
from tvm.s_tir.stmt import SBlockRealize


def is_view(function: tirx.PrimFunc) -> bool:
    """Whether TVM makes a view of a call of `function`, where its result is no output."""
    # Of nothing but blocks it may be asked.
    if not isinstance(function.body, SBlockRealize):
        return False
    return bool(relax.analysis.has_reshape_pattern(function))
