"""Functions of each value, softmax, and dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tvm import relax

from nexus_compiler.frontend.builder import dropout_mask, initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.initial import Init, Initializer
from nexus_compiler.frontend.builder.layers.base import Emitter, OneInput, Parameter, Shape, Shapes
from nexus_compiler.frontend.builder.layers.base import fixed as fixed_dim
from nexus_runtime.errors import ShapeError, UserError, nearest

op = relax.op


def _number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


def _relu6(out: Emitter, x: relax.Var) -> relax.Expr:
    return op.minimum(out.emit(op.nn.relu(x)), _number(6))


def _hard_sigmoid(out: Emitter, x: relax.Var) -> relax.Expr:
    """relu6(x + 3) / 6 (Howard et al. 2019)."""
    shifted = out.emit(op.add(x, _number(3)))
    return op.multiply(out.emit(_relu6(out, shifted)), _number(1 / 6))


def _hard_swish(out: Emitter, x: relax.Var) -> relax.Expr:
    return op.multiply(x, out.emit(_hard_sigmoid(out, x)))


def _elu(alpha: float, scale: float = 1.0) -> Callable[[Emitter, relax.Var], relax.Expr]:
    """x above zero, alpha * (exp(x) - 1) below (Clevert et al. 2016), times `scale`."""

    def emit(out: Emitter, x: relax.Var) -> relax.Expr:
        # Of values above zero exp may be infinite, and its gradient times zero no number.
        below = out.emit(op.exp(out.emit(op.minimum(x, _number(0)))))
        below = out.emit(op.subtract(below, _number(1)))
        below = out.emit(op.multiply(below, _number(alpha * scale)))
        above = out.emit(op.multiply(out.emit(op.nn.relu(x)), _number(scale)))
        return op.add(above, below)

    return emit


def _softplus(out: Emitter, x: relax.Var) -> relax.Expr:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    small = out.emit(op.exp(out.emit(op.negative(out.emit(op.abs(x))))))
    return op.add(out.emit(op.nn.relu(x)), out.emit(op.log(out.emit(op.add(small, _number(1))))))


def _mish(out: Emitter, x: relax.Var) -> relax.Expr:
    """x * tanh(softplus(x)) (Misra 2020)."""
    return op.multiply(x, out.emit(op.tanh(out.emit(_softplus(out, x)))))


def _softsign(out: Emitter, x: relax.Var) -> relax.Expr:
    return op.divide(x, out.emit(op.add(out.emit(op.abs(x)), _number(1))))


def _plain(operator: Callable[..., Any]) -> Callable[[float], Callable[..., relax.Expr]]:
    return lambda alpha: lambda out, x: operator(x)


def _composed(function: Callable[..., Any]) -> Callable[[float], Callable[..., relax.Expr]]:
    return lambda alpha: function


#: By name: the default of `alpha`, and from alpha to what emits the function.
ACTIVATIONS: dict[str, tuple[float, Callable[[float], Callable[..., relax.Expr]]]] = {
    "elu": (1.0, _elu),
    "exp": (0.0, _plain(op.exp)),
    "gelu": (0.0, _plain(op.nn.gelu)),
    "gelu_tanh": (0.0, _plain(op.nn.gelu_tanh)),
    "hard_sigmoid": (0.0, _composed(_hard_sigmoid)),
    "hard_swish": (0.0, _composed(_hard_swish)),
    "leaky_relu": (0.01, lambda alpha: lambda out, x: op.nn.leakyrelu(x, alpha)),
    "linear": (0.0, lambda alpha: lambda out, x: x),
    "log_softmax": (0.0, _plain(op.nn.log_softmax)),
    "mish": (0.0, _composed(_mish)),
    "relu": (0.0, _plain(op.nn.relu)),
    "relu6": (0.0, _composed(_relu6)),
    # Klambauer et al. 2017
    "selu": (1.6732632423543772, lambda alpha: _elu(alpha, 1.0507009873554805)),
    "sigmoid": (0.0, _plain(op.sigmoid)),
    "silu": (0.0, _plain(op.nn.silu)),
    "softmax": (0.0, _plain(op.nn.softmax)),
    "softplus": (0.0, _composed(_softplus)),
    "softsign": (0.0, _composed(_softsign)),
    "tanh": (0.0, _plain(op.tanh)),
}


@dataclass(frozen=True)
class Activation(OneInput):
    """A function of each value, or softmax over the last dimension."""

    function: str
    alpha: float

    @staticmethod
    def of(function: str, alpha: float | None = None) -> Activation:
        """By name.

        Raises:
            UserError: there is none of this name.
        """
        if function not in ACTIVATIONS:
            raise UserError(f"unknown activation '{function}'", hint=nearest(function, ACTIVATIONS))
        return Activation(function, ACTIVATIONS[function][0] if alpha is None else alpha)

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        return shape

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator, or a few."""
        return out.emit(ACTIVATIONS[self.function][1](self.alpha)(out, value))


@dataclass(frozen=True)
class Prelu(OneInput):
    """Leaky ReLU whose slope below zero is learned, one a channel (He et al. 2015)."""

    init: Initializer

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if len(shape) < 2:
            raise ShapeError("prelu needs (batch, channels, ...)")
        return shape

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`slope` (channels)."""
        return {"slope": Parameter((fixed_dim(shapes[0][1]),), self.init)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """max(x, 0) + slope * min(x, 0)."""
        column = (1, fixed_dim(shape[1]), *([1] * (len(shape) - 2)))
        slope = out.emit(op.reshape(out.parameters["slope"], column))
        below = out.emit(op.multiply(out.emit(op.minimum(value, _number(0))), slope))
        return out.emit(op.add(out.emit(op.nn.relu(value)), below))


@dataclass(frozen=True)
class Dropout(OneInput):
    """Zero each value with probability `rate` and scale the others, in training only."""

    rate: float

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if not 0 <= self.rate < 1:
            raise UserError(f"dropout takes a rate from 0 to below 1, not {self.rate}")
        return shape

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """Nothing in inference; a product with a mask in training."""
        return drop(out, value, shape, self.rate)

    def flops(self, shapes: Shapes) -> int:
        """None in inference."""
        return 0


def drop(out: Emitter, value: relax.Var, shape: Shape, rate: float) -> relax.Var:
    """Dropout on a value inside a layer; at most once a layer, whose number sets the mask."""
    if out.randomness is None or rate == 0:
        return value
    sample = [fixed_dim(dim) for dim in shape[1:]]
    seed, row = out.randomness.seed, out.randomness.row
    mask = dropout_mask.emit(out.block, seed, row, value, sample, out.index, rate)
    return out.emit(op.multiply(value, mask))


class ActivationCalls(Chain):
    """The calls of this family."""

    def activation(
        self, function: str, *, alpha: float | None = None, name: str | None = None
    ) -> Self:
        """A function by name: relu, gelu, silu, tanh, sigmoid, softmax (over the last dimension),
        leaky_relu, elu and the others of `ACTIVATIONS`.

        Args:
            function: its name; "gelu" is the exact one, "gelu_tanh" the approximation.
            alpha: slope or height below zero, of leaky_relu (0.01), elu (1) and selu.
            name: of the tensor.

        Raises:
            UserError: there is none of this name.
        """
        return self.then(Activation.of(function, alpha), kind="activation", name=name)

    def prelu(
        self, *, init: Init = 0.25, name: str | None = None, share: str | None = None
    ) -> Self:
        """Leaky ReLU with a learned slope a channel (dimension 1)."""
        layer = Prelu(initial.resolve(init, initial.Constant(0.25)))
        return self.then(layer, kind="prelu", name=name, share=share)

    def dropout(self, rate: float, *, name: str | None = None) -> Self:
        """In training, zero each value with probability `rate` and scale the others up."""
        return self.then(Dropout(rate), kind="dropout", name=name)
