"""Reverse-mode differentiation of one Relax function.

TVM's own `Gradient` pass walks everything that the loss depends on, and stops at operators without
a gradient even where no weight is behind them (the integers of a dropout mask). This one follows
only *active* variables: those that depend on a wanted parameter. Operator gradients are those of
`passes/gradients/`, and TVM's (`FPrimalGradient`) for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import IRModule, relax
from tvm.ir import Op

from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.gradients import table
from nexus_compiler.passes.gradients.rule import Site
from nexus_runtime.errors import InternalError, UnsupportedOperator

_GRADIENT = "FPrimalGradient"
_NOTHING = Op.get("relax.grad.no_grad")
Adjoint = Any
"""An expression, or for a tuple a list of adjoints; None where nothing has reached it yet."""
_Pair = tuple[Any, Any]
"""A variable and what it is bound to."""


@dataclass(frozen=True)
class Differentiate(Pass):
    """Append the gradients of a function's first result to what it returns.

    `function(...) -> (loss, rest...)` becomes `-> (loss, rest..., gradient of each wanted one...)`.
    Of a loss with several elements they are the gradients of its sum.

    Attributes:
        function: the name of the function; its loss is of a float type.
        wanted: positions of the parameters to differentiate by.
    """

    name: ClassVar[str] = "differentiate"
    leaves: ClassVar[str] = "captured"

    function: str
    wanted: tuple[int, ...]

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite `function`; others stay as they are.

        Raises:
            UnsupportedOperator: an operator on the way to a wanted parameter has no gradient.
        """
        original = module[self.function]
        block = relax.BlockBuilder()
        params = list(original.params)
        with block.function(self.function, params):
            with block.dataflow():
                output = block.emit_output(_differentiate(block, original, self.wanted))
            block.emit_func_output(output)
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        updated.update_func(updated.get_global_var(self.function), block.get()[self.function])
        return updated


def emit_gradients(
    block: relax.BlockBuilder,
    bindings: list[_Pair],
    loss: Any,
    sources: list[Any],
) -> list[Any]:
    """Emit the gradients of `loss` by `sources` to `block`, behind `bindings`.

    The bindings between the sources and the loss are handed to the pass as a function of their own,
    with the very variables of the block; what the pass appends to it is emitted to the block, and
    appended to `bindings`.

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


def _between(bindings: list[_Pair], sources: list[Any]) -> list[_Pair]:
    active, found = set(sources), []
    for variable, value in bindings:
        if variable not in active and any(one in active for one in relax.analysis.free_vars(value)):
            active.add(variable)
            found.append((variable, value))
    return found


def _function(params: list[Any], bindings: list[_Pair], loss: Any) -> relax.Function:
    output = relax.Tuple([loss])
    result = relax.Var("result", relax.TupleType([loss.ty]))
    listed = [relax.VarBinding(variable, value) for variable, value in bindings]
    block = relax.DataflowBlock([*listed, relax.VarBinding(result, output)])
    return relax.Function(params, relax.SeqExpr([block], result), result.ty)


def _differentiate(
    block: relax.BlockBuilder, function: relax.Function, wanted: tuple[int, ...]
) -> relax.Tuple:
    bindings = _bindings(function)
    for binding in bindings:
        block.emit_normalized(_as_local(binding))
    results = list(_result(function, bindings).fields)
    sources = [function.params[index] for index in wanted]
    sweep = _Sweep(block, sources, bindings)
    sweep.seed(results[0])
    for binding in reversed(bindings):
        sweep.step(binding)
    return relax.Tuple([*results, *(sweep.gradient(source) for source in sources)])


def _bindings(function: relax.Function) -> list[relax.VarBinding]:
    blocks = function.body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        raise InternalError("a function to differentiate must be one dataflow block")
    bindings = list(blocks[0].bindings)
    # The last binding is the tuple that is returned; the new function returns a longer one.
    return bindings[:-1]


def _result(function: relax.Function, bindings: list[relax.VarBinding]) -> relax.Tuple:
    last = function.body.blocks[0].bindings[-1]
    if not isinstance(last.value, relax.Tuple) or not last.var.same_as(function.body.body):
        raise InternalError("a function to differentiate must end in the tuple that it returns")
    return last.value


def _as_local(binding: relax.VarBinding) -> relax.VarBinding:
    if not isinstance(binding.var, relax.DataflowVar):
        raise InternalError(f"'{binding.var.name}' leaves its dataflow block before the end")
    return binding


class _Sweep:
    """The walk from the loss back: adjoints by variable."""

    def __init__(
        self,
        block: relax.BlockBuilder,
        sources: list[relax.Var],
        bindings: list[relax.VarBinding],
    ) -> None:
        self._block = block
        self._adjoints: dict[relax.Var, Adjoint] = {}
        self._active: set[relax.Var] = set(sources)
        for binding in bindings:
            if any(variable in self._active for variable in _operands(binding.value)):
                self._active.add(binding.var)

    def seed(self, loss: relax.Var) -> None:
        self._adjoints[loss] = self._block.emit(relax.op.ones(loss.ty.shape, str(loss.ty.dtype)))

    def gradient(self, source: relax.Var) -> relax.Expr:
        """The adjoint of `source`; zeros where the loss does not depend on it."""
        found = self._adjoints.get(source)
        return self._zeros(source.ty) if found is None else found

    def step(self, binding: relax.VarBinding) -> None:
        """Hand the adjoint of one binding on to its operands."""
        adjoint = self._adjoints.get(binding.var)
        if adjoint is None or binding.var not in self._active:
            return
        value = binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, Op):
            self._call(binding.var, value, self._whole(adjoint, binding.var.ty))
        elif isinstance(value, relax.Tuple | relax.Var):
            self._add(value, adjoint)
        elif isinstance(value, relax.TupleGetItem):
            parts: list[Adjoint] = [None] * len(value.tuple_value.ty.fields)
            parts[value.index] = adjoint
            self._add(value.tuple_value, parts)
        elif isinstance(value, relax.Call | relax.If):
            raise UnsupportedOperator(
                "loops and branches have no gradient", hint="write their steps out"
            )
        else:
            raise InternalError(f"cannot differentiate a {type(value).__name__}: {value}")

    def _call(self, variable: relax.Var, call: relax.Call, adjoint: relax.Expr) -> None:
        if not any(operand in self._active for operand in _operands(call)):
            return
        site = Site(self._block, call, variable, adjoint)
        rule = table.find(call.op.name)
        if rule is None and call.op.get_attr(_GRADIENT) is None:
            raise UnsupportedOperator(
                f"operator {call.op.name} has no gradient",
                hint="write one in nexus_compiler/passes/gradients/",
            )
        for operand, part in zip(call.args, site.tvm() if rule is None else rule(site)):
            if any(variable in self._active for variable in _operands(operand)):
                self._add(operand, part)

    def _add(self, operand: relax.Expr, part: Adjoint) -> None:
        """Add `part` to the adjoint of a variable, or of each field of a tuple."""
        if part is None or _is_nothing(part):
            return
        if isinstance(operand, relax.Tuple):
            for field, one in zip(operand.fields, self._fields(part)):
                self._add(field, one)
        elif isinstance(operand, relax.Var) and operand in self._active:
            self._adjoints[operand] = self._sum(self._adjoints.get(operand), part)

    def _sum(self, old: Adjoint, new: Adjoint) -> Adjoint:
        if old is None or new is None:
            kept = new if old is None else old
            return self._block.emit(kept) if isinstance(kept, relax.Call) else kept
        if isinstance(old, list) or isinstance(new, list):
            return [self._sum(a, b) for a, b in zip(self._fields(old), self._fields(new))]
        return self._block.emit(relax.op.add(old, new))

    def _fields(self, adjoint: Adjoint) -> list[Adjoint]:
        """The adjoints of a tuple's fields, whatever form the tuple's adjoint has."""
        if isinstance(adjoint, list):
            return adjoint
        if isinstance(adjoint, relax.Tuple):
            return list(adjoint.fields)
        whole = self._block.emit(adjoint)  # an operator that makes a tuple: split
        return [
            self._block.emit(relax.TupleGetItem(whole, index))
            for index in range(len(whole.ty.fields))
        ]

    def _whole(self, adjoint: Adjoint, ty: Any) -> relax.Expr:
        """One expression of an adjoint that may lack fields."""
        if not isinstance(adjoint, list):
            return adjoint
        return relax.Tuple(
            [
                self._zeros(field) if part is None else self._whole(part, field)
                for part, field in zip(adjoint, ty.fields)
            ]
        )

    def _zeros(self, ty: Any) -> relax.Expr:
        return self._block.emit(relax.op.zeros(ty.shape, str(ty.dtype)))


def _is_nothing(part: Adjoint) -> bool:
    # What TVM's rules return for a condition or an index: the operand itself, under this mark.
    return isinstance(part, relax.Call) and part.op == _NOTHING


def _operands(expression: relax.Expr) -> list[relax.Var]:
    """The variables that `expression` reads."""
    if isinstance(expression, relax.Var):
        return [expression]
    if isinstance(expression, relax.Tuple):
        return [variable for field in expression.fields for variable in _operands(field)]
    if isinstance(expression, relax.Call):
        return [variable for argument in expression.args for variable in _operands(argument)]
    if isinstance(expression, relax.TupleGetItem):
        return _operands(expression.tuple_value)
    return []
