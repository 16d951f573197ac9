"""Loops as recursion: the virtual machine has calls and conditions, but no jumps back.

A loop of n steps that called itself n times deep would overflow the stack. Here `run(level, ...)`
does one to 2^level steps by calling itself twice with `level - 1`, so that the depth is the
logarithm of the number of steps. What steps give out is put together on the way back: each row is
copied about as often as the recursion is deep. The functions, all private:

    start   no steps where the loop is over before it begins, else `run`
    run     the step on level 0, else `split`
    split   the first half by `run`; where the loop is not over then, `join`
    join    the second half by `run`, and the rows of both
    idle    no steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import GlobalVar

from nexus_compiler.frontend.onnx import subgraph
from nexus_compiler.frontend.onnx.loop import Body
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.subgraph import Result
from nexus_compiler.frontend.onnx.values import R, host, tensor_type, variable_of

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer

Limit = Size | relax.Expr | None
"""A number of steps: a size, an int64 tensor of one element, or None for no limit."""

_POWERS = 2 ** np.arange(62, dtype=np.int64)


def repeat(
    importer: Importer,
    body: Body,
    limit: Limit,
    state: Sequence[relax.Expr],
    going: relax.Expr | None = None,
) -> tuple[list[relax.Var], list[relax.Var]]:
    """Emit a loop.

    Args:
        importer: whose builder it is emitted with.
        body: what one step does.
        limit: how many steps there are at most.
        state: what the first step begins with.
        going: whether there is a first step (a bool scalar); None for yes.

    Returns:
        The last state, and what the steps gave, one row a step.
    """
    recursion = _Recursion(importer, body)
    zero = relax.const(0, "int64")
    level, steps = _level(importer, limit), _steps(importer, limit)
    first = [relax.const(True, "bool") if going is None else going] if body.conditional else []
    arguments = [level, steps, zero, *first, *state, *recursion.captured(recursion.outer)]
    results = recursion.results
    if not body.conditional and limit is not None and not _is_tensor(limit):
        count = importer.sizes.maximum(limit, 0)
        rows = [replace(r, shape=(count, *r.shape[1:])) for r in body.rows]
        results = [*results[: len(results) - len(rows)], *rows]
    call = relax.Call(recursion.start, arguments)
    found = subgraph.unpack(importer, call, results, body.label)
    carried = 1 + body.conditional
    return found[carried : carried + len(state)], found[carried + len(state) :]


def _is_tensor(limit: Limit) -> bool:
    # The class does not tell: a symbolic size is a variable as well.
    return isinstance(getattr(limit, "ty", None), relax.TensorType)


def _steps(importer: Importer, limit: Limit) -> relax.Expr:
    if limit is None:
        return relax.const(np.iinfo(np.int64).max, "int64")
    if _is_tensor(limit):
        return importer.emit(R.reshape(limit, []))
    array = np.empty((), object)
    array[()] = limit
    return importer.emit(importer.tensor(host(array, "int64")))


def _level(importer: Importer, limit: Limit) -> relax.Expr:
    """The least level for so many steps."""
    if limit is None:
        return relax.const(len(_POWERS), "int64")
    if isinstance(limit, int):
        return relax.const(max(limit - 1, 0).bit_length(), "int64")
    steps = R.reshape(_steps(importer, limit), [1])
    below = R.less(relax.const(_POWERS, "int64"), steps)
    return importer.emit(R.sum(R.astype(below, "int64")))


class _Recursion:
    """The functions around a step.

    Attributes:
        start: the one to call with the level, the limit, the number of the first step, whether
            there is one (where the body is conditional), the state, and what is `captured`.
        results: what it returns: all of these but the first two, and the rows.
        outer: the variables that the step takes from outside.
    """

    def __init__(self, importer: Importer, body: Body) -> None:
        self._importer, self._body = importer, body
        scalar = relax.TensorType([], "int64")
        self._level, self._limit, place = (
            relax.Var(name, scalar) for name in ("level", "limit", "step")
        )
        going = [relax.Var("going", relax.TensorType([], "bool"))] if body.conditional else []
        self._carried = [place, *going, *body.state]
        carried = [subgraph.result(importer, value, body.local) for value in self._carried]
        self.results = [*carried, *body.rows]
        self._kind = relax.TupleType([item.type() for item in self.results])
        self.outer = [v for v in body.step.captured if isinstance(v, relax.Var)]
        self._inner = [relax.Var(str(v.name), v.ty) for v in self.outer]
        self._sizes = self._outer_sizes()
        self._rows = [self._first(place, row) for place, row in enumerate(body.rows)]
        self.start, self._run, self._split, self._idle = (
            self._declare(name, []) for name in ("start", "run", "split", "idle")
        )
        self._join = self._declare("join", self._rows)
        self._define_all()

    def _outer_sizes(self) -> list[tirx.Var]:
        """The sizes that the functions use, but that no argument of them brings."""
        own = [*self._carried, *self._inner]
        rows = [[s for s in row.shape if s is not None] for row in self._body.rows]
        probe = [relax.ShapeExpr([subgraph.expression(s) for s in row]) for row in rows]
        function = relax.Function(own, relax.Tuple(probe), relax.ObjectType())
        sizes = list(relax.analysis.free_symbolic_vars(function))
        for item in self._body.step.captured:
            if isinstance(item, relax.ShapeExpr):
                sizes += [size for size in item.values if size not in sizes]
        return sizes

    def captured(self, variables: Sequence[relax.Var]) -> list[relax.Expr]:
        """What to pass last: `variables` for those that are captured, then the sizes."""
        shape: Any = self._sizes
        return [*variables, *([relax.ShapeExpr(shape)] if shape else [])]

    def _first(self, place: int, row: Result) -> relax.Var:
        """The argument of `join` for the rows of the first half."""
        names = [f"rows_{place}_{axis}" for axis in range(len(row.shape))]
        shape = [
            self._importer.sizes.variable(name, 0) if size is None else size
            for name, size in zip(names, row.shape)
        ]
        return variable_of(f"first_{place}", shape, row.dtype)

    # Functions
    def _parameters(self, rows: Sequence[relax.Var]) -> list[relax.Var]:
        shape: Any = self._sizes
        sizes = [relax.Var("sizes", relax.ShapeType(shape))] if shape else []
        return [self._level, self._limit, *self._carried, *rows, *self._inner, *sizes]

    def _declare(self, name: str, rows: Sequence[relax.Var]) -> GlobalVar:
        types = [parameter.ty for parameter in self._parameters(rows)]
        label = f"{self._body.label}_{name}"
        return self._importer.private.declare(label, relax.FuncType(types, self._kind))

    def _define(
        self, variable: GlobalVar, body: relax.Expr, rows: Sequence[relax.Var] = ()
    ) -> None:
        function = relax.Function(self._parameters(rows), body, self._kind)
        self._importer.private.define(variable, function)

    def _call(self, function: GlobalVar, level: relax.Expr, items: Sequence[relax.Expr]) -> Any:
        return relax.Call(function, [level, self._limit, *items, *self.captured(self._inner)])

    def _going(self, carried: Sequence[relax.Expr]) -> relax.Expr:
        """Whether a step follows."""
        more = R.less(carried[0], self._limit)
        return R.logical_and(more, carried[1]) if self._body.conditional else more

    def _define_all(self) -> None:
        importer, level = self._importer, self._level
        with subgraph.nested(importer, dataflow=False):
            branches = [self._call(f, level, self._carried) for f in (self._run, self._idle)]
            self._define(
                self.start, subgraph.choose(importer, self._going(self._carried), *branches)
            )
        with subgraph.nested(importer, dataflow=False):
            bottom = R.equal(level, relax.const(0, "int64"))
            half = self._call(self._split, level, self._carried)
            self._define(self._run, subgraph.choose(importer, bottom, self._one(), half))
        with subgraph.nested(importer, dataflow=False):
            self._define(self._split, self._split_body())
        with subgraph.nested(importer):
            self._define(self._join, self._join_body(), self._rows)
        with subgraph.nested(importer):
            rows = [
                R.zeros([0, *(0 if s is None else s for s in row.shape[1:])], row.dtype)
                for row in self._body.rows
            ]
            items = [importer.emit(item) for item in (*self._carried, *rows)]
            output = importer.builder.emit_output(relax.Tuple(items))
            self._define(self._idle, subgraph.end(importer, output))

    def _one(self) -> relax.Expr:
        """A call of the step itself."""
        inside = dict(zip(self.outer, self._inner))
        captured = [
            inside[item] if isinstance(item, relax.Var) else item
            for item in self._body.step.captured
        ]
        return relax.Call(
            self._body.step.variable, [self._carried[0], *self._body.state, *captured]
        )

    def _half(self, level: relax.Expr, results: Sequence[Result], items: Any) -> list[relax.Var]:
        call = self._call(self._run, level, items)
        return subgraph.unpack(self._importer, call, results, "half")

    def _split_body(self) -> relax.Expr:
        importer = self._importer
        below = importer.emit(R.subtract(self._level, relax.const(1, "int64")))
        first = self._half(below, self.results, self._carried)
        done = relax.Tuple(first)
        return subgraph.choose(
            importer, self._going(first), self._call(self._join, below, first), done
        )

    def _join_body(self) -> relax.Expr:
        importer, count = self._importer, len(self._carried)
        # All rows have one shape; where only a run tells it, it is checked here.
        sizes = [tensor_type(row).shape.values[1:] for row in self._rows]
        alike = [replace(r, shape=(None, *s)) for r, s in zip(self._body.rows, sizes)]
        second = self._half(self._level, [*self.results[:count], *alike], self._carried)
        pairs = zip(self._rows, second[count:])
        rows = [importer.emit(R.concat(list(pair), 0)) for pair in pairs]
        output = importer.builder.emit_output(relax.Tuple([*second[:count], *rows]))
        return subgraph.end(importer, output)
