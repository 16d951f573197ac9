"""`GraphBuilder`: a network as one chain of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from nexus_compiler.frontend.builder import emission, summary, weights
from nexus_compiler.frontend.builder.layers.activation import ActivationCalls
from nexus_compiler.frontend.builder.layers.attention import AttentionCalls
from nexus_compiler.frontend.builder.layers.base import Parameter
from nexus_compiler.frontend.builder.layers.conv import ConvCalls
from nexus_compiler.frontend.builder.layers.dense import DenseCalls
from nexus_compiler.frontend.builder.layers.merge import MergeCalls
from nexus_compiler.frontend.builder.layers.norm import NormCalls
from nexus_compiler.frontend.builder.layers.pool import PoolCalls
from nexus_compiler.frontend.builder.layers.recurrent import RecurrentCalls
from nexus_compiler.frontend.builder.layers.shape import ShapeCalls
from nexus_compiler.frontend.graph import CapturedGraph


@dataclass(frozen=True)
class GraphBuilder(
    DenseCalls,
    ConvCalls,
    PoolCalls,
    NormCalls,
    ActivationCalls,
    RecurrentCalls,
    AttentionCalls,
    ShapeCalls,
    MergeCalls,
):
    """A network under construction. Every call returns a new builder; the old one stays as it was.

    >>> graph = (
    ...     GraphBuilder()
    ...     .input("features", (None, 784))
    ...     .dense(256, activation="relu")
    ...     .dropout(0.5)
    ...     .dense(10, activation="softmax")
    ... )

    A layer takes the present tensor and makes the next one. `name("skip")` names the present
    tensor, `at("skip")` goes on from it, `add("skip")` and `concat("skip")` bring it in, `residual`
    and `branch` do both; `output(...)` declares several outputs. The first dimension of an input
    is the batch; None leaves it open. Layers take and make float32; inputs of indices are int64.

    Attributes:
        seed: the initial weights follow from it, and from nothing else but names and layers.
    """

    def parameter_specs(self) -> dict[str, Parameter]:
        """The weights by name, in the order of the layers; shared ones once."""
        found: dict[str, Parameter] = {}
        for step in self.steps:
            for name, spec in step.parameters().items():
                found.setdefault(name, spec)
        return found

    def parameters(self) -> dict[str, np.ndarray]:
        """The weights by name, float32: those of `with_weights`, else the initial ones."""
        specs = self.parameter_specs()
        return self._parameters(
            weights.draw({n: s for n, s in specs.items() if n not in self.weights}, self.seed)
        )

    def shared_parameters(self) -> dict[str, np.ndarray]:
        """As `parameters`; initial ones are read-only, and drawn once while anyone has them."""
        specs = self.parameter_specs()
        return self._parameters(
            weights.drawn({n: s for n, s in specs.items() if n not in self.weights}, self.seed)
        )

    def _parameters(self, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        held = self.weights
        return {n: held[n] if n in held else drawn[n] for n in self.parameter_specs()}

    def with_weights(self, parameters: Mapping[str, np.ndarray]) -> Self:
        """The network with these weights instead of initial ones, e.g. as training left them.

        Raises:
            ShapeError: weights are missing, unexpected or of another shape; all are named.
        """
        return replace(self, weights=weights.fitting(parameters, self.parameter_specs()))

    def load_weights(self, path: str | Path) -> Self:
        """The network with the weights of a file that `save_weights` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
            ShapeError: weights are missing, unexpected or of another shape; all are named.
        """
        return self.with_weights(weights.load(path))

    def save_weights(
        self, path: str | Path, parameters: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Write the weights, or `parameters` in their place, as safetensors, in one step.

        Raises:
            ShapeError: `parameters` are not those of this network.
        """
        network = self if parameters is None else self.with_weights(parameters)
        weights.save(path, network.parameters())

    def to_graph(self, parameters: Mapping[str, np.ndarray] | None = None) -> CapturedGraph:
        """The network as a captured graph with the function `main`, for inference.

        Args:
            parameters: weights by name, as training left them; by default the network's own.

        Raises:
            ShapeError: weights are missing, unexpected or of another shape; all are named.
        """
        return emission.inference_graph(
            self if parameters is None else self.with_weights(parameters)
        )

    def build_training(
        self,
        path: Path,
        *,
        loss: str = "auto",
        optimizer: str = "adam",
        options: Mapping[str, Any] | None = None,
        targets: Sequence[str] = ("native",),
        batch_size: int | None = None,
    ) -> None:
        """Compile forward, loss, gradients and optimiser step, and write the artifact to `path`.

        Args:
            path: where to.
            loss: "cross_entropy", "mse", or what suits the last layer.
            optimizer: "adam" or "sgd".
            options: the optimiser's hyperparameters by name.
            targets: names that `nexusc targets` lists.
            batch_size: also compile the whole step as one function for batches of this size, which
                `Trainer.step` uses: faster, for longer compilation.

        Raises:
            UserError: the loss or the optimiser is unknown, or does not fit the network; or the
                network has more than one input or output.
            ShapeError: the batch size does not fit the network's input.
        """
        from nexus_compiler.pipeline import compile
        from nexus_compiler.training.graph import training_graph

        graph = training_graph(
            self, loss=loss, optimizer=optimizer, options=options or {}, batch_size=batch_size
        )
        compile(graph, targets=targets).save(path)

    def summary(self) -> str:
        """A table of layers, output shapes, parameters, and FLOPs for one sample, as text."""
        self.tensor()  # refuses a network without input
        return summary.table(self)
