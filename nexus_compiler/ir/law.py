"""The law of the IR: what a module may hold at each stage, as an executable table.

Checked after every pass that declares the stage it `leaves` (after tinygrad's `uop/spec.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from tvm import IRModule, relax, tirx

from nexus_compiler.ir.calls import operators
from nexus_runtime.errors import InternalError

Rule = Callable[[IRModule, bool], Iterator[str]]
"""Yields one sentence for each breach; told whether to look at all."""

EVERYTHING = "NEXUS_CHECK_TYPES"
"""The variable by which every check is thorough; our tests set it."""


def check(module: IRModule, stage: str, *, after: str, thorough: bool = True) -> None:
    """Check `module` against the law of `stage`.

    Args:
        module: what a pass left.
        stage: a row of `LAW`.
        after: the name of the pass.
        thorough: whether to find the type of every expression anew, which takes a hundred times as
            long as all else.

    Raises:
        InternalError: it breaks a rule; the message names the pass `after` which it did.
    """
    for rule in LAW[stage]:
        for breach in rule(module, thorough or EVERYTHING in os.environ):
            raise InternalError(f"after pass '{after}' the module is not {stage}: {breach}")


def _relax_functions(module: IRModule) -> Iterator[tuple[str, relax.Function]]:
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            yield variable.name_hint, function


def _well_formed(module: IRModule, thorough: bool) -> Iterator[str]:
    try:
        relax.analysis.well_formed(module, check_ty=thorough)
    except Exception as error:
        # TVM raises different classes for different breaches.
        yield f"TVM's own verifier says: {error}"


def _nothing_lowered(module: IRModule, thorough: bool) -> Iterator[str]:
    del thorough
    for name, function in _relax_functions(module):
        if lowered := operators(function) & {"relax.call_tir", "relax.call_tir_inplace"}:
            yield f"function '{name}' already calls {min(lowered)}"
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            yield f"it holds the kernel '{variable.name_hint}'"


def _only_kernel_calls(module: IRModule, thorough: bool) -> Iterator[str]:
    del thorough
    for name, function in _relax_functions(module):
        for operator in sorted(operators(function) - _HOST_OPERATORS):
            yield f"function '{name}' still calls {operator}, for which TVM has no kernel"


_HOST_OPERATORS = {
    "relax.call_tir",
    "relax.call_tir_inplace",
    "relax.call_dps_packed",
    "relax.call_pure_packed",
    "relax.call_builtin_with_ctx",
    "relax.builtin.alloc_tensor",
    "relax.memory.alloc_storage",
    "relax.memory.alloc_tensor",
    "relax.memory.view",
    "relax.shape_of",
    "relax.shape_to_tensor",
    "relax.tensor_to_shape",
    "relax.reshape",
    "relax.size",
    "relax.null_value",
}

LAW: dict[str, tuple[Rule, ...]] = {
    "captured": (_well_formed, _nothing_lowered),
    "lowered": (_well_formed, _only_kernel_calls),
}
