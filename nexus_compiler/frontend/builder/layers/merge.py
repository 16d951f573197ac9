"""Layers that bring tensors together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tvm import relax

from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.layers.base import (
    NUMBERS,
    Emitter,
    Layer,
    Shape,
    Shapes,
    fixed,
    size_of,
    text,
)
from nexus_runtime.errors import ShapeError, UserError, nearest

_FUNCTIONS = {
    "add": relax.op.add,
    "maximum": relax.op.maximum,
    "multiply": relax.op.multiply,
    "subtract": relax.op.subtract,
}


@dataclass(frozen=True)
class Merge(Layer):
    """Value by value; dimensions of 1 stretch."""

    function: str

    def infer(self, shapes: Shapes) -> Shape:
        """The shape that all stretch to."""
        if len({len(shape) for shape in shapes}) != 1:
            raise self._misfit(shapes)
        found = [self._stretch(dims, shapes) for dims in zip(*shapes)]
        return tuple(found)

    def _stretch(self, dims: Sequence[int | str], shapes: Shapes) -> int | str:
        wide = {dim for dim in dims if dim != 1}
        if len(wide) > 1:
            raise self._misfit(shapes)
        return wide.pop() if wide else 1

    def _misfit(self, shapes: Shapes) -> ShapeError:
        listed = " and ".join(text(shape) for shape in shapes)
        return ShapeError(f"{self.function} needs tensors of one shape, not {listed}")

    def emit(self, out: Emitter, values: Sequence[relax.Var], shapes: Shapes) -> relax.Var:
        """One operator less than there are tensors."""
        result = values[0]
        for value in values[1:]:
            result = out.emit(_FUNCTIONS[self.function](result, value))
        return result

    def flops(self, shapes: Shapes) -> int:
        """One a value and operator."""
        return size_of(self.infer(shapes)[1:]) * (len(shapes) - 1)


@dataclass(frozen=True)
class Concat(Layer):
    """One behind the other along `axis`."""

    takes: ClassVar[tuple[str, ...]] = NUMBERS

    axis: int

    def infer(self, shapes: Shapes) -> Shape:
        """That dimension is the sum of theirs."""
        first, axis = shapes[0], self._axis(shapes)
        rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes if len(shape) == len(first)}
        if len(rest) != 1 or any(len(shape) != len(first) for shape in shapes):
            listed = " and ".join(text(shape) for shape in shapes)
            raise ShapeError(f"concat needs tensors that differ in dimension {axis} only: {listed}")
        return (*first[:axis], sum(fixed(shape[axis]) for shape in shapes), *first[axis + 1 :])

    def _axis(self, shapes: Shapes) -> int:
        rank = len(shapes[0])
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise ShapeError(f"concat takes a dimension behind the batch of {text(shapes[0])}")
        return axis

    def emit(self, out: Emitter, values: Sequence[relax.Var], shapes: Shapes) -> relax.Var:
        """One operator."""
        return out.emit(relax.op.concat(list(values), axis=self._axis(shapes)))

    def flops(self, shapes: Shapes) -> int:
        """None."""
        return 0


def make(function: str, axis: int) -> Layer:
    """The layer that merges by `function`.

    Raises:
        UserError: there is none of this name.
    """
    if function == "concat":
        return Concat(axis)
    if function not in _FUNCTIONS:
        raise UserError(
            f"branches cannot be merged by '{function}'", hint=nearest(function, _MERGES)
        )
    return Merge(function)


_MERGES = ("concat", *_FUNCTIONS)


class MergeCalls(Chain):
    """The calls of this family: each takes the present tensor and those that are named."""

    def add(self, *others: str, name: str | None = None) -> Self:
        """The sum of the present tensor and `others`."""
        return self._merge("add", others, name)

    def multiply(self, *others: str, name: str | None = None) -> Self:
        """The product, value by value, e.g. with a gate."""
        return self._merge("multiply", others, name)

    def subtract(self, other: str, *, name: str | None = None) -> Self:
        """The present tensor less `other`."""
        return self._merge("subtract", (other,), name)

    def maximum(self, *others: str, name: str | None = None) -> Self:
        """The greatest of the present tensor and `others`, value by value."""
        return self._merge("maximum", others, name)

    def concat(self, *others: str, axis: int = 1, name: str | None = None) -> Self:
        """The present tensor, then `others`, along `axis`."""
        return self._merge("concat", others, name, axis)

    def residual(self, path: Callable[[Self], Self]) -> Self:
        """x + path(x) (He et al. 2016).

        Raises:
            ShapeError: the path changes the shape.
        """
        start = self.tensor().name
        return path(self).then(Merge("add"), start, kind="add")

    def _merge(
        self, function: str, others: tuple[str, ...], name: str | None, axis: int = 1
    ) -> Self:
        if not others:
            raise UserError(
                f"{function} needs the name of another tensor", hint='.name("skip") gives one'
            )
        return self.then(make(function, axis), *others, kind=function, name=name)
