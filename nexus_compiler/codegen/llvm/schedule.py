"""Gives every kernel the loop order, vectors and threads of its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, tirx

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class Schedule(Pass):
    """Apply the first schedule of `schedules/` that knows a kernel's form; others stay as they are."""

    name: ClassVar[str] = "schedule"
    leaves: ClassVar[str] = "lowered"

    vector_bits: int = 256
    vector_registers: int = 16

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the kernels of `module`."""
        return module
