"""Kernels by content: equal kernels of different regions, models and processes have one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar

from nexus_compiler.codegen.remembered import Remembered
from nexus_compiler.ir import canonical
from nexus_compiler.ir.region import Renamer
from nexus_runtime.work import Kernel as Work


@dataclass(frozen=True, eq=False)
class Kernel:
    """A scheduled kernel.

    Attributes:
        name: what the linker calls it; follows from its content.
        content: canonical digest.
        work: what it computes.
        head: a kernel of the same parameters, which may be empty.
        load: the kernel itself; reads the store where this process did not make it.
    """

    name: str
    content: str
    work: Work
    head: tirx.PrimFunc
    load: Callable[[], tirx.PrimFunc]


Describe = Callable[[tirx.PrimFunc, str], Work]
"""Tells what a kernel of the name that TVM gave it computes."""


_NAMELESS: Remembered[tuple[str, tirx.PrimFunc]] = Remembered()


def named(
    module: IRModule, variables: dict[str, GlobalVar], describe: Describe
) -> tuple[IRModule, dict[str, Kernel]]:
    """`module` with its kernels called by their content, and these by name.

    `variables` has the one variable of each name that all modules share; it grows.
    """
    kernels: dict[str, Kernel] = {}
    renamed: dict[GlobalVar, GlobalVar] = {}
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            kernel = _kernel(_ordered(function), describe, str(variable.name_hint))
            known = kernels.setdefault(kernel.name, kernel)
            # Of the labels of equal kernels the first counts, not that of whoever came first.
            if kernel.work.label < known.work.label:
                kernels[kernel.name] = kernel
            renamed[variable] = shared(variables, kernel.name, variable)
    functions: dict[GlobalVar, tvm.ir.BaseFunc] = rename(module, renamed)
    for name, kernel in kernels.items():
        functions[variables[name]] = kernel.head
    return IRModule(functions, attrs=module.attrs), kernels


def name_of(content: str) -> str:
    """What the linker calls the kernel of a canonical digest."""
    return f"k_{content[:32]}"


def _kernel(function: tirx.PrimFunc, describe: Describe, label: str) -> Kernel:
    content, function = _NAMELESS.get(
        (None, function), lambda: canonical.digest_and_nameless(function)
    )
    name = name_of(content)
    function = function.with_attr("global_symbol", name)
    return Kernel(name, content, describe(function, label), function, lambda: function)


def shared(variables: dict[str, GlobalVar], name: str, like: GlobalVar) -> GlobalVar:
    """The one variable of `name`, made with the type of `like` where there is none yet."""
    if name not in variables:
        variables[name] = GlobalVar(name)
        relax.expr._update_type(variables[name], like.ty)
    return variables[name]


def rename(module: IRModule, names: dict[GlobalVar, GlobalVar]) -> dict[GlobalVar, tvm.ir.BaseFunc]:
    """The Relax functions of `module`, which call others by their new names."""
    mutator = Renamer(names, module)
    return {
        names.get(variable, variable): mutator.visit_expr(function)
        for variable, function in module.functions.items()
        if isinstance(function, relax.Function)
    }


def _ordered(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Shape functions with their stores in the order of their slots.

    TVM emits them in the order of a hash table over addresses, which differs from run to run. They
    write distinct slots and read only those of the input dimensions, so that any order is right.
    """
    body = function.body
    if "tirx.is_host_func" not in function.attrs or not isinstance(body, tirx.SeqStmt):
        return function
    if not all(isinstance(store, tirx.BufferStore) for store in body.seq):
        return function
    stores = sorted(body.seq, key=lambda store: int(store.indices[0]))
    return function.with_body(tirx.SeqStmt(stores))
