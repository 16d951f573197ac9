"""Turns every Relax operator into a call of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class Legalize(Pass):
    """Operators become `call_tir` of naive kernels; operators that TVM lacks break the law here."""

    name: ClassVar[str] = "legalize"
    leaves: ClassVar[str] = "lowered"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; equal calls share a kernel."""
        return relax.transform.LegalizeOps()(module)
