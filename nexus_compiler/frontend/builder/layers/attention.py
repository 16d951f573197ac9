"""Attention, and the positions that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from tvm import relax

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.initial import Init, Initializer
from nexus_compiler.frontend.builder.layers.activation import drop
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    Layer,
    OneInput,
    Parameter,
    Shape,
    Shapes,
    at_least_one,
    fixed,
    relax_shape,
    text,
)
from nexus_runtime.errors import ShapeError, UserError

op = relax.op


@dataclass(frozen=True)
class Attention(Layer):
    """Multi-head attention (Vaswani et al. 2017); a second input is what is looked at."""

    heads: int
    head_size: int | None
    causal: bool
    dropout: float
    bias: bool
    init: Initializer

    def infer(self, shapes: Shapes) -> Shape:
        """The shape of the first input."""
        for shape in shapes:
            if len(shape) != 3 or not isinstance(shape[2], int):
                raise ShapeError(f"attention needs (batch, steps, features), not {text(shape)}")
        if shapes[0][0] != shapes[-1][0]:
            raise ShapeError(
                f"attention needs one batch, not {text(shapes[0])} and {text(shapes[-1])}"
            )
        if self.head_size is None and fixed(shapes[0][2]) % self.heads:
            raise ShapeError(f"{self.heads} heads must divide the features of {text(shapes[0])}")
        return shapes[0]

    def _size(self, shapes: Shapes) -> int:
        return self.head_size or fixed(shapes[0][2]) // self.heads

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`query`, `key`, `value`, `output`: a weight (in, out) and a bias (out) each."""
        features, looked, wide = shapes[0][2], shapes[-1][2], self.heads * self._size(shapes)
        found: dict[str, Parameter] = {}
        for part, dims in {
            "query": (fixed(features), wide),
            "key": (fixed(looked), wide),
            "value": (fixed(looked), wide),
            "output": (wide, fixed(features)),
        }.items():
            found[f"{part}_weight"] = Parameter(dims, self.init, dims)
            if self.bias:
                found[f"{part}_bias"] = Parameter(dims[1:])
        return found

    def emit(self, out: Emitter, values: Sequence[relax.Var], shapes: Shapes) -> relax.Var:
        """softmax(q k' / sqrt(size)) v, a head; then the heads together."""
        size = self._size(shapes)
        query = self._heads(out, values[0], "query", size)
        key = self._heads(out, values[-1], "key", size)
        value = self._heads(out, values[-1], "value", size)
        turned = out.emit(op.permute_dims(key, [0, 1, 3, 2]))
        scaled = out.emit(op.multiply(query, relax.const(np.float32(size**-0.5))))
        scores = out.emit(op.matmul(scaled, turned))
        if self.causal:
            scores = _hide_later(out, scores)
        shares = out.emit(op.nn.softmax(scores, axis=-1))
        if self.dropout:
            shape = (shapes[0][0], self.heads, shapes[0][1], shapes[-1][1])
            shares = drop(out, shares, shape, self.dropout)
        mixed = out.emit(op.permute_dims(out.emit(op.matmul(shares, value)), [0, 2, 1, 3]))
        batch, steps, _, _ = relax_shape(mixed)
        joined = out.emit(op.reshape(mixed, (batch, steps, self.heads * size)))
        return self._project(out, joined, "output")

    def _project(self, out: Emitter, value: relax.Var, part: str) -> relax.Var:
        product = out.emit(op.matmul(value, out.parameters[f"{part}_weight"]))
        bias = out.parameters.get(f"{part}_bias")
        return product if bias is None else out.emit(op.add(product, bias))

    def _heads(self, out: Emitter, value: relax.Var, part: str, size: int) -> relax.Var:
        """(batch, steps, features) to (batch, heads, steps, size)."""
        wide = self._project(out, value, part)
        batch, steps, _ = relax_shape(wide)
        cut = out.emit(op.reshape(wide, (batch, steps, self.heads, size)))
        return out.emit(op.permute_dims(cut, [0, 2, 1, 3]))

    def flops(self, shapes: Shapes) -> int:
        """Two a weight and step of the projections; two products and a softmax a head."""
        steps, seen = fixed(shapes[0][1]), fixed(shapes[-1][1])
        weights = self.parameters(shapes)
        work = {"query": steps, "output": steps, "key": seen, "value": seen}
        linear = sum(
            2 * count * int(np.prod(weights[f"{part}_weight"].shape))
            for part, count in work.items()
        )
        return linear + self.heads * steps * seen * (4 * self._size(shapes) + 5)


def _hide_later(out: Emitter, scores: relax.Var) -> relax.Var:
    """-1e9 where the key stands behind the query."""
    steps, seen = relax_shape(scores)[2:]
    rows = out.emit(op.reshape(out.emit(op.arange(steps, dtype="int64")), (steps, 1)))
    columns = out.emit(op.reshape(out.emit(op.arange(seen, dtype="int64")), (1, seen)))
    later = out.emit(op.greater(columns, rows))
    return out.emit(op.where(later, relax.const(np.float32(-1e9)), scores))


@dataclass(frozen=True)
class Positions(OneInput):
    """Adds a learned vector for each position (Gehring et al. 2017)."""

    init: Initializer

    def infer_one(self, shape: Shape) -> Shape:
        """The same."""
        if len(shape) != 3 or not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(f"positions needs (batch, steps, features), fixed, not {text(shape)}")
        return shape

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`table` (steps, features)."""
        dims = (fixed(shapes[0][1]), fixed(shapes[0][2]))
        return {"table": Parameter(dims, self.init, dims)}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One add."""
        return out.emit(op.add(value, out.parameters["table"]))


class AttentionCalls(Chain):
    """The calls of this family."""

    def attention(
        self,
        heads: int,
        *,
        memory: str | None = None,
        head_size: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """Multi-head attention: (batch, steps, features) to the same.

        Args:
            heads: how many.
            memory: the tensor (batch, steps', features') that is looked at; by default the present
                one, which makes it self-attention.
            head_size: features of a head; by default features / heads.
            causal: no step looks at later ones.
            dropout: rate, of the attention weights.
            bias: whether the four projections have one.
            init: of the projections; Glorot-uniform unless told.
            name: of the layer, its weights and its tensor.
            share: the layer whose weights it uses.

        Raises:
            ShapeError: an input is no sequence, or the heads do not divide its features.
        """
        at_least_one("heads", heads)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout takes a rate from 0 to below 1, not {dropout}")
        weight = initial.resolve(init, initial.GLOROT_UNIFORM)
        layer = Attention(heads, head_size, causal, dropout, bias, weight)
        more = () if memory is None else (memory,)
        return self.then(layer, *more, kind="attention", name=name, share=share)

    def positions(
        self, *, init: Init = None, name: str | None = None, share: str | None = None
    ) -> Self:
        """Add a learned vector to each step of (batch, steps, features)."""
        layer = Positions(initial.resolve(init, initial.Normal(0.02)))
        return self.then(layer, kind="positions", name=name, share=share)
