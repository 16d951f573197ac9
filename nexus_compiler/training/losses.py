"""Losses: per batch, the sum over samples and the number of samples that are right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import relax

from nexus_compiler.frontend.builder.layers.activation import Activation
from nexus_runtime.errors import UserError, nearest
from nexus_runtime.signature import TensorSpec

if TYPE_CHECKING:
    from nexus_compiler.frontend.builder.builder import GraphBuilder

_SOFTMAX = Activation.of("softmax")


@dataclass(frozen=True)
class Loss(ABC):
    """A loss on the output of a network."""

    @abstractmethod
    def behind(self, builder: GraphBuilder) -> str:
        """The name of the tensor of `builder` that the loss takes.

        Raises:
            UserError: the network does not end in what the loss needs.
        """

    @abstractmethod
    def labels(self, builder: GraphBuilder) -> TensorSpec:
        """Dtype and shape of the labels."""

    @abstractmethod
    def emit(
        self, block: relax.BlockBuilder, value: relax.Var, labels: relax.Var
    ) -> tuple[relax.Var, relax.Var]:
        """Emit the summed loss, float32 (), and the count of right samples, int64 ()."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(logits)[label], from the logits and not from probabilities, for accuracy."""

    def behind(self, builder: GraphBuilder) -> str:
        """What the last softmax takes, which the loss contains."""
        last = builder.step(builder.ends()[0])
        if last is None or last.layer != _SOFTMAX:
            raise UserError(
                "cross entropy needs a network that ends in softmax",
                hint='give the last layer activation="softmax", or train with loss="mse"',
            )
        if len(last.output.shape) != 2:
            raise UserError(
                f"cross entropy needs an output of (batch, classes), not {last.output.shape}",
                hint='.flatten() or .global_avg_pool() before the last layer, or loss="mse"',
            )
        return last.inputs[0]

    def labels(self, builder: GraphBuilder) -> TensorSpec:
        """int64 (batch,): the number of the class."""
        return TensorSpec("labels", "int64", builder.outputs()[0].shape[:1])

    def emit(
        self, block: relax.BlockBuilder, value: relax.Var, labels: relax.Var
    ) -> tuple[relax.Var, relax.Var]:
        """Log-softmax and negative log-likelihood."""
        log_probabilities = block.emit(relax.op.nn.log_softmax(value, axis=-1))
        loss = block.emit(relax.op.nn.nll_loss(log_probabilities, labels, reduction="sum"))
        predicted = block.emit(relax.op.argmax(value, axis=-1))
        right = block.emit(relax.op.equal(predicted, labels))
        return loss, block.emit(relax.op.sum(block.emit(relax.op.astype(right, "int64"))))


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean over a sample's values of the squared difference, summed over samples."""

    def behind(self, builder: GraphBuilder) -> str:
        """The output."""
        return builder.ends()[0]

    def labels(self, builder: GraphBuilder) -> TensorSpec:
        """float32, of the shape of the output."""
        return TensorSpec("labels", "float32", builder.outputs()[0].shape)

    def emit(
        self, block: relax.BlockBuilder, value: relax.Var, labels: relax.Var
    ) -> tuple[relax.Var, relax.Var]:
        """Nothing counts as right or wrong here: the count is 0."""
        difference = block.emit(relax.op.subtract(value, labels))
        squares = block.emit(relax.op.multiply(difference, difference))
        axes = list(range(1, len(value.ty.shape.values)))
        per_sample = block.emit(relax.op.mean(squares, axis=axes)) if axes else squares
        none = block.emit(relax.op.zeros(relax.ShapeExpr([]), "int64"))
        return block.emit(relax.op.sum(per_sample)), none


LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "mse": MeanSquaredError()}


def choose(name: str, builder: GraphBuilder) -> str:
    """The loss called `name`; "auto" is cross entropy behind a softmax, else "mse".

    Raises:
        UserError: there is none of this name.
    """
    if name == "auto":
        last = builder.step(builder.ends()[0])
        if last is not None and last.layer == _SOFTMAX and len(last.output.shape) == 2:
            return "cross_entropy"
        return "mse"
    if name not in LOSSES:
        raise UserError(f"unknown loss '{name}'", hint=nearest(name, [*LOSSES, "auto"]))
    return name
