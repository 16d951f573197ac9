"""Takes what follows from the weights alone out of each call, to be computed once at load.

Transposed weights, the folded statistics of a batch norm, dequantised tables: the artifact keeps
the weights as the model has them, so that they can be replaced or trained without compiling again.

    main(inputs..., weights...)    becomes

    main__prepare(weights...) -> (prepared...)
    main__run(inputs..., weights..., prepared...) -> outputs
    main(inputs..., weights...)    calls both, for whoever does not keep what was prepared
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.weights import (
    INPUTS,
    PREPARE,
    bindings_of,
    partition,
    weights_of,
    with_bindings,
)

RUN = "__run"


@dataclass(frozen=True)
class PrepareWeights(Pass):
    """Split every function that says how many inputs it has; stands anywhere."""

    name: ClassVar[str] = "prepare_weights"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; functions in which nothing follows from the weights stay whole."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        layers = _layers(module)
        for variable in layers:
            _split(updated, str(variable.name_hint), module[variable])
        halves = {v: _halves(updated, v) for v in layers}
        for variable, function in module.functions.items():
            if _is_split(function) and variable not in halves:
                _split(updated, str(variable.name_hint), _through_halves(function, halves))
        for variable, found in halves.items():
            if found:
                del updated[variable]
        return relax.transform.CanonicalizeBindings()(updated)


def _is_split(function: tvm.ir.BaseFunc) -> bool:
    return isinstance(function, relax.Function) and INPUTS in (function.attrs or {})


Halves = tuple[tvm.ir.GlobalVar, int, tvm.ir.GlobalVar]
"""What prepares, how many tensors that gives, and what runs."""


def _layers(module: IRModule) -> list[tvm.ir.GlobalVar]:
    """Functions with weights that others call: what runs once in them, runs once in their callers.

    Layers call no layers.
    """
    called: dict[tvm.ir.GlobalVar, None] = {}
    for function in module.functions.values():
        for binding in (_is_split(function) and bindings_of(function)) or ():
            callee = getattr(binding.value, "op", None)
            if isinstance(callee, tvm.ir.GlobalVar) and _is_split(module[callee]):
                called[callee] = None
    return list(called)


def _halves(module: IRModule, variable: tvm.ir.GlobalVar) -> Halves | None:
    names = {str(v.name_hint): v for v in module.functions}
    prepare = names.get(variable.name_hint + PREPARE)
    if prepare is None:
        return None
    return prepare, len(module[prepare].ret_ty.fields), names[variable.name_hint + RUN]


def _through_halves(
    function: relax.Function, halves: Mapping[tvm.ir.GlobalVar, Halves | None]
) -> relax.Function:
    """`function` with calls of both halves of a layer instead of calls of the layer."""
    if bindings_of(function) is None or not any(halves.values()):
        return function

    def through(binding: relax.Binding) -> list[relax.Binding]:
        found = halves.get(getattr(binding.value, "op", None))
        if found is None:
            return [binding]
        prepare, count, run = found
        arguments = list(binding.value.args)
        weights = arguments[len(arguments) - _weights_of(prepare) :]
        prepared = _variable("prepared", relax.Call(prepare, weights), prepare.ty.ret)
        parts = [
            _variable("part", relax.TupleGetItem(prepared.var, i), prepared.var.ty.fields[i])
            for i in range(count)
        ]
        call = relax.Call(run, [*arguments, *(part.var for part in parts)])
        relax.expr._update_type(call, binding.var.ty)
        return [prepared, *parts, relax.VarBinding(binding.var, call)]

    body = with_bindings(function, through)
    return relax.Function(function.params, body, function.ret_ty, True, function.attrs)


def _weights_of(prepare: tvm.ir.GlobalVar) -> int:
    return len(prepare.ty.params)


def _variable(name: str, value: relax.Expr, ty: tvm.ir.Type) -> relax.VarBinding:
    if isinstance(value, relax.Call):
        # What follows from weights alone has no open sizes: the callee's type is the call's.
        relax.expr._update_type(value, ty)
    return relax.VarBinding(relax.DataflowVar(name, ty), value)


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
    body = relax.SeqExpr([relax.DataflowBlock([*early, pack])], result)
    prepare = _add(module, name + PREPARE, _function(weights, body, result.ty))
    fresh = [relax.Var(variable.name, variable.ty) for variable in prepared]
    gone = {binding.var for binding in early}
    kept = with_bindings(function, lambda binding: [] if binding.var in gone else [binding])
    # Variables of a dataflow block cannot be parameters.
    open_ = relax.Function([*prepared], kept, function.ret_ty)
    body = open_.bind_params(dict(zip(prepared, fresh))).body
    later = _function([*inputs, *weights, *fresh], body, function.ret_ty)
    run = _add(module, name + RUN, later.with_attr(INPUTS, len(inputs)))
    _call_both(module, name, function, (prepare, len(prepared)), run)


def _crossing(early: list[relax.Binding], late: list[relax.Binding]) -> list[relax.Var]:
    used = {variable for binding in late for variable in relax.analysis.free_vars(binding.value)}
    return [binding.var for binding in early if binding.var in used]


def _function(params: list[relax.Var], body: relax.SeqExpr, result: tvm.ir.Type) -> relax.Function:
    # Each function needs variables of its own.
    return relax.utils.copy_with_new_vars(relax.Function(params, body, result))


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
