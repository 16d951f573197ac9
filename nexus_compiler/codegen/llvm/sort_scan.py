"""Sorts and scans, which `legalize` has no kernels for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class SortAndScan(Pass):
    """Sort, argsort, topk, cumsum and cumprod become kernels; stands before `legalize`.

    The sorts call into `libtvm_runtime_extra`, which the executor loads beside the runtime.
    """

    name: ClassVar[str] = "sort_and_scan"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the calls of these operators."""
        # Which kernels are taken follows from the kind of the target only.
        with tvm.target.Target("llvm"):
            return relax.backend.DispatchSortScan()(module)
