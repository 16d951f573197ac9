"""Fully connected layers and embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from tvm import relax

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.initial import Init, Initializer
from nexus_compiler.frontend.builder.layers.base import (
    NUMBERS,
    Emitter,
    OneInput,
    Parameter,
    Shape,
    Shapes,
    at_least_one,
    fixed,
    size_of,
    text,
)
from nexus_runtime.errors import ShapeError


@dataclass(frozen=True)
class Dense(OneInput):
    """`x @ weight + bias` over the last dimension."""

    units: int
    bias: bool = True
    init: Initializer = initial.HE_NORMAL
    bias_init: Initializer = initial.ZEROS

    def infer_one(self, shape: Shape) -> Shape:
        """Replaces the last dimension by `units`."""
        if len(shape) < 2 or not isinstance(shape[-1], int):
            raise ShapeError(
                f"dense needs (batch, ..., features), the last one fixed, not {text(shape)}",
                hint="put .flatten() before it",
            )
        return (*shape[:-1], self.units)

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`weight` (features, units), He-normal unless told, and `bias` (units)."""
        fans = (fixed(shapes[0][-1]), self.units)
        weight = {"weight": Parameter(fans, self.init, fans)}
        return weight | {"bias": Parameter((self.units,), self.bias_init)} if self.bias else weight

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A matmul and an add."""
        product = out.emit(relax.op.matmul(value, out.parameters["weight"]))
        return out.emit(relax.op.add(product, out.parameters["bias"])) if self.bias else product

    def flops(self, shapes: Shapes) -> int:
        """Two a weight."""
        return size_of(shapes[0][1:]) * self.units * 2


@dataclass(frozen=True)
class Embedding(OneInput):
    """Row `i` of a table for each index `i`."""

    takes: ClassVar[tuple[str, ...]] = NUMBERS

    vocabulary: int
    features: int
    init: Initializer = initial.SMALL

    def infer_one(self, shape: Shape) -> Shape:
        """Appends the dimension of the features."""
        return (*shape, self.features)

    def dtype(self, given: str) -> str:
        """float32."""
        return "float32"

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`table` (vocabulary, features)."""
        fans = (self.vocabulary, self.features)
        return {"table": Parameter(fans, self.init, fans)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A take, of indices that are clamped: the kernel would read and write beyond the table."""
        if str(value.ty.dtype.dtype) != "int64":
            value = out.emit(relax.op.astype(value, "int64"))
        low, high = relax.const(0, "int64"), relax.const(self.vocabulary - 1, "int64")
        value = out.emit(relax.op.maximum(value, low))
        value = out.emit(relax.op.minimum(value, high))
        return out.emit(relax.op.take(out.parameters["table"], value, axis=0))

    def flops(self, shapes: Shapes) -> int:
        """None."""
        return 0


class DenseCalls(Chain):
    """The calls of this family."""

    def dense(
        self,
        units: int,
        *,
        activation: str | None = None,
        bias: bool = True,
        init: Init = None,
        bias_init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """A fully connected layer: (batch, ..., features) to (batch, ..., units).

        Args:
            units: features of the output.
            activation: a name of `activation`.
            bias: whether there is one.
            init: of the weight (features, units); He-normal unless told. See `initial.py`.
            bias_init: of the bias; zeros unless told.
            name: of the layer, its weights and its tensor.
            share: the layer whose weights it uses.

        Raises:
            ShapeError: the last dimension is open, or the shared weights have other shapes.
        """
        at_least_one("units", units)
        weight = initial.resolve(init, initial.HE_NORMAL)
        layer = Dense(units, bias, weight, initial.resolve(bias_init, initial.ZEROS))
        return self.then(layer, kind="dense", name=name, share=share)._activated(activation)

    def embedding(
        self,
        vocabulary: int,
        features: int,
        *,
        init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """Vectors for indices: (batch, ...) of int64 to float32 (batch, ..., features).

        float32 is taken too and rounded towards zero, for data sets, which hold floats. Indices
        below 0 or beyond the table mean its first or last row.
        """
        at_least_one("vocabulary", vocabulary)
        at_least_one("features", features)
        layer = Embedding(vocabulary, features, initial.resolve(init, initial.SMALL))
        return self.then(layer, kind="embedding", name=name, share=share)
