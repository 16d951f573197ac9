"""Subgraphs as private functions: what conditions and loops are made of.

A subgraph is imported like any other graph and sees the variables and the symbolic sizes of the
graphs around it. When it is done, whatever it took from outside becomes a parameter of the
function: tensors one by one, sizes together as one shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar, PrimType

from nexus_compiler.frontend.onnx.sizes import Size, expression
from nexus_compiler.frontend.onnx.values import tensor_type
from nexus_compiler.ir.calls import callees
from nexus_runtime.errors import UnsupportedOperator
from nexus_runtime.tensors import BITS

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer

Body = Callable[[], Sequence[relax.Expr]]
"""Emits a subgraph and returns its results, all tensors."""


@dataclass(frozen=True)
class Result:
    """The type of one result, in terms of what is around the function.

    Attributes:
        shape: its sizes; None for one that only the function itself knows.
    """

    shape: tuple[Size | None, ...]
    dtype: str

    def type(self) -> relax.TensorType:
        """As a Relax type, which has all sizes or none."""
        if any(size is None for size in self.shape):
            return relax.TensorType(dtype=self.dtype, ndim=len(self.shape))
        dims: Any = [expression(size) for size in self.shape]
        return relax.TensorType(dims, self.dtype)


@dataclass(frozen=True)
class Closure:
    """A private function, and what it takes from outside.

    Attributes:
        captured: the variables to pass after the arguments, and last the sizes, if any.
    """

    variable: GlobalVar
    captured: tuple[relax.Expr, ...]
    results: tuple[Result, ...]

    def call(self, arguments: Sequence[relax.Expr]) -> relax.Call:
        """A call, to be made where the captured variables are known."""
        return relax.Call(self.variable, [*arguments, *self.captured])


class Table:
    """The private functions of a model, in the order in which they were declared."""

    def __init__(self) -> None:
        self._functions: dict[str, tuple[GlobalVar, relax.Function | None]] = {}

    def declare(self, label: str, kind: Any) -> GlobalVar:
        """The name of a function of type `kind` that is yet to be defined: it may call itself."""
        variable = GlobalVar(f"{label}_{len(self._functions)}")
        relax.expr._update_type(variable, kind)
        self._functions[str(variable.name_hint)] = variable, None
        return variable

    def define(self, variable: GlobalVar, function: relax.Function) -> None:
        """Say what a declared function does; its variables are renewed."""
        renewed = relax.utils.copy_with_new_vars(function)
        self._functions[str(variable.name_hint)] = variable, renewed

    def add_to(self, module: IRModule) -> None:
        """Add the functions that those in `module` need."""
        waiting = list(module.functions.values())
        needed: set[str] = set()
        while waiting:
            for name in _called(waiting.pop()):
                function = self._functions[name][1]
                if name not in needed and function is not None:
                    needed.add(name)
                    waiting.append(function)
        for name, (variable, function) in self._functions.items():
            if name in needed:
                module.update_func(variable, function)


def _called(function: Any) -> set[str]:
    return {str(variable.name_hint) for variable in callees(function)}


def lift(
    importer: Importer,
    label: str,
    params: Sequence[relax.Var],
    body: Body,
    local: Iterable[tirx.Var] = (),
) -> Closure:
    """Make a private function of what `body` emits.

    Args:
        importer: whose builder everything is emitted with.
        label: what to call the function.
        params: its arguments.
        body: emits it.
        local: sizes that only `params` bring, and nobody outside knows.
    """
    with nested(importer, local) as unknown:
        values = [importer.emit(value) for value in body()]
        results = [result(importer, value, unknown) for value in values]
        whole = end(importer, importer.builder.emit_output(relax.Tuple(values)))
    return close(importer, label, params, whole, results)


@contextlib.contextmanager
def nested(
    importer: Importer, local: Iterable[tirx.Var] = (), *, dataflow: bool = True
) -> Generator[set[tirx.Var]]:
    """Emit into a new block; yields the sizes that are known only inside, as they arise.

    What returns the result of a condition is no dataflow.
    """
    outer, importer.builder = importer.builder, relax.BlockBuilder()
    if dataflow:
        importer.builder._begin_dataflow_block()
    else:
        importer.builder._begin_binding_block()
    importer.unknowns.append(set(local))
    try:
        yield importer.unknowns[-1]
    except Exception:
        # TVM prints a warning of its own about every block that is left open.
        importer.builder._end_block()
        raise
    finally:
        importer.builder = outer
        importer.unknowns.pop()


def end(importer: Importer, output: relax.Expr) -> relax.Expr:
    """What was emitted into the block of `nested`, as the body of a function."""
    block = importer.builder._end_block()
    return importer.builder.normalize(relax.SeqExpr([block], output))


def choose(
    importer: Importer, flag: relax.Expr, then: relax.Expr, otherwise: relax.Expr
) -> relax.Expr:
    """End the block with one of two results."""
    branches = [_alone(then), _alone(otherwise)]
    return end(importer, importer.builder.emit(relax.If(importer.emit(flag), *branches)))


def _alone(value: relax.Expr) -> relax.Expr:
    builder = relax.BlockBuilder()
    builder._begin_binding_block()
    variable = builder.emit(value)
    return builder.normalize(relax.SeqExpr([builder._end_block()], variable))


def close(
    importer: Importer,
    label: str,
    params: Sequence[relax.Var],
    body: relax.Expr,
    results: Sequence[Result],
) -> Closure:
    """A private function of `params`, and of whatever else occurs in `body`."""
    kind = relax.TupleType([item.type() for item in results])
    free = relax.analysis.free_vars(relax.Function(list(params), body, kind))
    outer = [v for v in free if not isinstance(v.ty, PrimType)]  # symbolic sizes follow below
    inner = [relax.Var(str(v.name), v.ty) for v in outer]
    whole = relax.Function([*params, *outer], body, kind).bind_params(dict(zip(outer, inner)))
    own = [*params, *inner]
    closed = relax.Function(own, whole.body, kind)
    captured: list[relax.Expr] = list(outer)
    if sizes := list(relax.analysis.free_symbolic_vars(closed)):
        shape: Any = sizes
        own.append(relax.Var("sizes", relax.ShapeType(shape)))
        captured.append(relax.ShapeExpr(shape))
        closed = relax.Function(own, whole.body, kind)
    variable = importer.private.declare(label, closed.ty)
    importer.private.define(variable, closed)
    return Closure(variable, tuple(captured), tuple(results))


def call(importer: Importer, closure: Closure, arguments: Sequence[relax.Expr]) -> list[relax.Var]:
    """Emit a call; sizes that only the function knows become new symbolic sizes."""
    label = str(closure.variable.name_hint)
    return unpack(importer, closure.call(arguments), closure.results, label)


def unpack(
    importer: Importer, tuple_: relax.Expr, results: Sequence[Result], label: str
) -> list[relax.Var]:
    """The items of `tuple_`, with sizes that nobody knows yet as new symbolic sizes."""
    whole = importer.emit(tuple_)
    found: list[relax.Var] = []
    for place, item in enumerate(results):
        value = importer.emit(relax.TupleGetItem(whole, place))
        if tensor_type(value).shape is None:
            names = [f"{label}_{place}_{axis}" for axis in range(len(item.shape))]
            shape = [importer.unknown(n) if s is None else s for n, s in zip(names, item.shape)]
            value = importer.match(value, shape)
        found.append(value)
    return found


def result(importer: Importer, value: relax.Expr, unknown: set[tirx.Var]) -> Result:
    """The type of a result; sizes in which one of `unknown` occurs are hidden.

    Raises:
        UnsupportedOperator: its elements are carried as bits, which a function does not tell.
    """
    if (dtype := importer.dtype(value)) in BITS:
        raise UnsupportedOperator(
            f"{dtype} elements go into or out of a branch or a loop",
            hint="cast them to a wider type first",
        )
    kind = tensor_type(value)
    shape = importer.sizes.shape(kind.shape.values)
    return Result(_hidden(shape, unknown), str(kind.dtype.dtype))


def _hidden(shape: Sequence[Size | None], unknown: set[tirx.Var]) -> tuple[Size | None, ...]:
    return tuple(None if size is not None and unknown & variables(size) else size for size in shape)


def variables(size: Size) -> set[tirx.Var]:
    """The symbolic sizes that occur in `size`."""
    return set() if isinstance(size, int) else set(tirx.analysis.undefined_vars(size))
