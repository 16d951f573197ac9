"""What follows from a function's weights alone, and can be computed when they are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax
from tvm.ir import GlobalVar, Op

from nexus_compiler.ir.region import INPUTS

DONATED = "nexus.donated"
"""The attribute that tells, output by output, which parameter's memory it may take; -1 for none."""

PREPARE = "__prepare"
"""Ending of the name of a function that computes what follows from weights alone."""


def bindings_of(function: relax.Function) -> list[relax.Binding] | None:
    """The bindings of `function`; None where it has control flow: what it calls is looked at alone.

    Also None where it does not say which of its parameters are weights.
    """
    if INPUTS not in (function.attrs or {}) or not isinstance(function.body, relax.SeqExpr):
        return None
    blocks = function.body.blocks
    if not blocks or not all(_is_straight(block) for block in blocks):
        return None
    return [binding for block in blocks for binding in block.bindings]


def _is_straight(block: relax.BindingBlock) -> bool:
    # `fence` leaves matches in blocks of their own.
    return isinstance(block, relax.DataflowBlock) or all(
        isinstance(binding, relax.MatchCast) for binding in block.bindings
    )


def weights_of(function: relax.Function) -> list[relax.Var]:
    """The parameters of `function` that are weights."""
    return list(function.params[int(function.attrs[INPUTS]) :])


def partition(
    bindings: Sequence[relax.Binding], weights: Sequence[relax.Var]
) -> tuple[list[relax.Binding], list[relax.Binding]]:
    """Bindings that follow from `weights` alone, and the others; the last is always among those."""
    known = set(weights)
    early: list[relax.Binding] = []
    late: list[relax.Binding] = []
    for binding in bindings[:-1]:
        if follows(binding, known):
            known.add(binding.var)
            early.append(binding)
        else:
            late.append(binding)
    return early, [*late, bindings[-1]]


def follows(binding: relax.Binding, known: set[relax.Var]) -> bool:
    """Whether a binding computes something of `known` alone that has no open sizes."""
    if not isinstance(binding, relax.VarBinding):
        return False
    value = binding.value
    if isinstance(value, relax.TupleGetItem):
        return all(variable in known for variable in relax.analysis.free_vars(value))
    if not isinstance(value, relax.Call):
        return False
    if not isinstance(value.op, Op) and not _prepares(value.op):
        return False
    variables = relax.analysis.free_vars(value)
    if not len(variables) or not all(variable in known for variable in variables):
        return False
    # A size that the inputs decide is not known yet when weights are loaded.
    return not len(relax.analysis.tir_vars_in_type(binding.var.ty))


def _prepares(callee: relax.Expr) -> bool:
    return isinstance(callee, GlobalVar) and str(callee.name_hint).endswith(PREPARE)
