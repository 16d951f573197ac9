"""Gradients inside a region, by the pass that trainers use."""

from __future__ import annotations

from typing import Any

from tvm import IRModule, relax

from nexus_compiler.frontend.tracing.emission.region import Binding
from nexus_compiler.passes.differentiate import Differentiate


def differentiate(
    block: relax.BlockBuilder, bindings: list[Binding], loss: Any, sources: list[Any]
) -> list[Any]:
    """Emit the gradients of `loss` by `sources` to `block`, behind `bindings`.

    The bindings between the sources and the loss are handed to the pass as a function of their own,
    with the very variables of the block; what the pass appends to it is emitted to the block.

    Raises:
        UnsupportedOperator: an operator on the way has no gradient.
    """
    between = _between(bindings, sources)
    defined = {variable for variable, _ in between}
    free = {one: None for _, value in between for one in relax.analysis.free_vars(value)}
    free[loss] = None  # it may not depend on the sources at all
    params = [*sources, *(one for one in free if one not in defined and one not in sources)]
    function = _function(params, between, loss)
    wanted = tuple(range(len(sources)))
    result = Differentiate("main", wanted).apply(IRModule({"main": function}))["main"]
    *added, last = list(result.body.blocks[0].bindings)[len(between) :]
    for binding in added:
        block.emit_normalized(binding)
        bindings.append((binding.var, binding.value))
    return list(last.value.fields)[1:]


def _between(bindings: list[Binding], sources: list[Any]) -> list[Binding]:
    active, found = set(sources), []
    for variable, value in bindings:
        if variable not in active and any(one in active for one in relax.analysis.free_vars(value)):
            active.add(variable)
            found.append((variable, value))
    return found


def _function(params: list[Any], bindings: list[Binding], loss: Any) -> relax.Function:
    output = relax.Tuple([loss])
    result = relax.Var("result", relax.TupleType([loss.ty]))
    listed = [relax.VarBinding(variable, value) for variable, value in bindings]
    block = relax.DataflowBlock([*listed, relax.VarBinding(result, output)])
    return relax.Function(params, relax.SeqExpr([block], result), result.ty)
