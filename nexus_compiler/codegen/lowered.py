"""A lowered region, and what the store keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar
from tvm.s_tir.stmt import SBlockRealize

from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.ir import serial
from nexus_compiler.ir.calls import callees
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.ir.region import Region
from nexus_runtime.work import Kernel as Work


@dataclass(frozen=True, eq=False)
class Lowered:
    """A region as calls of kernels: a function, and these by name.

    `questions` that it met, digest and label, are known where somebody has answers.
    """

    function: relax.Function
    kernels: Mapping[str, Kernel]
    questions: tuple[tuple[str, str], ...] | None = None


class Entry(msgspec.Struct, frozen=True):
    """What the store has of a region: TVM's JSON, and kernels' digests and descriptions by name."""

    module: str
    kernels: dict[str, tuple[str, Work]]
    questions: tuple[tuple[str, str], ...] | None = None


def encode(lowered: Lowered, region: Region) -> bytes:
    """The entry of `lowered`, without the loops of its kernels."""
    functions: dict[GlobalVar, tvm.ir.BaseFunc] = {region.variable: lowered.function}
    called = {v.name_hint: v for v in callees(lowered.function)}
    for name, kernel in lowered.kernels.items():
        functions[called[name]] = head(kernel.head)
    text = serial.dumps(IRModule(functions))
    kernels = {name: (kernel.content, kernel.work) for name, kernel in lowered.kernels.items()}
    return msgspec.json.encode(Entry(text, kernels, lowered.questions), order="deterministic")


def decode(payload: bytes) -> Entry | None:
    """An entry; None where it is of another release."""
    try:
        return msgspec.json.decode(payload, type=Entry)
    except msgspec.DecodeError:
        return None


def kernel_key(content: str) -> Fingerprint:
    """The key of the loops of a kernel."""
    return Fingerprint((("content", content),))


def to_json(function: tirx.PrimFunc) -> bytes:
    """Loops for the store."""
    return serial.dumps(function).encode()


def head(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel that does nothing: those who call it look at no more than its parameters.

    One that only reshapes stays as it is: TVM looks at its loops, and calls no kernel for it.
    """
    loops = isinstance(kernel.body, SBlockRealize)  # of nothing else it may be asked
    if loops and relax.analysis.has_reshape_pattern(kernel):
        return kernel
    return tirx.PrimFunc(kernel.params, tirx.Evaluate(0), attrs=kernel.attrs)
