"""Replaces composite operators by simpler ones where nothing is to be updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class DecomposeForInference(Pass):
    """Batch norm with fixed statistics becomes arithmetic; dropout becomes the identity.

    Functions that train have had their own operators put in by `differentiate` before.
    """

    name: ClassVar[str] = "decompose_for_inference"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        return relax.transform.DecomposeOpsForInference()(module)
