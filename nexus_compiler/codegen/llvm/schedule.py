"""Gives every kernel the loop order, vectors and threads of its family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tvm import IRModule, s_tir, tirx
from tvm.ir import GlobalVar
from tvm.s_tir.stmt import SBlockRealize

from nexus_compiler.codegen.choices import ANALYSIS, Choices
from nexus_compiler.codegen.llvm import on_stack, questions, unchecked, vector_math, views, work
from nexus_compiler.codegen.llvm.keep_nan import keep_nan, largest_of_nan
from nexus_compiler.codegen.llvm.loosen import loosened
from nexus_compiler.codegen.llvm.name_sizes import name_sizes
from nexus_compiler.codegen.llvm.schedules import (
    attention,
    chain,
    dot,
    kernel,
    matmul,
    slide,
    sweep,
    winograd,
)
from nexus_compiler.codegen.llvm.schedules.initialise import initialise
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.remembered import Remembered
from nexus_compiler.passes.base import Pass
from nexus_runtime.work import NAIVE

FAMILIES = (
    winograd.schedule,
    dot.schedule,
    attention.schedule,
    sweep.schedule,
    slide.schedule,
    matmul.schedule,
    chain.schedule,
)
"""In the order of asking; the first that knows the kernel's form wins."""
# Powers of scores hand on NaN, whatever the largest score was taken to be.
_HAND_ON_NAN = ("attention",)


_MADE: Remembered[tirx.PrimFunc] = Remembered()


@dataclass(frozen=True)
class Schedule(Pass):
    """Apply the first schedule of `schedules/` that knows a kernel's form; others stay as they are.

    Attributes:
        vector_bits: bits of one vector register.
        vector_registers: how many there are.
        parallel_work: multiply-adds, or elements, from which on a kernel can run on all cores. That
            costs 0.3 us where nobody helps: what a kernel takes is learnt where it runs, and below
            5 us it is left to its caller (`nexus_runtime/threads/pool.c`). So the limit is low, for
            the sake of costly elements: 32768 hyperbolic tangents take 190 us.
        dot: the instruction for products of bytes (`limits.dot` of the target).
        choices: what was measured of kernels.
    """

    name: ClassVar[str] = "schedule"
    leaves: ClassVar[str] = "lowered"

    vector_bits: int = 256
    vector_registers: int = 16
    parallel_work: int = 32768
    dot: str = ""
    choices: Choices = ANALYSIS

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the kernels of `module`."""
        machine = Machine(self.vector_bits, self.vector_registers, self.parallel_work, self.dot)
        functions = {
            variable: self._remembered(variable, function, machine)
            if isinstance(function, tirx.PrimFunc)
            else function
            for variable, function in module.functions.items()
        }
        return IRModule(functions, attrs=module.attrs)

    def _remembered(
        self, variable: GlobalVar, given: tirx.PrimFunc, machine: Machine
    ) -> tirx.PrimFunc:
        """As `_accounted`; equal kernels of other regions are scheduled once."""
        if self.choices:  # whoever measures is to be asked of each
            return self._accounted(variable, given, machine)
        return _MADE.get((machine, given), lambda: self._accounted(variable, given, machine))

    def _accounted(
        self, variable: GlobalVar, given: tirx.PrimFunc, machine: Machine
    ) -> tirx.PrimFunc:
        """One kernel, scheduled, with what it has to do as attributes."""
        named = name_sizes(given)
        if (family := _made_as(named)) is not None:
            made = loosened(named).with_attr(work.FAMILY, family)
            return made.with_attrs({**work.measure(named), on_stack.STACK: on_stack.MOST})
        function = keep_nan(named)
        made = questions.guided_kernel(
            self.choices,
            self.name,
            variable,
            function,
            lambda guide: schedule(function, replace(machine, guide=guide)),
        )
        if made.attrs[work.FAMILY] not in _HAND_ON_NAN:
            made = largest_of_nan(made)
        finished = loosened(vector_math.expand(made))
        said = {on_stack.STACK: on_stack.MOST, unchecked.ATTRIBUTE: 1}
        return finished.with_attrs({**work.measure(function), **said})


def schedule(function: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """One kernel, scheduled, with its family as an attribute; naive where no family knows it."""
    if views.is_view(function):
        # Its loops must stay as TVM knows them: it calls nothing for them.
        return function.with_attr(work.FAMILY, "view")
    form = _form(function)
    if form is not None:
        for family in FAMILIES:
            scheduled = family(form, machine)
            if scheduled is not None and _is_closed(scheduled):
                return scheduled.with_attr(work.FAMILY, family.__module__.rpartition(".")[2])
    return initialise(function).with_attr(work.FAMILY, NAIVE)


def _made_as(function: tirx.PrimFunc) -> str | None:
    """The family of a kernel that was written with its loops, as its only block says."""
    if not isinstance(function.body, SBlockRealize):
        return None
    family = function.body.block.annotations.get(work.FAMILY)
    return None if family is None else str(family)


def _is_closed(function: tirx.PrimFunc) -> bool:
    """Whether every variable is bound by a loop or is an open dimension of a parameter.

    A family that leaves another one has met a form that it does not know (grouped convolutions over
    one axis); the naive kernel is slower, but right.
    """
    # A parameter may also be a size itself, which the arithmetic of an open dimension needs.
    tensors = [p.ty for p in function.params if hasattr(p.ty, "shape")]
    sizes = {v for ty in tensors for dim in ty.shape for v in kernel.variables(dim)}
    used = tirx.analysis.undefined_vars(function.body, list(function.params))
    return all(variable in sizes for variable in used)


def _form(function: tirx.PrimFunc) -> kernel.Kernel | None:
    try:
        return kernel.read(kernel.inline(function).mod["main"])
    except s_tir.ScheduleError:
        return None
