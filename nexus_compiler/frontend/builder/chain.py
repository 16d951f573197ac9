"""The network as a value: inputs, steps, and the tensor at which the next call goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np

from nexus_compiler.frontend.builder.layers.base import FLOATS, NUMBERS, Layer, Parameter, Shape
from nexus_compiler.frontend.builder.layers.base import text as shape_text
from nexus_compiler.frontend.locations import caller
from nexus_runtime.errors import ShapeError, UserError, nearest
from nexus_runtime.signature import TensorSpec

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-/]*")
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One layer at its place.

    Attributes:
        name: of the step, and of the tensor that it makes.
        layer: what it does.
        inputs: the tensors that it takes: names of inputs of the network or of steps.
        shapes: their shapes.
        output: the tensor that it makes.
        owner: the step whose weights it uses; its own name where it shares none.
        location: file and line where the network was given this step.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    output: TensorSpec
    owner: str
    location: str = field(default="", compare=False)

    def parameters(self) -> dict[str, Parameter]:
        """The layer's weights under their full names."""
        return {f"{self.owner}.{k}": v for k, v in self.layer.parameters(self.shapes).items()}


@dataclass(frozen=True)
class Chain:
    """Named tensors and the steps that make them. Every call returns a new one.

    Attributes:
        seed: the initial weights follow from it, and from nothing else but names and layers.
        sources: the inputs of the network.
        steps: in the order of the calls, so that each stands behind what it takes.
        marks: other names of tensors: (name, tensor).
        present: the tensor that the next call takes.
        declared: the outputs by name; none means the present tensor.
        weights: values that stand in for initial ones.
    """

    seed: int = 0
    sources: tuple[TensorSpec, ...] = ()
    steps: tuple[Step, ...] = ()
    marks: tuple[tuple[str, str], ...] = ()
    present: str = ""
    declared: tuple[str, ...] = ()
    weights: Mapping[str, np.ndarray] = field(
        default_factory=dict[str, np.ndarray], compare=False, repr=False
    )

    def input(
        self, name: str, shape: Sequence[int | str | None], *, dtype: str = "float32"
    ) -> Self:
        """Name an input, give its shape, batch first, and go on from it.

        None is a dimension of any size; a string names one, equal wherever the name occurs.

        Args:
            name: what callers of the compiled model call it.
            shape: with the batch.
            dtype: float32, or int64 or int32 for indices (`embedding`).

        Raises:
            ShapeError: it has no dimension, or one that is none.
            UserError: the name is taken, or the dtype is another one.
        """
        if not shape or isinstance(shape, str) or not all(map(_is_dimension, shape)):
            raise ShapeError(
                f"input '{name}' cannot have the shape {shape!r}",
                hint="a dimension is a number from 1 on, a name, or None for any size",
            )
        if dtype not in NUMBERS:
            raise UserError(f"input '{name}' cannot be {dtype}", hint=nearest(dtype, NUMBERS))
        self._check_free(name)
        prefix = f"{name}_" if self.sources else ""
        dims = tuple(
            ("batch" if axis == 0 else f"{prefix}dim_{axis}") if dim is None else dim
            for axis, dim in enumerate(shape)
        )
        return replace(self, sources=(*self.sources, TensorSpec(name, dtype, dims)), present=name)

    def name(self, name: str) -> Self:
        """Call the present tensor `name`, for `at`, `add`, `concat`, `output`.

        Raises:
            UserError: the name is taken.
        """
        self._check_free(name)
        return replace(self, marks=(*self.marks, (name, self.tensor().name)))

    def at(self, name: str) -> Self:
        """Go on from the tensor `name`: one that was named, a layer's (behind its activation), or
        an input.

        Raises:
            UserError: there is none.
        """
        return replace(self, present=self.tensor(name).name)

    def output(self, *names: str) -> Self:
        """Make these tensors the outputs of the network, in this order; can be called again.

        Raises:
            UserError: there is no such tensor, or it is an output already.
        """
        for place, name in enumerate(names):
            self.tensor(name)
            if name in self.declared or name in names[:place]:
                raise UserError(f"'{name}' is an output already")
        return replace(self, declared=(*self.declared, *names))

    def then(
        self,
        layer: Layer,
        *more: str,
        kind: str = "",
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """Put `layer` on the present tensor and the tensors named in `more`.

        The layers' own methods call this; it is the door for layers of your own.

        Args:
            layer: what to compute.
            more: further inputs of the layer.
            kind: names without `name` begin so; by default the class of the layer.
            name: of the step, its weights and its tensor.
            share: the step whose weights it uses instead of its own.

        Raises:
            ShapeError: the layer cannot take these shapes, or its weights are not the shared ones.
            UserError: a name is unknown or taken, or a dtype does not fit.
        """
        given = [self.tensor(), *(self.tensor(other) for other in more)]
        called = self._fresh(kind or type(layer).__name__.lower()) if name is None else name
        self._check_free(called)
        for tensor in given:
            if tensor.dtype not in layer.takes:
                raise UserError(
                    f"{called} takes {' or '.join(layer.takes)}, but '{tensor.name}' is "
                    f"{tensor.dtype}",
                    hint="indices go through .embedding first" if layer.takes == FLOATS else "",
                )
        shapes = tuple(tensor.shape for tensor in given)
        made = TensorSpec(called, layer.dtype(given[0].dtype), layer.infer(shapes))
        owner = called if share is None else self._owner(share, layer, shapes)
        step = Step(
            called, layer, tuple(t.name for t in given), shapes, made, owner, caller((_PACKAGE,))
        )
        return replace(self, steps=(*self.steps, step), present=called)

    def branch(self, *paths: Callable[[Self], Self], merge: str = "concat", axis: int = 1) -> Self:
        """Go several ways from the present tensor and bring them together.

        >>> GraphBuilder().input("x", (None, 8)).branch(
        ...     lambda g: g.dense(4), lambda g: g, merge="concat")

        Args:
            paths: each takes the network at this tensor and returns it at its end.
            merge: "concat" (along `axis`), "add" or "multiply".
            axis: of concat.

        Raises:
            UserError: there is no path, or no such merge.
            ShapeError: the ends do not fit each other.
        """
        from nexus_compiler.frontend.builder.layers import merge as merging

        if not paths:
            raise UserError(
                "branch needs a path", hint=".branch(lambda g: g.dense(8), lambda g: g)"
            )
        start, ends, network = self.tensor().name, list[str](), self
        for path in paths:
            network = path(network.at(start))
            ends.append(network.tensor().name)
        layer = merging.make(merge, axis)
        return network.at(ends[0]).then(layer, *ends[1:], kind=merge)

    def tensor(self, name: str | None = None) -> TensorSpec:
        """The tensor called `name`, by default the present one; its name is then its first one.

        Raises:
            UserError: there is none.
        """
        if name is None:
            if not self.sources:
                raise UserError(
                    "the network has no input", hint='begin with .input("x", (None, 784))'
                )
            name = self.present
        else:
            name = dict(self.marks).get(name, name)
        for found in (*(step.output for step in reversed(self.steps)), *self.sources):
            if found.name == name:
                return found
        raise UserError(f"there is no tensor '{name}'", hint=nearest(name, self._names()))

    @property
    def shape(self) -> Shape:
        """The shape of the present tensor; a string is a dimension of any size."""
        return self.tensor().shape

    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs under the names that callers see, "output" where none was declared."""
        if not self.declared:
            tensor = self.tensor()
            return (TensorSpec("output", tensor.dtype, tensor.shape),)
        found = [(name, self.tensor(name)) for name in self.declared]
        return tuple(TensorSpec(name, tensor.dtype, tensor.shape) for name, tensor in found)

    def ends(self) -> tuple[str, ...]:
        """The tensors that are the outputs, under their first names."""
        return tuple(self.tensor(name).name for name in self.declared) or (self.tensor().name,)

    def step(self, name: str) -> Step | None:
        """The step that makes the tensor `name`; None for an input."""
        return next((step for step in self.steps if step.name == name), None)

    def _names(self) -> list[str]:
        return [
            *(spec.name for spec in self.sources),
            *(step.name for step in self.steps),
            *(name for name, _ in self.marks),
        ]

    def _check_free(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"'{name}' is no name for a tensor", hint="letters, digits, '_', '-' and '/'"
            )
        taken = {spec.name for spec in self.sources} | {step.name for step in self.steps}
        # A layer's own name marks its activation; only names that were given are in the way.
        if name in taken | {mark for mark, _ in self.marks}:
            raise UserError(f"there is a tensor '{name}' already", hint="give another name")

    def _fresh(self, kind: str) -> str:
        number = sum(step.name.startswith(f"{kind}_") for step in self.steps) + 1
        taken = set(self._names())
        while f"{kind}_{number}" in taken:
            number += 1
        return f"{kind}_{number}"

    def _owner(self, share: str, layer: Layer, shapes: tuple[Shape, ...]) -> str:
        """The step whose weights `layer` may use."""
        step = self.step(share)
        if step is None:
            raise UserError(
                f"there is no layer '{share}' to share weights with",
                hint=nearest(share, [step.name for step in self.steps]),
            )
        own, other = layer.parameters(shapes), step.layer.parameters(step.shapes)
        if not all(parameter.trained for parameter in other.values()):
            raise UserError(f"'{share}' keeps statistics of its input and cannot share its weights")
        if {k: p.shape for k, p in own.items()} != {k: p.shape for k, p in other.items()}:
            raise ShapeError(
                f"the weights of '{share}' are {_weights_text(other)}, but {_weights_text(own)} "
                "are needed here"
            )
        return step.owner

    def _activated(self, function: str | None) -> Self:
        """The present layer's activation; the layer's name then means the activated tensor."""
        if function is None:
            return self
        from nexus_compiler.frontend.builder.layers.activation import Activation

        called = self.present
        done = self.then(Activation.of(function), kind="activation")
        return replace(done, marks=(*done.marks, (called, done.present)))


def _weights_text(parameters: Mapping[str, Parameter]) -> str:
    return ", ".join(f"{k} {shape_text(p.shape)}" for k, p in parameters.items()) or "none"


def _is_dimension(dim: Any) -> bool:
    if isinstance(dim, str):
        return dim.isidentifier()
    return dim is None or (isinstance(dim, Integral) and int(dim) > 0)
