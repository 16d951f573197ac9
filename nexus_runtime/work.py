"""What a module computes, kernel by kernel: plain data beside the module, for those who ask.

Running a module needs none of it: `nexusc inspect` shows it, `nexusc bench --profile` holds what it
says against the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from nexus_runtime import guards
from nexus_runtime.listing import Listing

NAIVE = "naive"
"""The family of kernels that no schedule knows: plain loops."""
Count = int | str | None
"""A number; or an expression (see `guards.py`) over `p<i>`, the i-th argument, where that is a
number, and `p<i>_<axis>`, the size of the i-th argument along an axis; or None: not known."""


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One kernel, wherever it is called.

    Attributes:
        label: the operators that it computes.
        family: the schedule that shaped it; `NAIVE`: none.
        shapes: its arguments, inputs before outputs, as `float32[1, n]`.
        dtype: in which type most of the arithmetic is done.
        flops: additions, multiplications, comparisons and calls of functions (exp, ...) that the
            operators ask for; what a schedule computes twice counts once.
        bytes: of the elements that are read and written, each once.
        tuned: what a measurement chose for it against analysis (`nexusc compile --tune`).
    """

    label: str
    family: str
    shapes: tuple[str, ...]
    dtype: str
    flops: Count
    bytes: Count
    tuned: str = ""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one function sets aside for what it computes between its inputs and its outputs.

    Attributes:
        fixed: bytes that are known beforehand; the planner lets tensors share them.
        open: how many more pieces there are whose size only a call tells.
    """

    fixed: int
    open: int


class Work(Listing, frozen=True):
    """Kernels by their names in the module, and memory by function."""

    of: ClassVar[str] = "kernels"

    kernels: dict[str, Kernel]
    memory: dict[str, Memory]


def count(said: Count, arguments: Sequence[Sequence[int] | int]) -> int | None:
    """`said` for the shapes (or numbers) that a kernel was called with; None: not known."""
    if said is None or isinstance(said, int):
        return said
    return guards.value(said, _sizes(arguments))


def _sizes(arguments: Sequence[Sequence[int] | int]) -> Mapping[str, int]:
    sizes: dict[str, int] = {}
    for index, argument in enumerate(arguments):
        if isinstance(argument, int):
            sizes[f"p{index}"] = argument
        else:
            sizes |= {f"p{index}_{axis}": int(size) for axis, size in enumerate(argument)}
    return sizes
