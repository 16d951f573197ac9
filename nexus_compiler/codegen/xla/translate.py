"""Walk a Relax function and carry out each operator with JAX.

Called while JAX traces: the arrays are tracers, so that what is carried out is what JAX exports.
Symbolic dimensions of Relax are bound to the symbolic dimensions of `jax.export`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import core
from tvm import relax
from tvm.ir import GlobalVar, Op
from tvm.ir.expr import Var

from nexus_compiler.codegen.xla.program import Program
from nexus_compiler.codegen.xla.registry import Handler, Node, handlers
from nexus_runtime.errors import InternalError, UnsupportedOperator, nearest


def evaluate(
    program: Program, arguments: Sequence[Any], sizes: Mapping[Any, int] | None = None
) -> tuple[Any, ...]:
    """The outputs of `program` for `arguments`, one per parameter, as JAX arrays.

    `sizes` are of symbolic dimensions that no parameter tells.

    Raises:
        UnsupportedOperator: an operator, or an attribute of one, has no translation.
    """
    result = _Walk(program, handlers(), sizes=dict(sizes or {})).call(arguments)
    outputs = result if isinstance(result, tuple) else (result,)
    if any(isinstance(output, tuple) for output in outputs):
        raise UnsupportedOperator(
            f"function '{program.name}' returns a tuple within a tuple",
            hint="return one flat tuple of tensors",
        )
    return tuple(jnp.asarray(output) for output in outputs)


@dataclass
class _Walk:
    program: Program
    table: Mapping[str, Handler]
    values: dict[Any, Any] = field(default_factory=dict)
    sizes: dict[Any, Any] = field(default_factory=dict)
    callers: tuple[str, ...] = ()

    def call(self, arguments: Sequence[Any]) -> Any:
        for parameter, argument in zip(self.program.function.params, arguments, strict=True):
            self._bind(parameter, argument)
        return self._value(self.program.function.body)

    def _bind(self, variable: Any, value: Any) -> None:
        self.values[variable] = value
        dims = value if isinstance(value, tuple) else getattr(value, "shape", ())
        self._learn(variable.ty, dims)

    def _learn(self, kind: Any, dims: Sequence[Any]) -> None:
        """Take the sizes of unbound symbolic dimensions from an actual shape."""
        shape = kind.shape if isinstance(kind, relax.TensorType) else kind
        values: Any = getattr(shape, "values", None)
        for dim, size in [] if values is None else zip(values, dims):
            if isinstance(dim, Var):
                self.sizes.setdefault(dim, size)

    def _value(self, node: Any) -> Any:
        if isinstance(node, Var) and node in self.values:
            return self.values[node]
        return self._structure(node, type(node).__name__)

    def _structure(self, node: Any, kind: str) -> Any:
        if kind == "GenericConst":
            return jnp.asarray(node.value.numpy())
        if isinstance(node, relax.Tuple):
            return tuple(self._value(item) for item in node.fields)
        if isinstance(node, relax.ShapeExpr):
            return tuple(self.dimension(dim) for dim in node.values)
        if isinstance(node, relax.TupleGetItem):
            return self._value(node.tuple_value)[int(node.index)]
        if isinstance(node, relax.SeqExpr):
            return self._sequence(node)
        if isinstance(node, relax.If):
            branches = (node.true_branch, node.false_branch)
            first, second = (lambda branch=branch: self._value(branch) for branch in branches)
            return jax.lax.cond(self._value(node.cond), first, second)
        if isinstance(node, relax.Call):
            return self._call(node)
        if kind in ("StringImm", "DataTypeImm"):
            return str(node.value)
        return self.dimension(node)

    def _sequence(self, node: Any) -> Any:
        for block in node.blocks:
            for binding in block.bindings:
                value = self._value(binding.value)
                if isinstance(binding, relax.MatchCast):
                    self._learn(binding.ty, value if isinstance(value, tuple) else value.shape)
                    self._confirm(binding.ty, value)
                self.values[binding.var] = value
        return self._value(node.body)

    def _confirm(self, kind: Any, value: Any) -> None:
        shape = getattr(kind, "shape", kind)
        if getattr(shape, "values", None) is None:
            return
        wanted = tuple(self.dimension(dim) for dim in shape.values)
        actual = value if isinstance(value, tuple) else tuple(value.shape)
        if wanted != actual:
            raise self._refuse(
                f"match_cast of {list(actual)} to {list(wanted)}, which only a run could check",
                "give the model static dimensions here",
            )

    def _call(self, call: Any) -> Any:
        head: Any = call.op
        if isinstance(call.op, GlobalVar):
            name = str(head.name_hint)
            if name not in self.program.callees:
                raise self._refuse(f"call of the kernel '{name}'", "export before LegalizeOps")
            if name in self.callers:
                raise self._refuse(
                    f"'{name}' calls itself, as loops do, which XLA cannot",
                    "build the model for a target of kind 'llvm', or unroll its loop",
                )
            callee = Program(name, self.program.callees[name], self.program.callees)
            inner = _Walk(callee, self.table, callers=(*self.callers, name))
            return inner.call([self._value(item) for item in call.args])
        if not isinstance(call.op, Op):
            raise self._refuse("a call of a computed function", "inline the function")
        return self._operator(call, str(head.name))

    def _operator(self, call: Any, name: str) -> Any:
        handler = self.table.get(name)
        if handler is None:
            near = nearest(name, self.table) if len(self.table) else ""
            raise self._refuse(
                f"operator {name} has no translation to XLA",
                f"{near}; rewrite this part of the model, or build it for a target of kind 'llvm'",
            )
        inputs = tuple(self._value(item) for item in call.args)
        node = Node(name, self.program.name, inputs, call.attrs, call.ty, self.dimension)
        try:
            result = handler(node)
        except jax.errors.ConcretizationTypeError as error:
            raise node.refuse(f"needs a value that is only known at run time ({error})") from error
        except jax.errors.InconclusiveDimensionOperation as error:
            raise node.refuse(
                f"the symbolic sizes cannot be compared ({str(error).splitlines()[0]})",
                hint="fix more dimensions of the inputs",
            ) from error
        _confirm_dtype(name, result, call.ty)
        return result

    def _refuse(self, what: str, hint: str) -> UnsupportedOperator:
        return UnsupportedOperator(f"function '{self.program.name}': {what}", hint=hint)

    def dimension(self, dim: Any) -> Any:
        """A scalar expression of Relax as an int, a float or a JAX dimension."""
        if isinstance(dim, int | float):
            return dim
        if isinstance(dim, Var):
            if dim in self.sizes:
                return self.sizes[dim]
            raise self._refuse(
                f"the size '{dim.name}' is only known at run time", "give the model static shapes"
            )
        kind = type(dim).__name__
        if kind in ("IntImm", "FloatImm"):
            return dim.value
        if kind == "Cast":
            return self.dimension(dim.value)
        if kind in _ARITHMETIC:
            return _ARITHMETIC[kind](self.dimension(dim.a), self.dimension(dim.b))
        if kind == "Call" and dim.op.name == "prim.if_then_else":
            condition, first, second = dim.args
            return self.dimension(first if self.dimension(condition) else second)
        raise self._refuse(f"the size {dim} ({kind})", "give the model static shapes")


def _smaller(left: Any, right: Any) -> Any:
    """The lesser; a slice "to the end" has a huge bound, which no dimension reaches."""
    if isinstance(left, int) and left >= _ENDLESS:
        return right
    if isinstance(right, int) and right >= _ENDLESS:
        return left
    return core.min_dim(left, right)


_ENDLESS = 2**31 - 1
_ARITHMETIC: dict[str, Any] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "FloorMod": operator.mod,
    # The operands are sizes, so that truncating is flooring.
    "Div": operator.floordiv,
    "Mod": operator.mod,
    "Max": core.max_dim,
    "Min": _smaller,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


def _confirm_dtype(name: str, result: Any, kind: Any) -> None:
    """JAX promotes silently; a handler that let it would change what the model computes."""
    if isinstance(kind, relax.TupleType):
        for part, field_type in zip(result, kind.fields, strict=True):
            _confirm_dtype(name, part, field_type)
    elif isinstance(kind, relax.TensorType):
        wanted = jnp.dtype(str(kind.dtype))
        if result.dtype != wanted:
            raise InternalError(f"the translation of {name} gives {result.dtype}, not {wanted}")
