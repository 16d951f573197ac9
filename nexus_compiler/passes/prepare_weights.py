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

from nexus_compiler.ir.bodies import replaced
from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.weights import (
    INPUTS,
    PREPARE,
    bindings_of,
    partition,
    weights_of,
)

RUN = "__run"


@dataclass(frozen=True)
class PrepareWeights(Pass):
    """Split every function that says how many inputs it has; stands anywhere."""

    name: ClassVar[str] = "prepare_weights"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the module; functions in which nothing follows from the weights stay whole."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        halves: dict[tvm.ir.GlobalVar, _Halves] = {}
        for variable in _layers(module):
            found = _split(updated, str(variable.name_hint), module[variable], sparing=True)
            if found is not None:
                halves[variable] = found
        for variable, function in module.functions.items():
            name = str(variable.name_hint)
            if not _is_split(function) or variable in halves:
                continue
            whole = _through_halves(function, halves)
            found = _split(updated, name, whole)
            if found is not None:
                _call_both(updated, name, whole, found)
            elif whole is not function:
                updated.update_func(variable, whole)
        for variable in halves:
            del updated[variable]
        return relax.transform.CanonicalizeBindings()(updated)


def _is_split(function: tvm.ir.BaseFunc) -> bool:
    return isinstance(function, relax.Function) and INPUTS in (function.attrs or {})


@dataclass(frozen=True)
class _Halves:
    """What prepares, how many tensors that gives, and what runs behind how many inputs.

    Attributes:
        early: the places of the weights that the first half takes, among all of them.
        late: those of the second half.
    """

    prepare: tvm.ir.GlobalVar
    count: int
    inputs: int
    run: tvm.ir.GlobalVar
    early: list[int]
    late: list[int]


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


def _through_halves(
    function: relax.Function, halves: Mapping[tvm.ir.GlobalVar, _Halves]
) -> relax.Function:
    """`function` with calls of both halves of a layer instead of calls of the layer."""
    if bindings_of(function) is None or not halves:
        return function

    def through(binding: relax.Binding) -> list[relax.Binding]:
        found = halves.get(getattr(binding.value, "op", None))
        if found is None:
            return [binding]
        arguments = list(binding.value.args)
        inputs, weights = arguments[: found.inputs], arguments[found.inputs :]
        early = relax.Call(found.prepare, [weights[place] for place in found.early])
        prepared = _variable("prepared", early, found.prepare.ty.ret)
        parts = [
            _variable("part", relax.TupleGetItem(prepared.var, i), prepared.var.ty.fields[i])
            for i in range(found.count)
        ]
        late = [weights[place] for place in found.late]
        call = relax.Call(found.run, [*inputs, *late, *(part.var for part in parts)])
        relax.expr._update_type(call, binding.var.ty)
        return [prepared, *parts, relax.VarBinding(binding.var, call)]

    body = replaced(function, through)
    return relax.Function(function.params, body, function.ret_ty, True, function.attrs)


def _variable(name: str, value: relax.Expr, ty: tvm.ir.Type) -> relax.VarBinding:
    if isinstance(value, relax.Call):
        # What follows from weights alone has no open sizes: the callee's type is the call's.
        relax.expr._update_type(value, ty)
    return relax.VarBinding(relax.DataflowVar(name, ty), value)


def _split(
    module: IRModule, name: str, function: relax.Function, *, sparing: bool = False
) -> _Halves | None:
    """Put both halves of `function` into `module`; None where nothing can be prepared.

    Args:
        module: gets them.
        name: what `function` is called.
        function: says how many inputs it has.
        sparing: a half takes only the weights that it reads.
    """
    bindings, weights = bindings_of(function), weights_of(function)
    if bindings is None:
        return None
    inputs = list(function.params[: len(function.params) - len(weights)])
    early, late = partition(bindings, weights)
    read = _read(late)
    prepared = [binding.var for binding in early if binding.var in read]
    if not prepared:
        return None
    every = list(range(len(weights)))
    first = _places(weights, _read(early)) if sparing else every
    second = _places(weights, read) if sparing else every
    result = relax.Var("prepared", relax.TupleType([variable.ty for variable in prepared]))
    pack = relax.VarBinding(result, relax.Tuple(prepared))
    body = relax.SeqExpr([relax.DataflowBlock([*early, pack])], result)
    own = [weights[place] for place in first]
    prepare = _add(module, name + PREPARE, _function(own, body, result.ty))
    fresh = [relax.Var(variable.name, variable.ty) for variable in prepared]
    gone = {binding.var for binding in early}
    kept = replaced(function, lambda binding: [] if binding.var in gone else [binding])
    # Variables of a dataflow block cannot be parameters.
    open_ = relax.Function([*prepared], kept, function.ret_ty)
    body = open_.bind_params(dict(zip(prepared, fresh))).body
    own = [weights[place] for place in second]
    later = _function([*inputs, *own, *fresh], body, function.ret_ty)
    run = _add(module, name + RUN, later.with_attr(INPUTS, len(inputs)))
    return _Halves(prepare, len(prepared), len(inputs), run, first, second)


def _read(bindings: list[relax.Binding]) -> set[relax.Var]:
    return {variable for b in bindings for variable in relax.analysis.free_vars(b.value)}


def _places(weights: list[relax.Var], read: set[relax.Var]) -> list[int]:
    return [place for place, weight in enumerate(weights) if weight in read]


def _function(params: list[relax.Var], body: relax.SeqExpr, result: tvm.ir.Type) -> relax.Function:
    # Each function needs variables of its own.
    return relax.utils.copy_with_new_vars(relax.Function(params, body, result))


def _add(module: IRModule, name: str, function: relax.Function) -> tvm.ir.GlobalVar:
    variable = tvm.ir.GlobalVar(name)
    relax.expr._update_type(variable, function.ty)
    module.update_func(variable, function.with_attr("global_symbol", name))
    return module.get_global_var(name)


def _call_both(module: IRModule, name: str, function: relax.Function, halves: _Halves) -> None:
    """`function` in `module` as a call of both halves, which take all weights."""
    # The builder looks the callees up in its module, and gives the new function a name of its own.
    block, whole = relax.BlockBuilder(module), relax.utils.copy_with_new_vars(function)
    count, params = halves.inputs, list(whole.params)
    with block.function(f"{name}__whole", params):
        with block.dataflow():
            prepared = block.emit(relax.Call(halves.prepare, params[count:]))
            parts = [block.emit(relax.TupleGetItem(prepared, i)) for i in range(halves.count)]
            output = block.emit_output(relax.Call(halves.run, [*params, *parts]))
        block.emit_func_output(output)
    emitted = block.get()[f"{name}__whole"].with_attrs({INPUTS: count, "global_symbol": name})
    module.update_func(module.get_global_var(name), emitted)
