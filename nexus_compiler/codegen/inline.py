"""Puts lowered regions where they are called, and what runs once at load before what reads it.

TVM's `InlinePrivateFunctions` leaves the open sizes of what it inlines under their old names, so
that they are sizes that nobody tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import IRModule, relax
from tvm.ir import BaseFunc, GlobalVar

from nexus_compiler.ir.bodies import replaced, with_body
from nexus_compiler.passes.layers import is_layer
from nexus_compiler.passes.prepare_weights import RUN
from nexus_compiler.passes.weights import INPUTS, PREPARE


def regions(module: IRModule, callees: Mapping[GlobalVar, relax.Function]) -> IRModule:
    """`module` with the bodies of `callees` for calls of them.

    A callee is one dataflow block that returns a tuple, or nothing but that tuple.
    """
    functions: dict[GlobalVar, BaseFunc] = {}
    for variable, function in module.functions.items():
        calls = isinstance(function, relax.Function) and _calls(function, callees)
        functions[variable] = _inlined(function, callees) if calls else function
    made = IRModule(functions, attrs=module.attrs)
    return relax.transform.CanonicalizeBindings()(relax.transform.Normalize()(made))


def layers(module: IRModule) -> IRModule:
    """`module` without functions for layers, for rooms that read one function at a time."""
    callees = {v: f for v, f in module.functions.items() if is_layer(f)}
    rest = {v: f for v, f in module.functions.items() if v not in callees}
    return regions(IRModule(rest, attrs=module.attrs), callees) if callees else module


def halves(module: IRModule) -> IRModule:
    """`module` with one function again for each that `prepare_weights` cut in two."""
    names = {str(variable.name_hint): variable for variable in module.functions}
    functions: dict[GlobalVar, BaseFunc] = {}
    for name, variable in names.items():
        function = module[variable]
        if name.endswith((PREPARE, RUN)) and isinstance(function, relax.Function):
            continue
        if name + PREPARE in names and name + RUN in names:
            early, late = module[names[name + PREPARE]], module[names[name + RUN]]
            function = _joined(function, early, late)
        functions[variable] = function
    made = IRModule(functions, attrs=module.attrs)
    return relax.transform.CanonicalizeBindings()(relax.transform.Normalize()(made))


def _calls(function: relax.Function, callees: Mapping[GlobalVar, relax.Function]) -> bool:
    return isinstance(function.body, relax.SeqExpr) and any(
        getattr(binding.value, "op", None) in callees
        for block in function.body.blocks
        for binding in block.bindings
    )


def _inlined(
    function: relax.Function, callees: Mapping[GlobalVar, relax.Function]
) -> relax.Function:
    results: dict[relax.Var, relax.Tuple] = {}

    def through(binding: relax.Binding) -> list[relax.Binding]:
        value = binding.value
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in results:
            part = results[value.tuple_value].fields[int(value.index)]
            return [relax.VarBinding(binding.var, part)]
        callee = callees.get(getattr(value, "op", None))
        if callee is None:
            return [binding]
        bindings, result = _body(callee, list(value.args))
        if not isinstance(result, relax.Tuple):
            return [*bindings, relax.VarBinding(binding.var, result)]
        # Nobody reads the tuple but for its parts, so that there need be none.
        results[binding.var] = result
        return bindings

    return with_body(function, replaced(function, through))


def _body(
    function: relax.Function, arguments: Sequence[relax.Expr]
) -> tuple[list[relax.Binding], relax.Expr]:
    """Fresh bindings that compute `function` of `arguments` within a dataflow block, and where."""
    fresh = relax.utils.copy_with_new_vars(function)
    bound = fresh.bind_params(dict(zip(fresh.params, arguments))) if arguments else fresh
    if not bound.body.blocks:  # all that it did proved to be nothing
        return [], bound.body.body
    (block,) = bound.body.blocks
    *bindings, last = block.bindings
    return bindings, last.value


def _joined(
    function: relax.Function, early: relax.Function, late: relax.Function
) -> relax.Function:
    whole = relax.utils.copy_with_new_vars(function)
    params, count = list(whole.params), int(function.attrs[INPUTS])
    bindings, result = _body(early, params[count:])
    run = relax.utils.copy_with_new_vars(late)
    one = len(run.body.blocks) == 1 and isinstance(run.body.blocks[0], relax.DataflowBlock)
    # What a dataflow block hands on to another is no variable of the block.
    kind = relax.DataflowVar if one else relax.Var
    handed = [kind("prepared", field.ty) for field in result.fields]
    bindings += [relax.VarBinding(v, field) for v, field in zip(handed, result.fields)]
    bound = run.bind_params(dict(zip(run.params, [*params, *handed])))
    blocks = list(bound.body.blocks)
    if one:
        blocks[0] = relax.DataflowBlock([*bindings, *blocks[0].bindings])
    else:
        blocks.insert(0, relax.DataflowBlock(bindings))
    return with_body(whole, relax.SeqExpr(blocks, bound.body.body))
