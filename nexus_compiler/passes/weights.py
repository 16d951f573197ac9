"""What follows from a function's weights alone, and can be computed when they are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax
from tvm.ir import Op

INPUTS = "nexus.inputs"
"""The attribute of a function that tells how many of its parameters are inputs; weights follow."""

DONATED = "nexus.donated"
"""The attribute that tells, output by output, which parameter's memory it may take; -1 for none."""


def bindings_of(function: relax.Function) -> list[relax.VarBinding] | None:
    """The bindings of `function`; None where it has control flow: what it calls is looked at alone.

    Also None where it does not say which of its parameters are weights.
    """
    blocks = function.body.blocks
    if INPUTS not in (function.attrs or {}):
        return None
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        return None
    return list(blocks[0].bindings)


def weights_of(function: relax.Function) -> list[relax.Var]:
    """The parameters of `function` that are weights."""
    return list(function.params[int(function.attrs[INPUTS]) :])


def partition(
    bindings: Sequence[relax.VarBinding], weights: Sequence[relax.Var]
) -> tuple[list[relax.VarBinding], list[relax.VarBinding]]:
    """Bindings that follow from `weights` alone, and the others; the last is always among those."""
    known = set(weights)
    early: list[relax.VarBinding] = []
    late: list[relax.VarBinding] = []
    for binding in bindings[:-1]:
        if _follows(binding, known):
            known.add(binding.var)
            early.append(binding)
        else:
            late.append(binding)
    return early, [*late, bindings[-1]]


def _follows(binding: relax.VarBinding, known: set[relax.Var]) -> bool:
    value = binding.value
    if not isinstance(value, relax.Call) or not isinstance(value.op, Op):
        return False
    variables = relax.analysis.free_vars(value)
    if not len(variables) or not all(variable in known for variable in variables):
        return False
    # A size that the inputs decide is not known yet when weights are loaded.
    return not len(relax.analysis.tir_vars_in_type(binding.var.ty))
