"""Puts operators that shall become one kernel into a function of their own."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import IRModule, relax
from tvm.ir import GlobalVar
from tvm.ir.expr import GenericConst


def outlined(module: IRModule, bindings: Sequence[relax.VarBinding], name: str) -> relax.VarBinding:
    """A call of a new function of `module` that holds `bindings`; the last is its result.

    TVM's fusion makes one kernel of it, once its operators have been legalized.
    """
    *before, last = bindings
    read = _read(bindings)
    arguments: list[relax.Expr] = list(read)
    # What a block hands on within itself cannot be a parameter of the same name.
    rename = _Rename({v: relax.Var(v.name, v.ty) for v in read})
    lifted: list[tuple[relax.Var, relax.Expr]] = []
    result = relax.Var(name, last.var.ty)
    inner = [_lifted(binding, binding.var, lifted, rename) for binding in before]
    inner.append(_lifted(last, result, lifted, rename))
    params = [*rename.names.values(), *(variable for variable, _ in lifted)]
    arguments += [constant for _, constant in lifted]
    body = relax.SeqExpr([relax.DataflowBlock(inner)], result)
    function = relax.utils.copy_with_new_vars(relax.Function(params, body, result.ty))
    # Not by a BlockBuilder, which copies the module for every function.
    variable = GlobalVar(f"{name}_{len(module.functions)}")
    relax.expr._update_type(variable, function.ty)
    module.update_func(variable, function.with_attr("Primitive", True))
    return relax.VarBinding(last.var, relax.Call(variable, arguments))


def tells_sizes(bindings: Sequence[relax.VarBinding]) -> bool:
    """Whether every size in `bindings` is one of a tensor that they read."""
    shapes = [tensor.ty.shape for tensor in _read(bindings)]
    told = {size for shape in shapes if isinstance(shape, relax.ShapeExpr) for size in shape.values}
    used = {size for b in bindings for size in relax.analysis.tir_vars_in_type(b.var.ty)}
    return all(size in told for size in used)


def _read(bindings: Sequence[relax.VarBinding]) -> list[relax.Var]:
    """The tensors that `bindings` read, without those that they make; sizes are none."""
    own = {binding.var for binding in bindings}
    read = [v for b in bindings for v in relax.analysis.free_vars(b.value) if v not in own]
    return [v for v in dict.fromkeys(read) if isinstance(v.ty, relax.TensorType)]


@relax.expr_functor.mutator
class _Rename(relax.PyExprMutator):
    def __init__(self, names: dict[relax.Var, relax.Var]) -> None:
        super().__init__()
        self.names = names

    def visit_var_(self, variable: relax.Var) -> relax.Var:
        return self.names.get(variable, variable)

    def visit_dataflow_var_(self, variable: relax.Var) -> relax.Var:
        return self.names.get(variable, variable)


def _lifted(
    binding: relax.VarBinding,
    variable: relax.Var,
    found: list[tuple[relax.Var, relax.Expr]],
    rename: _Rename,
) -> relax.VarBinding:
    """`binding` for `variable`, with a parameter for each constant that stays a tensor.

    Legalization writes numbers into sums and products only.
    """
    call = rename.visit_expr(binding.value)
    if call.op.name != "relax.where" and all(map(_is_scalar, call.args)):
        return relax.VarBinding(variable, call)

    def lift(argument: relax.Expr) -> relax.Expr:
        if not isinstance(argument, GenericConst):
            return argument
        found.append((relax.Var("constant", argument.ty), argument))
        return found[-1][0]

    return relax.VarBinding(variable, relax.Call(call.op, list(map(lift, call.args)), call.attrs))


def _is_scalar(argument: relax.Expr) -> bool:
    return not isinstance(argument, GenericConst) or argument.ty.ndim == 0
