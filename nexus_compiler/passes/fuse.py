"""Merges kernels that would only hand a tensor from one to the next."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.stmt import SBlockRealize

from nexus_compiler.passes.base import Pass, entries

_LOG = logging.getLogger(__name__)
_PATTERN, _INJECTIVE = "op_pattern", 2  # TVM's names
_SIZE_TWICE = "VarRemapGet(source) == nullptr"


@dataclass(frozen=True)
class Fuse(Pass):
    """Elementwise chains, and elementwise epilogues into matmul, convolution and reductions.

    Stands after `legalize`. The rules are TVM's: a kernel's pattern kind says what it may join. But
    TVM takes whatever reads where another tensor says for opaque; what picks each of its elements
    from somewhere is fused like a transposition. So the embeddings of tokens, places and kinds are
    added as they are read.
    """

    name: ClassVar[str] = "fuse"
    leaves: ClassVar[str] = "lowered"

    max_kernels: int = 64

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; fused kernels that come out equal are one."""
        with tvm.transform.PassContext(config={"relax.FuseOps.max_depth": self.max_kernels}):
            try:
                return tvm.transform.Sequential(
                    [
                        relax.transform.AnnotateTIROpPattern(),
                        relax.transform.FuseOps(),
                        relax.transform.FuseTIR(),
                        relax.transform.DeadCodeElimination(entries(module)),
                    ]
                )(_with_picks(module))
            except tvm.error.InternalError as error:
                if _SIZE_TWICE not in str(error):
                    raise
        # A kernel that takes a size as a number would join one that has it in a shape.
        _LOG.warning("kernels are not fused: TVM cannot fuse sizes that are numbers and shapes")
        return module


def _with_picks(module: IRModule) -> IRModule:
    """`module` whose kernels that pick say that they may be fused."""
    picks = {
        variable: function.with_attr(_PATTERN, _INJECTIVE)
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc) and _is_pick(function)
    }
    if not picks:
        return module
    return IRModule({**dict(module.functions.items()), **picks}, attrs=module.attrs)


def _is_pick(function: tirx.PrimFunc) -> bool:
    """Whether each element of the result is one of another tensor, where a third says."""
    if _PATTERN in (function.attrs or {}) or not isinstance(function.body, SBlockRealize):
        return False
    body = function.body.block.body
    while isinstance(body, tirx.For):
        body = body.body
    if not isinstance(body, SBlockRealize) or body.block.init is not None:
        return False
    store, axes = body.block.body, [axis.var for axis in body.block.iter_vars]
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, TensorLoad):
        return False
    if len(axes) != len(store.indices) or not all(map(tirx.Var.same_as, axes, store.indices)):
        return False
    told: list[Any] = []
    for index in store.value.indices:
        tvm_ffi.structural_walk(index, (TensorLoad, told.append))
    return bool(told)
