"""Merges kernels that would only hand a tensor from one to the next."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass, entries

_LOG = logging.getLogger(__name__)
_SIZE_TWICE = "VarRemapGet(source) == nullptr"


@dataclass(frozen=True)
class Fuse(Pass):
    """Elementwise chains, and elementwise epilogues into matmul, convolution and reductions.

    Stands after `legalize`. The rules are TVM's: a kernel's pattern kind says what it may join.
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
                )(module)
            except tvm.error.InternalError as error:
                if _SIZE_TWICE not in str(error):
                    raise
        # A kernel that takes a size as a number would join one that has it in a shape.
        _LOG.warning("kernels are not fused: TVM cannot fuse sizes that are numbers and shapes")
        return module
