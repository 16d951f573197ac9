"""Recurrent layers, written out step by step.

Relax has no loop whose gradient could be taken, so that a sequence must be of a fixed, moderate
length: each step is a few kernels, the same ones for all steps. The products with the inputs of
all steps are one matmul.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from tvm import relax

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.initial import Init, Initializer
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    OneInput,
    Parameter,
    Shape,
    Shapes,
    at_least_one,
    fixed,
    relax_shape,
    text,
)
from nexus_runtime.errors import ShapeError

op = relax.op

LONGEST = 64
"""Steps that are written out at most; each costs about ten operators, and their gradients."""


@dataclass(frozen=True)
class ForgetOpen(Initializer):
    """Zeros, but ones for the forget gate: memories last at first (Jozefowicz et al. 2015)."""

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class; the forget gate is the second of four."""
        bias = np.zeros(shape)
        bias[shape[0] // 4 : shape[0] // 2] = 1
        return bias


@dataclass(frozen=True)
class Recurrent(OneInput):
    """What both kinds share: (batch, steps, features) to the states of all steps, or the last."""

    gates: ClassVar[int]

    units: int
    sequences: bool = False
    backwards: bool = False
    init: Initializer = initial.GLOROT_UNIFORM
    state_init: Initializer = field(default_factory=initial.Orthogonal)

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, steps, units) or (batch, units)."""
        what = type(self).__name__.lower()
        if len(shape) != 3 or not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(
                f"{what} needs (batch, steps, features), both fixed, not {text(shape)}"
            )
        if fixed(shape[1]) > LONGEST:
            raise ShapeError(
                f"{what} is written out step by step, {LONGEST} at most, but {text(shape)} has "
                f"{shape[1]}",
                hint="cut the sequence, or shorten it by a strided conv1d",
            )
        batch, steps, _ = shape
        return (batch, steps, self.units) if self.sequences else (batch, self.units)

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`input_weight` (features, gates * units), `state_weight` (units, gates * units), bias."""
        features, wide = fixed(shapes[0][2]), self.gates * self.units
        return {
            "input_weight": Parameter((features, wide), self.init, (features, self.units)),
            "state_weight": Parameter(
                (self.units, wide), self.state_init, (self.units, self.units)
            ),
            **self.biases(wide),
        }

    def biases(self, wide: int) -> dict[str, Parameter]:
        """The biases by name."""
        raise NotImplementedError

    def start(self, out: Emitter, zero: relax.Var) -> tuple[relax.Var, ...]:
        """The states before the first step: the first of them is the output."""
        return (zero,)

    def step(
        self, out: Emitter, given: relax.Var, states: tuple[relax.Var, ...]
    ) -> tuple[relax.Var, ...]:
        """One step; `given` is (batch, gates * units), what the input brings to the gates."""
        raise NotImplementedError

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """The inputs of all gates at once, then step after step."""
        batch, steps, wide = relax_shape(value)[0], fixed(shape[1]), self.gates * self.units
        product = out.emit(op.matmul(value, out.parameters["input_weight"]))
        product = out.emit(op.add(product, out.parameters["bias"]))
        given = [product] if steps == 1 else _parts(out, product, steps, axis=1)
        zero = out.emit(op.zeros(relax.ShapeExpr([batch, self.units]), "float32"))
        states, hidden = self.start(out, zero), list[relax.Var]()
        for index in reversed(range(steps)) if self.backwards else range(steps):
            now = out.emit(op.reshape(given[index], (batch, wide)))
            states = self.step(out, now, states)
            hidden.append(states[0])
        if not self.sequences:
            return hidden[-1]
        rows = [out.emit(op.reshape(h, (batch, 1, self.units))) for h in hidden]
        return out.emit(op.concat(rows[::-1] if self.backwards else rows, axis=1))

    def flops(self, shapes: Shapes) -> int:
        """Two a weight and step, and about ten a unit."""
        _, steps, features = shapes[0]
        wide = self.gates * self.units
        return fixed(steps) * (2 * wide * (fixed(features) + self.units) + 10 * self.units)


@dataclass(frozen=True)
class Lstm(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    The gates lie in PyTorch's order: input, forget, cell, output.
    """

    gates: ClassVar[int] = 4

    def biases(self, wide: int) -> dict[str, Parameter]:
        """One."""
        return {"bias": Parameter((wide,), ForgetOpen())}

    def start(self, out: Emitter, zero: relax.Var) -> tuple[relax.Var, ...]:
        """Output and cell."""
        return (zero, zero)

    def step(
        self, out: Emitter, given: relax.Var, states: tuple[relax.Var, ...]
    ) -> tuple[relax.Var, ...]:
        """c = f * c + i * g, h = o * tanh(c)."""
        hidden, cell = states
        wide = out.emit(op.add(given, _times(out, hidden, out.parameters, "state_weight")))
        parts = _parts(out, wide, 4)
        enter, forget, leave = (out.emit(op.sigmoid(parts[gate])) for gate in (0, 1, 3))
        fresh = out.emit(op.multiply(enter, out.emit(op.tanh(parts[2]))))
        cell = out.emit(op.add(out.emit(op.multiply(forget, cell)), fresh))
        return out.emit(op.multiply(leave, out.emit(op.tanh(cell)))), cell


@dataclass(frozen=True)
class Gru(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), with the reset behind the product.

    The gates lie in PyTorch's order: reset, update, new. As there, the state has its own bias.
    """

    gates: ClassVar[int] = 3

    def biases(self, wide: int) -> dict[str, Parameter]:
        """One for the input, one for the state."""
        return {"bias": Parameter((wide,)), "state_bias": Parameter((wide,))}

    def step(
        self, out: Emitter, given: relax.Var, states: tuple[relax.Var, ...]
    ) -> tuple[relax.Var, ...]:
        """h = n + z * (h - n), n = tanh(x + r * s)."""
        hidden = states[0]
        product = _times(out, hidden, out.parameters, "state_weight")
        old = _parts(out, out.emit(op.add(product, out.parameters["state_bias"])), 3)
        new = _parts(out, given, 3)
        reset, update = (
            out.emit(op.sigmoid(out.emit(op.add(new[gate], old[gate])))) for gate in (0, 1)
        )
        inner = out.emit(op.add(new[2], out.emit(op.multiply(reset, old[2]))))
        fresh = out.emit(op.tanh(inner))
        change = out.emit(op.multiply(update, out.emit(op.subtract(hidden, fresh))))
        return (out.emit(op.add(fresh, change)),)


def _times(
    out: Emitter, value: relax.Var, weights: Mapping[str, relax.Expr], name: str
) -> relax.Var:
    return out.emit(op.matmul(value, weights[name]))


def _parts(out: Emitter, value: relax.Var, count: int, axis: int = -1) -> list[relax.Var]:
    parts = out.emit(op.split(value, count, axis=axis))
    return [out.emit(relax.TupleGetItem(parts, index)) for index in range(count)]


class RecurrentCalls(Chain):
    """The calls of this family."""

    def lstm(
        self,
        units: int,
        *,
        sequences: bool = False,
        backwards: bool = False,
        init: Init = None,
        state_init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """An LSTM: (batch, steps, features) to (batch, units), the output of the last step.

        Args:
            units: features of the output.
            sequences: return (batch, steps, units), the outputs of all steps.
            backwards: go from the last step to the first; with one that goes forwards and
                `concat` that makes a bidirectional layer.
            init: of the weights of the input (features, 4 * units); Glorot-uniform unless told.
            state_init: of the weights of the state (units, 4 * units); orthogonal unless told.
            name: of the layer, its weights and its tensor.
            share: the layer whose weights it uses.

        Raises:
            ShapeError: the input is no sequence of fixed length, or longer than `LONGEST`.
        """
        at_least_one("units", units)
        layer = Lstm(units, sequences, backwards, *_inits(init, state_init))
        return self.then(layer, kind="lstm", name=name, share=share)

    def gru(
        self,
        units: int,
        *,
        sequences: bool = False,
        backwards: bool = False,
        init: Init = None,
        state_init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """A GRU; everything is as in `lstm`."""
        at_least_one("units", units)
        layer = Gru(units, sequences, backwards, *_inits(init, state_init))
        return self.then(layer, kind="gru", name=name, share=share)


def _inits(init: Init, state_init: Init) -> tuple[Initializer, Initializer]:
    return (
        initial.resolve(init, initial.GLOROT_UNIFORM),
        initial.resolve(state_init, initial.Orthogonal()),
    )
