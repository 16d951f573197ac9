"""The layers of `GraphBuilder`: one frozen dataclass each.

A layer knows the shape that it makes (and refuses one that it cannot take), the parameters that it
needs, and how to say itself in Relax. The first dimension is always the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from nexus_compiler.frontend.builder import dropout_mask
from nexus_runtime.errors import ShapeError, UserError, nearest
from nexus_runtime.signature import Dim

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Parameter:
    """A weight: its shape, and the spread of its initial values (0 means that all are `fill`).

    `scale` is the standard deviation of a normal distribution.
    """

    shape: tuple[int, ...]
    scale: float = 0.0
    fill: float = 0.0


@dataclass(frozen=True)
class Randomness:
    """Relax scalars from which masks follow: uint32 `seed`, int64 `row` of the first sample."""

    seed: relax.Expr
    row: relax.Expr


class Emitter:
    """Where a layer emits to: the block builder, its own parameters, and randomness in training."""

    def __init__(
        self,
        block: relax.BlockBuilder,
        parameters: Mapping[str, relax.Expr],
        index: int,
        randomness: Randomness | None,
    ) -> None:
        self.block = block
        self.parameters = parameters
        self.index = index
        self.randomness = randomness

    def emit(self, expression: relax.Expr) -> relax.Var:
        """Bind `expression` to a variable."""
        return self.block.emit(expression)


@dataclass(frozen=True)
class Layer(ABC):
    """See the module's description."""

    @abstractmethod
    def infer(self, shape: Shape) -> Shape:
        """The output's shape.

        Raises:
            ShapeError: an input of `shape` cannot be taken.
        """

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """The weights by name, for an input of `shape`."""
        return {}

    @abstractmethod
    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """Emit the layer on `value`, whose shape is `shape`."""


@dataclass(frozen=True)
class Dense(Layer):
    """`x @ weight + bias` over the last dimension."""

    units: int
    bias: bool

    def infer(self, shape: Shape) -> Shape:
        """Replaces the last dimension by `units`."""
        if len(shape) < 2 or not isinstance(shape[-1], int):
            raise ShapeError(
                f"dense needs (batch, ..., features), the last one fixed, not {_text(shape)}",
                hint="put .flatten() before it",
            )
        return (*shape[:-1], self.units)

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """`weight`, He-normal (He et al. 2015), and `bias`, zero."""
        features = _fixed(shape[-1])
        weight = Parameter((features, self.units), scale=(2 / features) ** 0.5)
        return (
            {"weight": weight, "bias": Parameter((self.units,))}
            if self.bias
            else {"weight": weight}
        )

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A matmul and an add."""
        product = out.emit(relax.op.matmul(value, out.parameters["weight"]))
        return out.emit(relax.op.add(product, out.parameters["bias"])) if self.bias else product


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution over (batch, channels, height, width)."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    bias: bool

    def infer(self, shape: Shape) -> Shape:
        """(batch, filters, height', width')."""
        _need_image("conv2d", shape)
        return (shape[0], self.filters, *_window(shape, self.kernel, self.stride, self.padding))

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """`weight` (filters, channels, kernel), He-normal, and `bias`, zero."""
        channels = _fixed(shape[1])
        fan_in = channels * self.kernel[0] * self.kernel[1]
        weight = Parameter((self.filters, channels, *self.kernel), scale=(2 / fan_in) ** 0.5)
        return (
            {"weight": weight, "bias": Parameter((self.filters,))}
            if self.bias
            else {"weight": weight}
        )

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A convolution and an add."""
        weight = out.parameters["weight"]
        result = out.emit(
            relax.op.nn.conv2d(value, weight, strides=self.stride, padding=self.padding)
        )
        if not self.bias:
            return result
        bias = out.emit(relax.op.reshape(out.parameters["bias"], (1, self.filters, 1, 1)))
        return out.emit(relax.op.add(result, bias))


@dataclass(frozen=True)
class MaxPool2d(Layer):
    """The maximum of each window."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def infer(self, shape: Shape) -> Shape:
        """(batch, channels, height', width')."""
        _need_image("max_pool2d", shape)
        return (shape[0], shape[1], *_window(shape, self.size, self.stride, (0, 0)))

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One pooling operator."""
        return out.emit(relax.op.nn.max_pool2d(value, self.size, self.stride))


@dataclass(frozen=True)
class Flatten(Layer):
    """All dimensions but the batch become one."""

    def infer(self, shape: Shape) -> Shape:
        """(batch, features)."""
        size = 1
        for dim in shape[1:]:
            if not isinstance(dim, int):
                raise ShapeError(f"flatten needs fixed dimensions behind the batch: {_text(shape)}")
            size *= dim
        return (shape[0], size)

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A reshape that keeps the batch as it is."""
        batch = value.ty.shape.values[0]
        return out.emit(relax.op.reshape(value, (batch, self.infer(shape)[1])))


@dataclass(frozen=True)
class Dropout(Layer):
    """Zero each value with probability `rate` and scale the others, in training only."""

    rate: float

    def infer(self, shape: Shape) -> Shape:
        """The same."""
        if not 0 <= self.rate < 1:
            raise UserError(f"dropout takes a rate from 0 to below 1, not {self.rate}")
        return shape

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """Nothing in inference; a product with a mask in training."""
        if out.randomness is None or self.rate == 0:
            return value
        sample = [_fixed(dim) for dim in shape[1:]]
        mask = dropout_mask.emit(
            out.block, out.randomness.seed, out.randomness.row, value, sample, out.index, self.rate
        )
        return out.emit(relax.op.multiply(value, mask))


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise function, or softmax over the last dimension."""

    function: str

    def infer(self, shape: Shape) -> Shape:
        """The same."""
        if self.function not in ACTIVATIONS:
            raise UserError(
                f"unknown activation '{self.function}'", hint=nearest(self.function, ACTIVATIONS)
            )
        return shape

    def emit(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        return out.emit(ACTIVATIONS[self.function](value))


ACTIVATIONS = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "silu": relax.op.nn.silu,
    "softmax": relax.op.nn.softmax,
    "tanh": relax.op.tanh,
}


def _need_image(layer: str, shape: Shape) -> None:
    if len(shape) != 4 or not all(isinstance(dim, int) for dim in shape[1:]):
        raise ShapeError(f"{layer} needs (batch, channels, height, width), not {_text(shape)}")


def _window(
    shape: Shape, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    found: list[int] = []
    for axis in (0, 1):
        length = _fixed(shape[2 + axis]) + 2 * padding[axis] - size[axis]
        if length < 0:
            raise ShapeError(f"a window of {size} does not fit {_text(shape)} padded by {padding}")
        found.append(length // stride[axis] + 1)
    return found[0], found[1]


def _fixed(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise ShapeError(f"dimension '{dim}' must be a fixed number here")
    return dim


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
