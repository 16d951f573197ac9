"""`GraphBuilder`: a network as one chain of calls."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nexus_compiler.frontend.builder import emission, layers
from nexus_compiler.frontend.builder.layers import Layer, Parameter, Shape
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_runtime.errors import ShapeError, UserError
from nexus_runtime.signature import TensorSpec


@dataclass(frozen=True)
class Step:
    """One layer at its place: the name of its parameters' prefix and the shape that it takes."""

    name: str
    layer: Layer
    shape: Shape

    def parameters(self) -> dict[str, Parameter]:
        """The layer's weights under their full names."""
        return {f"{self.name}.{k}": v for k, v in self.layer.parameters(self.shape).items()}


@dataclass(frozen=True)
class GraphBuilder:
    """A network under construction. Every call returns a new builder; the old one stays as it was.

    >>> graph = (
    ...     GraphBuilder()
    ...     .input("features", (None, 784))
    ...     .dense(256, activation="relu")
    ...     .dropout(0.5)
    ...     .dense(10, activation="softmax")
    ... )

    The first dimension of an input is the batch; None leaves it open. All tensors are float32.

    Attributes:
        seed: the initial weights follow from it, and from nothing else but the layers.
    """

    seed: int = 0
    source: TensorSpec | None = None
    steps: tuple[Step, ...] = ()

    def input(self, name: str, shape: Sequence[int | None]) -> GraphBuilder:
        """Name the input and give its shape, batch first; None is a dimension of any size.

        Raises:
            ShapeError: it has no dimension, or one below 1.
            UserError: the builder has an input already.
        """
        if self.source is not None:
            raise UserError(
                f"the input is '{self.source.name}' already", hint="a builder takes one input"
            )
        if not shape or any(dim is not None and dim < 1 for dim in shape):
            raise ShapeError(f"input '{name}' cannot have the shape {tuple(shape)}")
        dims = tuple(_dim_name(axis) if dim is None else dim for axis, dim in enumerate(shape))
        return replace(self, source=TensorSpec(name, "float32", dims))

    def dense(
        self, units: int, *, activation: str | None = None, bias: bool = True
    ) -> GraphBuilder:
        """A fully connected layer: (batch, ..., features) to (batch, ..., units)."""
        _positive("units", units)
        return self._then(layers.Dense(units, bias), "dense")._activated(activation)

    def conv2d(
        self,
        filters: int,
        kernel: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        activation: str | None = None,
        bias: bool = True,
    ) -> GraphBuilder:
        """A convolution: (batch, channels, height, width) to (batch, filters, height', width')."""
        _positive("filters", filters)
        layer = layers.Conv2d(filters, _pair(kernel), _pair(stride), _pair(padding), bias)
        return self._then(layer, "conv2d")._activated(activation)

    def max_pool2d(
        self, size: int | tuple[int, int], *, stride: int | tuple[int, int] | None = None
    ) -> GraphBuilder:
        """The maximum of each window; windows touch unless `stride` says otherwise."""
        window = _pair(size)
        layer = layers.MaxPool2d(window, window if stride is None else _pair(stride))
        return self._then(layer, "max_pool2d")

    def flatten(self) -> GraphBuilder:
        """(batch, ...) to (batch, features)."""
        return self._then(layers.Flatten(), "flatten")

    def dropout(self, rate: float) -> GraphBuilder:
        """In training, zero each value with probability `rate` and scale the others up."""
        return self._then(layers.Dropout(rate), "dropout")

    def activation(self, function: str) -> GraphBuilder:
        """relu, sigmoid, silu, softmax (over the last dimension) or tanh."""
        return self._then(layers.Activation(function), "activation")

    @property
    def shape(self) -> Shape:
        """The shape of the output so far; a string is a dimension of any size."""
        if not self.steps:
            return self.features.shape
        return self.steps[-1].layer.infer(self.steps[-1].shape)

    def parameters(self) -> dict[str, np.ndarray]:
        """The initial weights by name, float32."""
        found: dict[str, np.ndarray] = {}
        for name, parameter in self.parameter_specs().items():
            # One stream a name: adding a layer does not change the weights of the others.
            stream = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
            values = stream.standard_normal(parameter.shape) * parameter.scale + parameter.fill
            found[name] = values.astype(np.float32)
        return found

    def parameter_specs(self) -> dict[str, Parameter]:
        """Shapes and initial spreads of the weights by name, in the order of the layers."""
        return {name: spec for step in self.steps for name, spec in step.parameters().items()}

    def to_graph(self, parameters: Mapping[str, np.ndarray] | None = None) -> CapturedGraph:
        """The network as a captured graph with the function `main`, for inference.

        Args:
            parameters: weights by name, as training left them; by default the initial ones.

        Raises:
            ShapeError: a weight is missing, unknown, or of another shape.
        """
        graph = emission.inference_graph(self)
        return graph if parameters is None else replace(graph, params=self._fitting(parameters))

    def build_training(
        self,
        path: Path,
        *,
        loss: str = "auto",
        optimizer: str = "adam",
        options: Mapping[str, Any] | None = None,
        targets: Sequence[str] = ("native",),
    ) -> None:
        """Compile forward, loss, gradients and optimiser step, and write the artifact to `path`.

        Raises:
            UserError: the loss or the optimiser is unknown, or does not fit the network.
        """
        from nexus_compiler.pipeline import compile
        from nexus_compiler.training.graph import training_graph

        graph = training_graph(self, loss=loss, optimizer=optimizer, options=options or {})
        compile(graph, targets=targets).save(path)

    def summary(self) -> str:
        """A table of layers, output shapes and parameters, as text."""
        rows = [
            ("layer", "output", "parameters"),
            (self.features.name, _text(self.features.shape), "0"),
        ]
        total = 0
        for step in self.steps:
            count = sum(int(np.prod(p.shape)) for p in step.parameters().values())
            total += count
            rows.append((step.name, _text(step.layer.infer(step.shape)), f"{count:,}"))
        rows.append(("total", "", f"{total:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows
        )

    def _fitting(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = {name: spec.shape for name, spec in self.parameter_specs().items()}
        given = {name: array.shape for name, array in parameters.items()}
        if odd := sorted(name for name in wanted | given if wanted.get(name) != given.get(name)):
            raise ShapeError(
                f"weight '{odd[0]}' must be {wanted.get(odd[0])}, not {given.get(odd[0])}",
                hint="pass the weights of this very network",
            )
        return {name: np.asarray(parameters[name], np.float32) for name in wanted}

    @property
    def features(self) -> TensorSpec:
        """The input: its name and shape.

        Raises:
            UserError: none was given yet.
        """
        if self.source is None:
            raise UserError("the network has no input", hint='begin with .input("x", (None, 784))')
        return self.source

    def _then(self, layer: Layer, kind: str) -> GraphBuilder:
        shape = self.shape
        layer.infer(shape)  # refuses what does not fit, at the call that caused it
        number = sum(step.name.startswith(f"{kind}_") for step in self.steps) + 1
        return replace(self, steps=(*self.steps, Step(f"{kind}_{number}", layer, shape)))

    def _activated(self, function: str | None) -> GraphBuilder:
        return self if function is None else self.activation(function)


def _dim_name(axis: int) -> str:
    return "batch" if axis == 0 else f"dim_{axis}"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
