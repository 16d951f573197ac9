"""Normalisations.

Batch norm is the one layer whose weights the optimiser does not all move: its running statistics.
A training step normalises with the statistics of the samples at hand, so that in a batch that is
cut over several workers (or calls) each piece is normalised by its own, as in PyTorch's
DistributedDataParallel. Its gradients are therefore those of the pieces, not of the whole; the
running statistics are exact however the batch is cut, because each piece returns sums over its
samples, of the differences from the present running mean and of their squares (Chan, Golub and
LeVeque 1983 give the reason for the shift), and the update makes mean and variance from the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tvm import relax

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    OneInput,
    Parameter,
    Shape,
    Shapes,
    fixed,
    relax_shape,
    size_of,
    text,
)
from nexus_runtime.errors import ShapeError, UserError

op = relax.op


def _number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


@dataclass(frozen=True)
class BatchNorm(OneInput):
    """(x - mean) / sqrt(variance + epsilon) * scale + offset, a channel (Ioffe and Szegedy 2015).

    The variances are biased (divided by the count); so are the running ones, as in Keras.
    """

    momentum: float
    epsilon: float

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if len(shape) < 2 or not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(f"batch_norm needs (batch, channels, ...), fixed, not {text(shape)}")
        return shape

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`scale`, `offset`, and the `running_mean` and `running_variance`, (channels)."""
        shape = (fixed(shapes[0][1]),)
        return {
            "scale": Parameter(shape, initial.ONES),
            "offset": Parameter(shape, initial.ZEROS),
            "running_mean": Parameter(shape, initial.ZEROS, trained=False),
            "running_variance": Parameter(shape, initial.ONES, trained=False),
        }

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """Statistics of the samples in training, the running ones else; then a scale and an add."""
        weights = out.parameters
        if out.training:
            mean, variance = self._observe(out, value, shape)
        else:
            mean, variance = weights["running_mean"], weights["running_variance"]
        root = out.emit(op.sqrt(out.emit(op.add(variance, _number(self.epsilon)))))
        factor = out.emit(op.divide(weights["scale"], root))
        shift = out.emit(op.subtract(weights["offset"], out.emit(op.multiply(mean, factor))))
        column = (1, shape[1], *([1] * (len(shape) - 2)))
        scaled = out.emit(op.multiply(value, out.emit(op.reshape(factor, column))))
        return out.emit(op.add(scaled, out.emit(op.reshape(shift, column))))

    def _observe(
        self, out: Emitter, value: relax.Var, shape: Shape
    ) -> tuple[relax.Expr, relax.Expr]:
        """Mean and biased variance of the samples at hand; their sums go to the update."""
        column = (1, shape[1], *([1] * (len(shape) - 2)))
        axes = [0, *range(2, len(shape))]
        area, batch = _number(size_of(shape[2:])), relax_shape(value)[0]
        before = out.parameters["running_mean"]
        moved = out.emit(op.subtract(value, out.emit(op.reshape(before, column))))
        # An empty piece of a batch must not divide by zero.
        samples = out.emit(op.sum(out.emit(op.ones(relax.ShapeExpr([batch]), "float32"))))
        samples = out.emit(op.maximum(samples, _number(1)))
        total = out.emit(op.divide(out.emit(op.sum(moved, axis=axes)), area))
        mean = out.emit(op.divide(total, samples))
        squares = out.emit(op.divide(out.emit(op.sum(_square(out, moved), axis=axes)), area))
        out.observed["running_mean"] = total
        out.observed["running_variance"] = squares
        centred = out.emit(op.subtract(moved, out.emit(op.reshape(mean, column))))
        spread = out.emit(op.divide(out.emit(op.sum(_square(out, centred), axis=axes)), area))
        variance = out.emit(op.divide(spread, samples))
        return out.emit(op.add(mean, before)), variance

    def advance(
        self, block: relax.BlockBuilder, old: Mapping[str, relax.Var], seen: Mapping[str, relax.Var]
    ) -> dict[str, relax.Expr]:
        """running = (1 - momentum) * running + momentum * batch."""
        put, keep = block.emit, _number(1 - self.momentum)
        shift, share = seen["running_mean"], _number(self.momentum)
        mean = put(op.add(old["running_mean"], put(op.multiply(shift, share))))
        variance = put(op.subtract(seen["running_variance"], put(op.multiply(shift, shift))))
        variance = put(op.maximum(variance, _number(0)))
        kept = put(op.multiply(old["running_variance"], keep))
        added = put(op.multiply(variance, share))
        return {"running_mean": mean, "running_variance": put(op.add(kept, added))}

    def flops(self, shapes: Shapes) -> int:
        """A multiply and an add a value."""
        return 2 * size_of(shapes[0][1:])


@dataclass(frozen=True)
class LayerNorm(OneInput):
    """Each vector of the last dimension to mean 0 and variance 1 (Ba et al. 2016)."""

    epsilon: float

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if len(shape) < 2 or not isinstance(shape[-1], int):
            raise ShapeError(f"layer_norm needs (batch, ..., features), not {text(shape)}")
        return shape

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`scale` and `offset`, (features)."""
        shape = (fixed(shapes[0][-1]),)
        return {"scale": Parameter(shape, initial.ONES), "offset": Parameter(shape)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        scale, offset = out.parameters["scale"], out.parameters["offset"]
        return out.emit(
            op.nn.layer_norm(value, scale, offset, axes=[len(shape) - 1], epsilon=self.epsilon)
        )

    def flops(self, shapes: Shapes) -> int:
        """About eight a value."""
        return 8 * size_of(shapes[0][1:])


@dataclass(frozen=True)
class RmsNorm(LayerNorm):
    """Each vector of the last dimension over its root mean square (Zhang and Sennrich 2019)."""

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`scale` (features)."""
        return {"scale": Parameter((fixed(shapes[0][-1]),), initial.ONES)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        axes = [len(shape) - 1]
        return out.emit(
            op.nn.rms_norm(value, out.parameters["scale"], axes=axes, epsilon=self.epsilon)
        )


@dataclass(frozen=True)
class GroupNorm(OneInput):
    """Groups of channels, each over all its values (Wu and He 2018)."""

    groups: int
    epsilon: float

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if len(shape) < 3 or not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(f"group_norm needs (batch, channels, axes...), not {text(shape)}")
        if self.groups < 1 or fixed(shape[1]) % self.groups:
            raise ShapeError(f"{self.groups} groups must divide the channels of {text(shape)}")
        return shape

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`scale` and `offset`, (channels)."""
        shape = (fixed(shapes[0][1]),)
        return {"scale": Parameter(shape, initial.ONES), "offset": Parameter(shape)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        options: dict[str, Any] = {"num_groups": self.groups, "channel_axis": 1}
        axes = list(range(2, len(shape)))
        scale, offset = out.parameters["scale"], out.parameters["offset"]
        return out.emit(
            op.nn.group_norm(value, scale, offset, axes=axes, epsilon=self.epsilon, **options)
        )

    def flops(self, shapes: Shapes) -> int:
        """About eight a value."""
        return 8 * size_of(shapes[0][1:])


def _square(out: Emitter, value: relax.Var) -> relax.Var:
    return out.emit(op.multiply(value, value))


class NormCalls(Chain):
    """The calls of this family."""

    def batch_norm(
        self, *, momentum: float = 0.1, epsilon: float = 1e-5, name: str | None = None
    ) -> Self:
        """Normalise each channel (dimension 1) over the batch and all other dimensions.

        Training uses the statistics of the samples that are computed together: of a batch that is
        cut over workers, those of each piece. `predict` uses running statistics, which are of the
        whole batch in any case.

        Args:
            momentum: share of a batch in the running statistics.
            epsilon: added to variances.
            name: of the layer, its weights and its tensor.

        Raises:
            UserError: momentum is not between 0 and 1.
        """
        if not 0 < momentum <= 1:
            raise UserError(f"momentum is above 0 and at most 1, not {momentum}")
        return self.then(BatchNorm(momentum, epsilon), kind="batch_norm", name=name)

    def layer_norm(
        self, *, epsilon: float = 1e-5, name: str | None = None, share: str | None = None
    ) -> Self:
        """Normalise each vector of the last dimension."""
        return self.then(LayerNorm(epsilon), kind="layer_norm", name=name, share=share)

    def rms_norm(
        self, *, epsilon: float = 1e-5, name: str | None = None, share: str | None = None
    ) -> Self:
        """Divide each vector of the last dimension by its root mean square."""
        return self.then(RmsNorm(epsilon), kind="rms_norm", name=name, share=share)

    def group_norm(
        self,
        groups: int,
        *,
        epsilon: float = 1e-5,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """Normalise each of `groups` groups of channels; as many as channels: instance norm."""
        return self.then(GroupNorm(groups, epsilon), kind="group_norm", name=name, share=share)
