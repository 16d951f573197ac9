"""Optimisers: one elementwise update a parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from nexus_runtime.errors import UserError, nearest


@dataclass(frozen=True)
class Optimizer(ABC):
    """Hyperparameters are fields; the learning rate is an input of the compiled step."""

    states: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def emit(
        self,
        block: relax.BlockBuilder,
        parameter: relax.Var,
        gradient: relax.Var,
        state: tuple[relax.Var, ...],
        rate: relax.Var,
        step: relax.Var,
    ) -> tuple[relax.Var, tuple[relax.Var, ...]]:
        """Emit one update; return the new parameter and the new state.

        `rate` and `step` (1, 2, ...) are float32 scalars; the others have the parameter's shape.
        """


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013) and decoupled weight decay."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    states: ClassVar[tuple[str, ...]] = ("momentum",)

    def emit(
        self,
        block: relax.BlockBuilder,
        parameter: relax.Var,
        gradient: relax.Var,
        state: tuple[relax.Var, ...],
        rate: relax.Var,
        step: relax.Var,
    ) -> tuple[relax.Var, tuple[relax.Var, ...]]:
        """velocity = momentum * velocity + gradient; parameter -= rate * velocity."""
        op, put = relax.op, block.emit
        velocity = put(op.add(put(op.multiply(state[0], _f32(self.momentum))), gradient))
        decayed = _decay(block, parameter, rate, self.weight_decay)
        return put(op.subtract(decayed, put(op.multiply(velocity, rate)))), (velocity,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); with weight decay it is AdamW (Loshchilov and Hutter 2019)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    states: ClassVar[tuple[str, ...]] = ("mean", "square")

    def emit(
        self,
        block: relax.BlockBuilder,
        parameter: relax.Var,
        gradient: relax.Var,
        state: tuple[relax.Var, ...],
        rate: relax.Var,
        step: relax.Var,
    ) -> tuple[relax.Var, tuple[relax.Var, ...]]:
        """Moments, bias correction by `step`, and the scaled update."""
        op, put = relax.op, block.emit
        squared = put(op.multiply(gradient, gradient))
        mean = _mix(block, state[0], gradient, self.beta1)
        square = _mix(block, state[1], squared, self.beta2)
        mean_hat = put(op.divide(mean, _correction(block, self.beta1, step)))
        square_hat = put(op.divide(square, _correction(block, self.beta2, step)))
        scale = put(op.add(put(op.sqrt(square_hat)), _f32(self.epsilon)))
        change = put(op.multiply(put(op.divide(mean_hat, scale)), rate))
        decayed = _decay(block, parameter, rate, self.weight_decay)
        return put(op.subtract(decayed, change)), (mean, square)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": Sgd}


def make(name: str, options: Mapping[str, Any]) -> Optimizer:
    """The optimiser called `name` with `options` as its hyperparameters.

    Raises:
        UserError: there is no such optimiser or hyperparameter.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimiser '{name}'", hint=nearest(name, OPTIMIZERS))
    known = [field.name for field in fields(OPTIMIZERS[name])]
    for option in options:
        if option not in known:
            raise UserError(f"{name} has no option '{option}'", hint=nearest(option, known))
    return OPTIMIZERS[name](**options)


def _mix(block: relax.BlockBuilder, old: relax.Var, new: relax.Var, keep: float) -> relax.Var:
    op, put = relax.op, block.emit
    kept, added = put(op.multiply(old, _f32(keep))), put(op.multiply(new, _f32(1 - keep)))
    return put(op.add(kept, added))


def _correction(block: relax.BlockBuilder, beta: float, step: relax.Var) -> relax.Var:
    return block.emit(relax.op.subtract(_f32(1), block.emit(relax.op.power(_f32(beta), step))))


def _decay(
    block: relax.BlockBuilder, parameter: relax.Var, rate: relax.Var, decay: float
) -> relax.Var:
    if decay == 0:
        return parameter
    op, put = relax.op, block.emit
    lost = put(op.multiply(put(op.multiply(rate, _f32(decay))), parameter))
    return put(op.subtract(parameter, lost))


def _f32(value: float) -> relax.Expr:
    return relax.const(np.float32(value))
