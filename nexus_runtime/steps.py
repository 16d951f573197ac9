"""A module's functions as steps in a line: plain data beside the module, for those who can use it.

A function without branches calls the same kernels on the same memory each time. Written down, that
needs no virtual machine: a loop in C calls one kernel after the other
(`nexus_runtime/executors/line.py`), and where that was not built, the module runs as ever.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from nexus_runtime.listing import Listing

Size = int | str
"""A number; or an expression (see `guards.py`) over `p<i>_<axis>`, the size of the i-th parameter
along an axis."""
PARAMETER, STORAGE, CONSTANT = "p", "s", "c"


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A tensor: `offset` bytes from the begin of the parameter, storage or constant `index`."""

    place: str
    index: int
    offset: Size
    dtype: str
    shape: tuple[Size, ...]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A call of a kernel, outputs included.

    An argument is the number of a value; or text: an expression as of `Size`, a plain number too,
    for a parameter that is one.
    """

    kernel: str
    arguments: tuple[int | str, ...]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One function.

    Attributes:
        parameters: how many it has.
        storages: their sizes in bytes; each is needed from the first step that uses a value in it
            to the last.
        constants: the bytes of tensors that are no parameters.
        values: all tensors.
        steps: in order.
        outputs: numbers of values.
        equal: pairs of sizes that must be equal; where they are not, the machine tells why.
    """

    parameters: int
    storages: tuple[Size, ...]
    constants: tuple[bytes, ...]
    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    equal: tuple[tuple[Size, Size], ...] = ()


class Steps(Listing, frozen=True):
    """The functions of a module that are such lines, by name.

    Attributes:
        lines: by the name that the module's library has for the function.
        anywhere: the kernels take tensors at every multiple of an element's bytes.
    """

    of: ClassVar[str] = "steps"

    lines: dict[str, Line]
    anywhere: bool = False
