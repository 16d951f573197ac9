"""Merges kernels that would only hand a tensor from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax, tirx

from nexus_compiler.passes.base import Pass


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
            return tvm.transform.Sequential(
                [
                    relax.transform.AnnotateTIROpPattern(),
                    relax.transform.FuseOps(),
                    relax.transform.FuseTIR(),
                    relax.transform.DeadCodeElimination(_entries(module)),
                ]
            )(_with_sizes_apart(module))


_OPAQUE = 8
"""TVM's code for "joins nothing"."""


def _with_sizes_apart(module: IRModule) -> IRModule:
    """Kernels that take a size as a number stay alone.

    Fused with one that has the same size in the shape of a tensor, they would define it twice.
    """
    kernels = {
        variable: function.with_attr("op_pattern", _OPAQUE)
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
        and not all(isinstance(param.ty, tirx.BufferType) for param in function.params)
    }
    return IRModule({**dict(module.functions.items()), **kernels}, attrs=module.attrs)


def _entries(module: IRModule) -> list[str]:
    return [v.name_hint for v, f in module.functions.items() if isinstance(f, relax.Function)]
