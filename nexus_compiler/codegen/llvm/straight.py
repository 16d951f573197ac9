"""Writes functions without branches down as steps (`nexus_runtime/steps.py`).

What stands here is read off the very functions that the virtual machine gets, after their memory
was planned: both call the same kernels in the same order. Functions that they call, layers for
example, are written where they are called. Whatever else a function does leaves it to the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar, is_prim_expr
from tvm.ir.expr import GenericConst

from nexus_compiler.codegen.llvm.schedules.kernel import substitute
from nexus_compiler.ir.sizes import text
from nexus_compiler.passes.prepare_weights import RUN
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
        # Those who bring weights of their own call both halves in one, with the machine.
        halved = name + RUN in names
        if (
            isinstance(function, relax.Function)
            and not halved
            and "global_symbol" in function.attrs
        ):
            try:
                lines[name] = _Writer(module).line(function)
            except _NotStraightError:
                continue
    return Steps(lines, anywhere=True)


_Values = dict[int, Any]
"""What the variables of one call of a function stand for, by number."""
_Make = Callable[[_Values], Any]
"""A value, a tuple of such, the number of a storage; None for what is only done."""


@dataclass(frozen=True)
class _Body:
    """A function that has been read: it may be called often, and TVM's objects are slow to ask.

    Attributes:
        open: the shapes of the parameters, where they are not numbers alone.
        rows: the number of each binding's variable, how its value is made, and what it is cast to.
    """

    open: list[list[Any] | None]
    rows: list[tuple[int, _Make, Any]]
    result: _Make


class _Writer:
    """Collects one line."""

    def __init__(self, module: IRModule) -> None:
        self._module = module
        self._bodies: dict[GlobalVar, _Body] = {}
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
        result = self._run(self._read(function), arguments)
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
        dims = _dims(kind)
        for axis, size in enumerate(dims):
            name = f"p{index}_{axis}"
            self._known_sizes.add(name)
            if isinstance(size, tirx.Var) and size not in self._sizes:
                self._sizes[size] = tirx.Var(name, "int64")
            elif not isinstance(size, int):
                self._equal.append((name, self._size(size)))
        return Value(PARAMETER, index, 0, str(kind.dtype), tuple(map(self._size, dims)))

    def _read(self, function: relax.Function) -> _Body:
        if not isinstance(function.body, relax.SeqExpr):
            raise _NotStraightError
        names: dict[Any, int] = {p: number for number, p in enumerate(function.params)}
        rows: list[tuple[int, _Make, Any]] = []
        for block in function.body.blocks:
            for binding in block.bindings:
                variable = binding.var
                cast = variable.ty if isinstance(binding, relax.MatchCast) else None
                made = self._maker(binding.value, names)
                names[variable] = len(names)
                rows.append((names[variable], made, cast))
        shapes = [_dims(parameter.ty) for parameter in function.params]
        open_ = [None if all(isinstance(n, int) for n in dims) else dims for dims in shapes]
        return _Body(open_, rows, self._maker(function.body.body, names))

    def _run(self, body: _Body, arguments: Sequence[Any]) -> Any:
        """The steps of a function; what it returns."""
        known: _Values = dict(enumerate(arguments))
        for number, make, cast in body.rows:
            value = make(known)
            known[number] = value if cast is None else self._cast(value, cast)
        return body.result(known)

    def _maker(self, node: Any, names: Mapping[Any, int]) -> _Make:
        """How the value of `node` is made."""
        if node in names:
            number = names[node]
            return lambda known: known[number]
        if isinstance(node, relax.Tuple):
            fields = [self._maker(field, names) for field in node.fields]
            return lambda known: tuple([field(known) for field in fields])
        if isinstance(node, relax.TupleGetItem):
            whole, index = self._maker(node.tuple_value, names), int(node.index)
            return lambda known: whole(known)[index]
        if isinstance(node, GenericConst):
            constant = self._constant(node)
            return lambda known: constant
        if not isinstance(node, relax.Call):
            raise _NotStraightError
        if isinstance(node.op, GlobalVar):
            return self._call(node.op, list(node.args), names)
        return self._operator(str(getattr(node.op, "name", "")), node, names)

    def _cast(self, value: Any, kind: Any) -> Value:
        """`value` with sizes that are said otherwise, which must come to the same."""
        if not isinstance(value, Value):
            raise _NotStraightError
        shape = tuple(map(self._size, _dims(kind)))
        if len(shape) != len(value.shape) or str(kind.dtype) != value.dtype:
            raise _NotStraightError
        self._equal += [(a, b) for a, b in zip(shape, value.shape) if a != b]
        return Value(value.place, value.index, value.offset, value.dtype, shape)

    def _operator(self, name: str, node: relax.Call, names: Mapping[Any, int]) -> _Make:
        if name == _STORAGE:
            size = _number(node.args[0].values[0])
            return lambda known: self._storage(size)
        if name == _TENSOR:
            storage, offset, shape, dtype, *_ = node.args
            place = self._maker(storage, names)
            at = _number(offset.value if hasattr(offset, "value") else offset)
            kind, dims = str(dtype.value), _dims_of(shape)
            return lambda known: Value(
                STORAGE, place(known), self._size(at), kind, tuple(map(self._size, dims))
            )
        if name == _RESHAPE:
            given, dims = self._maker(node.args[0], names), _dims(node.ty)

            def reshaped(known: _Values) -> Value:
                old = given(known)
                shape = tuple(map(self._size, dims))
                return Value(old.place, old.index, old.offset, old.dtype, shape)

            return reshaped
        if name == _DYNAMIC:
            return self._call(node.args[0], list(node.args[1].fields), names)
        raise _NotStraightError

    def _storage(self, size: Any) -> int:
        self._storages.append(self._size(size))
        return len(self._storages) - 1

    def _call(self, callee: GlobalVar, given: Sequence[Any], names: Mapping[Any, int]) -> _Make:
        function = self._module[callee]
        if isinstance(function, relax.Function):
            makers = [self._maker(one, names) for one in given]
            return lambda known: self._inlined(callee, [make(known) for make in makers])
        name = str(callee.name_hint)
        arguments = [one for each in given for one in self._arguments(each, names)]

        def step(known: _Values) -> None:
            self._steps.append(Step(name, tuple([argument(known) for argument in arguments])))

        return step

    def _arguments(
        self, given: Any, names: Mapping[Any, int]
    ) -> list[Callable[[_Values], int | str]]:
        """What a kernel gets for `given`: a tensor; a number, which a variable may be too."""
        if given in names or isinstance(given, GenericConst):
            make = self._maker(given, names)
            return [lambda known: self._number(make(known))]
        if isinstance(given, relax.ShapeExpr):
            return [self._said(size) for size in _dims_of(given)]
        if not is_prim_expr(given):
            raise _NotStraightError
        return [self._said(_number(given))]

    def _said(self, size: Any) -> Callable[[_Values], str]:
        return lambda known: str(self._size(size))

    def _inlined(self, callee: GlobalVar, arguments: Sequence[Any]) -> Any:
        if callee not in self._bodies:
            self._bodies[callee] = self._read(self._module[callee])
        body = self._bodies[callee]
        met: set[tirx.Var] = set()
        for shape, argument in zip(body.open, arguments):
            if not isinstance(argument, Value):
                raise _NotStraightError
            for size, said in zip(shape or (), argument.shape):
                if isinstance(size, tirx.Var) and size not in met:
                    # What stands in brackets is one name wherever it is put.
                    self._sizes[size] = tirx.Var(f"({said})", "int64")
                    met.add(size)
                elif not isinstance(size, int):
                    self._equal.append((said, self._size(size)))
        return self._run(body, arguments)

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

    def _size(self, size: Any) -> Size:
        if isinstance(size, int):
            return size
        said = text(substitute(size, self._sizes))
        try:
            names = guards.dimensions(str(said))
        except ValueError as error:
            raise _NotStraightError from error
        if not set(names) <= self._known_sizes:
            raise _NotStraightError
        return said


def _number(size: Any) -> Any:
    """A size as a number, where it is one."""
    return int(size) if isinstance(size, int | tirx.IntImm) else size


def _dims(kind: Any) -> list[Any]:
    """The sizes of a tensor's type."""
    if not isinstance(kind, relax.TensorType):
        raise _NotStraightError
    return _dims_of(kind.shape)


def _dims_of(shape: Any) -> list[Any]:
    if not isinstance(shape, relax.ShapeExpr):
        raise _NotStraightError
    return [_number(size) for size in shape.values]
