"""The law of the IR: what a module may hold at each stage, as an executable table.

Checked after every pass that declares the stage it `leaves` (after tinygrad's `uop/spec.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.relax.analysis import post_order_visit

from nexus_runtime.errors import InternalError

Rule = Callable[[IRModule], Iterator[str]]
"""Yields one sentence for each breach."""


def check(module: IRModule, stage: str, *, after: str) -> None:
    """Check `module` against the law of `stage`.

    Raises:
        InternalError: it breaks a rule; the message names the pass `after` which it did.
    """
    for rule in LAW[stage]:
        for breach in rule(module):
            raise InternalError(f"after pass '{after}' the module is not {stage}: {breach}")


def _relax_functions(module: IRModule) -> Iterator[tuple[str, relax.Function]]:
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            yield variable.name_hint, function


def operators(function: relax.Function) -> set[str]:
    """The names of all operators that `function` calls."""
    found: set[str] = set()

    def visit(node: relax.Expr) -> None:
        if isinstance(node, relax.Call) and isinstance(node.op, Op):
            found.add(node.op.name)

    post_order_visit(function, visit)
    return found


def _well_formed(module: IRModule) -> Iterator[str]:
    try:
        relax.analysis.well_formed(module)
    except Exception as error:
        # TVM raises different classes for different breaches.
        yield f"TVM's own verifier says: {error}"


def _nothing_lowered(module: IRModule) -> Iterator[str]:
    for name, function in _relax_functions(module):
        if lowered := operators(function) & {"relax.call_tir", "relax.call_tir_inplace"}:
            yield f"function '{name}' already calls {min(lowered)}"
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            yield f"it holds the kernel '{variable.name_hint}'"


def _only_kernel_calls(module: IRModule) -> Iterator[str]:
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
