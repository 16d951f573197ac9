"""What a schedule may know of the processor."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm

from nexus_compiler.codegen.choices import Guide


@dataclass(frozen=True)
class Machine:
    """The vector unit of one core, and when a second core is worth waking.

    Attributes:
        vector_bits: bits of one register.
        vector_registers: how many registers there are.
        parallel_work: multiply-adds, or elements, from which on a kernel runs on all cores.
        dot: the instruction for products of bytes, one of those in `dot.py`.
        guide: what was measured on it, of the kernel that is being scheduled.
    """

    vector_bits: int
    vector_registers: int
    parallel_work: int
    dot: str = ""
    guide: Guide = field(default=Guide(), compare=False)

    def lanes(self, dtype: str) -> int:
        """Values of `dtype` in one register."""
        return max(1, self.vector_bits // tvm.DataType(dtype).bits)

    def kind(self, work: int) -> str:
        """The kind of a loop over tasks that do so much `work` together."""
        return "parallel" if work >= self.parallel_work else "serial"
