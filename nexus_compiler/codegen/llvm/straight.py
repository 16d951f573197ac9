"""Writes functions without branches down as steps (`nexus_runtime/steps.py`).

What stands here is read off the very functions that the virtual machine gets, after their memory
was planned: both call the same kernels in the same order. Functions that they call, layers for
example, are written where they are called. Whatever else a function does leaves it to the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar, is_prim_expr
from tvm.ir.expr import GenericConst

from nexus_compiler.codegen.llvm.schedules.kernel import substitute
from nexus_compiler.ir.sizes import text
from nexus_compiler.passes.prepare_weights import RUN
from nexus_compiler.passes.weights import PREPARE
from nexus_runtime import guards
from nexus_runtime.steps import CONSTANT, PARAMETER, STORAGE, Line, Size, Step, Steps, Value

_LARGEST = 1 << 16  # bytes of constants that a list of steps may hold
_STORAGE, _TENSOR = "relax.memory.alloc_storage", "relax.memory.alloc_tensor"
_DYNAMIC, _RESHAPE = "relax.vm.call_tir_dyn", "relax.reshape"


class _NotStraightError(Exception):
    """The function does what no list of steps can say."""


def steps(module: IRModule) -> Steps:
    """The functions of `module` that are lines; `module` has kernel calls and planned memory."""
    names = {str(variable.name_hint): variable for variable in module.functions}
    lines: dict[str, Line] = {}
    for name, variable in sorted(names.items()):
        function = module[variable]
        # Of what is computed once at load, and again by those who bring weights of their own, the
        # machine takes care.
        once = name.endswith(PREPARE) or name + RUN in names
        if isinstance(function, relax.Function) and not once and "global_symbol" in function.attrs:
            try:
                lines[name] = _Writer(module).line(function)
            except _NotStraightError:
                continue
    return Steps(lines, anywhere=True)


class _Writer:
    """Collects one line."""

    def __init__(self, module: IRModule) -> None:
        self._module = module
        self._storages: list[Size] = []
        self._constants: list[bytes] = []
        self._values: dict[Value, int] = {}
        self._steps: list[Step] = []
        self._equal: list[tuple[Size, Size]] = []
        self._sizes: dict[Any, Any] = {}
        self._known_sizes: set[str] = set()

    def line(self, function: relax.Function) -> Line:
        """The line of a function that others than functions call."""
        arguments = [self._parameter(i, p) for i, p in enumerate(function.params)]
        result = self._body(function, arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        numbers = tuple(self._number(output) for output in outputs)
        return Line(
            parameters=len(arguments),
            storages=tuple(self._storages),
            constants=tuple(self._constants),
            values=tuple(self._values),
            steps=tuple(self._steps),
            outputs=numbers,
            equal=tuple(self._equal),
        )

    def _parameter(self, index: int, parameter: relax.Var) -> Value:
        kind = parameter.ty
        if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
            raise _NotStraightError
        for axis, size in enumerate(kind.shape.values):
            name = f"p{index}_{axis}"
            self._known_sizes.add(name)
            if isinstance(size, tirx.Var) and size not in self._sizes:
                self._sizes[size] = tirx.Var(name, "int64")
            elif not isinstance(size, tirx.IntImm):
                self._equal.append((name, self._size(size)))
        return Value(PARAMETER, index, 0, str(kind.dtype), self._shape(kind.shape))

    def _body(self, function: relax.Function, arguments: Sequence[Any]) -> Any:
        """The steps of `function`; what it returns."""
        known: dict[Any, Any] = dict(zip(function.params, arguments))
        if not isinstance(function.body, relax.SeqExpr):
            raise _NotStraightError
        for block in function.body.blocks:
            for binding in block.bindings:
                known[binding.var] = self._value(binding.value, known)
                if isinstance(binding, relax.MatchCast):
                    known[binding.var] = self._cast(known[binding.var], binding.var.ty)
        return self._value(function.body.body, known)

    def _value(self, node: Any, known: Mapping[Any, Any]) -> Any:
        """A value, a tuple of such, the number of a storage; None for what is only done."""
        if node in known:
            return known[node]
        if isinstance(node, relax.Tuple):
            return tuple(self._value(field, known) for field in node.fields)
        if isinstance(node, relax.TupleGetItem):
            return self._value(node.tuple_value, known)[node.index]
        if isinstance(node, GenericConst):
            return self._constant(node)
        if not isinstance(node, relax.Call):
            raise _NotStraightError
        if isinstance(node.op, GlobalVar):
            return self._call(node.op, list(node.args), known)
        return self._operator(str(getattr(node.op, "name", "")), node, known)

    def _cast(self, value: Any, kind: Any) -> Value:
        """`value` with sizes that are said otherwise, which must come to the same."""
        if not isinstance(value, Value) or not isinstance(kind, relax.TensorType):
            raise _NotStraightError
        shape = self._shape(kind.shape)
        if len(shape) != len(value.shape) or str(kind.dtype) != value.dtype:
            raise _NotStraightError
        self._equal += [(a, b) for a, b in zip(shape, value.shape) if a != b]
        return Value(value.place, value.index, value.offset, value.dtype, shape)

    def _operator(self, name: str, node: relax.Call, known: Mapping[Any, Any]) -> Any:
        if name == _STORAGE:
            self._storages.append(self._size(node.args[0].values[0]))
            return len(self._storages) - 1
        if name == _TENSOR:
            storage, offset, shape, dtype, *_ = node.args
            place = self._value(storage, known)
            at = self._size(offset.value if hasattr(offset, "value") else offset)
            return Value(STORAGE, place, at, str(dtype.value), self._shape(shape))
        if name == _RESHAPE:
            given = self._value(node.args[0], known)
            return Value(given.place, given.index, given.offset, given.dtype, self._of(node))
        if name == _DYNAMIC:
            return self._call(node.args[0], list(node.args[1].fields), known)
        raise _NotStraightError

    def _of(self, node: relax.Call) -> tuple[Size, ...]:
        shape = getattr(node.ty, "shape", None)
        if not isinstance(shape, relax.ShapeExpr):
            raise _NotStraightError
        return self._shape(shape)

    def _call(self, callee: GlobalVar, given: Sequence[Any], known: Mapping[Any, Any]) -> Any:
        function = self._module[callee]
        if isinstance(function, relax.Function):
            return self._inlined(function, [self._value(one, known) for one in given])
        arguments = tuple(one for each in given for one in self._arguments(each, known))
        self._steps.append(Step(str(callee.name_hint), arguments))
        return None

    def _arguments(self, given: Any, known: Mapping[Any, Any]) -> list[int | str]:
        """What a kernel gets for `given`: a tensor; a number, which a variable may be too."""
        if given in known or isinstance(given, GenericConst):
            return [self._number(self._value(given, known))]
        if isinstance(given, relax.ShapeExpr):
            return [str(self._size(size)) for size in given.values]
        if not is_prim_expr(given):
            raise _NotStraightError
        return [str(self._size(given))]

    def _inlined(self, function: relax.Function, arguments: Sequence[Any]) -> Any:
        met: set[tirx.Var] = set()
        for parameter, argument in zip(function.params, arguments):
            if not isinstance(argument, Value) or not isinstance(parameter.ty, relax.TensorType):
                raise _NotStraightError
            shape = parameter.ty.shape
            if not isinstance(shape, relax.ShapeExpr):
                raise _NotStraightError
            for size, said in zip(shape.values, argument.shape):
                if isinstance(size, tirx.Var) and size not in met:
                    # What stands in brackets is one name wherever it is put.
                    self._sizes[size] = tirx.Var(f"({said})", "int64")
                    met.add(size)
                elif not isinstance(size, tirx.IntImm):
                    self._equal.append((said, self._size(size)))
        return self._body(function, arguments)

    def _constant(self, node: GenericConst) -> Value:
        array = node.value.numpy()
        if sum(map(len, self._constants)) + array.nbytes > _LARGEST:
            raise _NotStraightError
        self._constants.append(array.tobytes())
        shape = tuple(map(int, array.shape))
        return Value(CONSTANT, len(self._constants) - 1, 0, str(node.ty.dtype), shape)

    def _number(self, value: Any) -> int:
        if not isinstance(value, Value):
            raise _NotStraightError
        return self._values.setdefault(value, len(self._values))

    def _shape(self, shape: Any) -> tuple[Size, ...]:
        if not isinstance(shape, relax.ShapeExpr):
            raise _NotStraightError
        return tuple(self._size(size) for size in shape.values)

    def _size(self, size: Any) -> Size:
        if isinstance(size, int | tirx.IntImm):
            return int(size)
        said = text(substitute(size, self._sizes))
        try:
            names = guards.dimensions(str(said))
        except ValueError as error:
            raise _NotStraightError from error
        if not set(names) <= self._known_sizes:
            raise _NotStraightError
        return said
