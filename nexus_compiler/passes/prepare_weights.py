"""Takes what follows from the weights alone out of each call, to be computed once at load.

Transposed weights, the folded statistics of a batch norm, dequantised tables: the artifact keeps
the weights as the model has them, so that they can be replaced or trained without compiling again.

    main(inputs..., weights...)    becomes

    main__prepare(weights...) -> (prepared...)
    main__run(inputs..., weights..., prepared...) -> outputs
    main(inputs..., weights...)    calls both, for whoever does not keep what was prepared
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.weights import INPUTS, bindings_of, partition, weights_of

PREPARE, RUN = "__prepare", "__run"


@dataclass(frozen=True)
class PrepareWeights(Pass):
    """Split every function that says how many inputs it has; stands anywhere."""

    name: ClassVar[str] = "prepare_weights"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; functions in which nothing follows from the weights stay whole."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and INPUTS in (function.attrs or {}):
                _split(updated, str(variable.name_hint), function)
        return relax.transform.CanonicalizeBindings()(updated)


def _split(module: IRModule, name: str, function: relax.Function) -> None:
    bindings, weights = bindings_of(function), weights_of(function)
    if bindings is None:
        return
    inputs = list(function.params[: len(function.params) - len(weights)])
    early, late = partition(bindings, weights)
    prepared = _crossing(early, late)
    if not prepared:
        return
    result = relax.Var("prepared", relax.TupleType([variable.ty for variable in prepared]))
    pack = relax.VarBinding(result, relax.Tuple(prepared))
    prepare = _add(module, name + PREPARE, _function(weights, [*early, pack], result))
    fresh = [relax.Var(variable.name, variable.ty) for variable in prepared]
    entry = [relax.VarBinding(old, new) for old, new in zip(prepared, fresh)]
    params = [*inputs, *weights, *fresh]
    later = _function(params, [*entry, *late], function.body.body).with_attr(INPUTS, len(inputs))
    run = _add(module, name + RUN, later)
    _call_both(module, name, function, (prepare, len(prepared)), run)


def _crossing(early: list[relax.VarBinding], late: list[relax.VarBinding]) -> list[relax.Var]:
    used = {variable for binding in late for variable in relax.analysis.free_vars(binding.value)}
    return [binding.var for binding in early if binding.var in used]


def _function(
    params: list[relax.Var], bindings: list[relax.VarBinding], result: relax.Var
) -> relax.Function:
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], result)
    # Each function needs variables of its own.
    return relax.utils.copy_with_new_vars(relax.Function(params, body, result.ty))


def _add(module: IRModule, name: str, function: relax.Function) -> tvm.ir.GlobalVar:
    variable = tvm.ir.GlobalVar(name)
    relax.expr._update_type(variable, function.ty)
    module.update_func(variable, function.with_attr("global_symbol", name))
    return module.get_global_var(name)


def _call_both(
    module: IRModule,
    name: str,
    function: relax.Function,
    prepare: tuple[tvm.ir.GlobalVar, int],
    run: tvm.ir.GlobalVar,
) -> None:
    """`function` again, as a call of both halves."""
    # The builder looks the callees up in its module, and gives the new function a name of its own.
    block, whole = relax.BlockBuilder(module), relax.utils.copy_with_new_vars(function)
    count, params = int(function.attrs[INPUTS]), list(whole.params)
    with block.function(f"{name}__whole", params):
        with block.dataflow():
            prepared = block.emit(relax.Call(prepare[0], params[count:]))
            parts = [block.emit(relax.TupleGetItem(prepared, i)) for i in range(prepare[1])]
            output = block.emit_output(relax.Call(run, [*params, *parts]))
        block.emit_func_output(output)
    emitted = block.get()[f"{name}__whole"].with_attrs({INPUTS: count, "global_symbol": name})
    module.update_func(module.get_global_var(name), emitted)
