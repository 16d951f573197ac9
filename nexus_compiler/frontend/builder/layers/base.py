"""What a layer is.

A layer knows the shape that it makes (and refuses one that it cannot take), the parameters that it
needs, and how to say itself in Relax. The first dimension is always the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar

from tvm import relax

from nexus_compiler.frontend.builder.initial import ZEROS, Initializer
from nexus_runtime.errors import ShapeError, UserError
from nexus_runtime.signature import Dim

Shape = tuple[Dim, ...]
Shapes = tuple[Shape, ...]

FLOATS = ("float32",)
NUMBERS = ("float32", "int64", "int32")


@dataclass(frozen=True)
class Parameter:
    """A weight, float32.

    Attributes:
        shape: its shape.
        initial: how its first values are drawn.
        fans: values that go into, and out of, one unit; initialisers scale by them.
        trained: the optimiser moves it; else the layer itself does, see `Layer.advance`.
    """

    shape: tuple[int, ...]
    initial: Initializer = ZEROS
    fans: tuple[int, int] = (1, 1)
    trained: bool = True


@dataclass(frozen=True)
class Randomness:
    """Relax scalars from which masks follow: uint32 `seed`, int64 `row` of the first sample."""

    seed: relax.Expr
    row: relax.Expr


@dataclass(frozen=True)
class Emitter:
    """Where a layer emits to.

    Attributes:
        block: the block builder.
        parameters: the layer's weights by their short names.
        index: the number of the step, which no other has.
        randomness: set in training.
        observed: in training, what the layer saw: sums over samples, by short name of a weight
            that is not trained. `Layer.advance` gets the means over the whole batch.
    """

    block: relax.BlockBuilder
    parameters: Mapping[str, relax.Expr]
    index: int
    randomness: Randomness | None
    observed: dict[str, relax.Expr] = field(default_factory=dict[str, Any])

    @property
    def training(self) -> bool:
        """Whether this is the forward half of a training step."""
        return self.randomness is not None

    def emit(self, expression: relax.Expr) -> relax.Var:
        """Bind `expression` to a variable."""
        return self.block.emit(expression)


@dataclass(frozen=True)
class Layer(ABC):
    """See the module's description."""

    takes: ClassVar[tuple[str, ...]] = FLOATS
    """The dtypes that it can take."""

    @abstractmethod
    def infer(self, shapes: Shapes) -> Shape:
        """The output's shape.

        Raises:
            ShapeError: inputs of `shapes` cannot be taken.
        """

    @abstractmethod
    def emit(self, out: Emitter, values: Sequence[relax.Var], shapes: Shapes) -> relax.Var:
        """Emit the layer on `values`, whose shapes are `shapes`."""

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """The weights by name, for inputs of `shapes`."""
        return {}

    def dtype(self, given: str) -> str:
        """The output's dtype, for inputs of the dtype `given`."""
        return given

    def flops(self, shapes: Shapes) -> int:
        """Additions and multiplications for one sample; an elementwise function counts as one.

        Raises:
            ShapeError: a dimension behind the batch is open.
        """
        return size_of(self.infer(shapes)[1:])

    def advance(
        self, block: relax.BlockBuilder, old: Mapping[str, relax.Var], seen: Mapping[str, relax.Var]
    ) -> dict[str, relax.Expr]:
        """After a step: the new values of the weights that are not trained.

        Args:
            block: where to emit to.
            old: their present values, by short name.
            seen: means over the samples of the whole batch of what was `observed`.
        """
        return {}


class OneInput(Layer):
    """A layer on one tensor."""

    @abstractmethod
    def infer_one(self, shape: Shape) -> Shape:
        """As `infer`, for the one input."""

    @abstractmethod
    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """As `emit`, on the one input."""

    def infer(self, shapes: Shapes) -> Shape:
        """See `infer_one`."""
        return self.infer_one(shapes[0])

    def emit(self, out: Emitter, values: Sequence[relax.Var], shapes: Shapes) -> relax.Var:
        """See `emit_one`."""
        return self.emit_one(out, values[0], shapes[0])


class Free(OneInput):
    """A layer that only moves values: of any dtype, and without arithmetic."""

    takes: ClassVar[tuple[str, ...]] = NUMBERS

    def flops(self, shapes: Shapes) -> int:
        """None."""
        return 0


def fixed(dim: Dim) -> int:
    """`dim` as a number.

    Raises:
        ShapeError: it is open.
    """
    if not isinstance(dim, int):
        raise ShapeError(f"dimension '{dim}' must be a fixed number here")
    return dim


def size_of(shape: Sequence[Dim]) -> int:
    """The number of values of fixed dimensions.

    Raises:
        ShapeError: one of them is open.
    """
    return math.prod(fixed(dim) for dim in shape)


def text(shape: Sequence[Dim]) -> str:
    """A shape as messages show it."""
    return f"({', '.join(map(str, shape))})"


def at_least_one(name: str, value: Any) -> None:
    """Refuse what is not a count.

    Raises:
        UserError: `value` is no whole number, or below 1.
    """
    if not isinstance(value, Integral):
        raise UserError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")


def need_whole(name: str, values: Iterable[Any]) -> None:
    """Refuse arguments that are not all whole numbers.

    Raises:
        UserError: one is something else.
    """
    for value in values:
        if not isinstance(value, Integral):
            raise UserError(
                f"{name} takes whole numbers, not {value!r}", hint=f"for example {name}(1, 2)"
            )


def relax_shape(value: relax.Var) -> list[Any]:
    """The dimensions of a variable, as Relax has them."""
    return list(value.ty.shape.values)
