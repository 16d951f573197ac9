"""Layers that move values and change none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tvm import relax

from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    Free,
    Shape,
    fixed,
    need_whole,
    relax_shape,
    text,
)
from nexus_compiler.frontend.builder.layers.window import Sizes, need_image, sizes
from nexus_runtime.errors import ShapeError, UserError


@dataclass(frozen=True)
class Flatten(Free):
    """All dimensions but the batch become one."""

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, features)."""
        if not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(f"flatten needs fixed dimensions behind the batch: {text(shape)}")
        return (shape[0], math.prod(fixed(dim) for dim in shape[1:]))

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A reshape that keeps the batch as it is."""
        dims = (relax_shape(value)[0], self.infer_one(shape)[1])
        return out.emit(relax.op.reshape(value, dims))


@dataclass(frozen=True)
class Reshape(Free):
    """The same values in other dimensions behind the batch."""

    sample: tuple[int, ...]

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, sample...)."""
        if not all(isinstance(dim, int) for dim in shape[1:]):
            raise ShapeError(f"reshape needs fixed dimensions behind the batch: {text(shape)}")
        size, known = math.prod(fixed(dim) for dim in shape[1:]), -math.prod(self.sample)
        dims = self.sample
        if -1 in dims and known > 0 and size % known == 0:
            dims = tuple(size // known if dim == -1 else dim for dim in dims)
        if math.prod(dims) != size or min(dims, default=1) < 1:
            raise ShapeError(
                f"the {size} values of a sample of {text(shape)} do not fit {text(self.sample)}",
                hint="name the dimensions without the batch; one may be -1",
            )
        return (shape[0], *dims)

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        dims = (relax_shape(value)[0], *self.infer_one(shape)[1:])
        return out.emit(relax.op.reshape(value, dims))


@dataclass(frozen=True)
class Permute(Free):
    """The dimensions behind the batch in another order."""

    order: tuple[int, ...]

    def infer_one(self, shape: Shape) -> Shape:
        """The dimensions in that order."""
        if sorted(self.order) != list(range(1, len(shape))):
            raise ShapeError(
                f"{self.order} is no order of the dimensions 1 to {len(shape) - 1} of {text(shape)}"
            )
        return (shape[0], *(shape[axis] for axis in self.order))

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        return out.emit(relax.op.permute_dims(value, [0, *self.order]))


@dataclass(frozen=True)
class Pad(Free):
    """Zeros around the axes behind the channels."""

    before: tuple[int, int]
    after: tuple[int, int]

    def infer_one(self, shape: Shape) -> Shape:
        """Each axis longer by both."""
        need_image("zero_pad2d", shape, 2)
        grown = (fixed(shape[2 + a]) + self.before[a] + self.after[a] for a in (0, 1))
        return (*shape[:2], *grown)

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        (top, left), (bottom, right) = self.before, self.after
        width = (0, 0, 0, 0, top, bottom, left, right)
        return out.emit(relax.op.nn.pad(value, width, "constant"))


@dataclass(frozen=True)
class Upsample(Free):
    """Each value of an image many times: the nearest neighbour."""

    factor: tuple[int, int]

    def infer_one(self, shape: Shape) -> Shape:
        """Each axis times its factor."""
        need_image("upsample2d", shape, 2)
        return (*shape[:2], *(fixed(shape[2 + a]) * self.factor[a] for a in (0, 1)))

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A broadcast between two reshapes."""
        batch, channels, height, width = relax_shape(value)
        rows, columns = self.factor
        thin = out.emit(relax.op.reshape(value, (batch, channels, height, 1, width, 1)))
        wide = (batch, channels, height, rows, width, columns)
        many = out.emit(relax.op.broadcast_to(thin, wide))
        return out.emit(relax.op.reshape(many, (batch, channels, height * rows, width * columns)))


@dataclass(frozen=True)
class Crop(Free):
    """A range along one dimension."""

    axis: int
    start: int
    stop: int

    def infer_one(self, shape: Shape) -> Shape:
        """That dimension is `stop - start` long."""
        if not 0 < self.axis < len(shape):
            raise ShapeError(f"slice takes a dimension behind the batch of {text(shape)}")
        length = fixed(shape[self.axis])
        if not 0 <= self.start < self.stop <= length:
            raise ShapeError(
                f"[{self.start}:{self.stop}] is no range of dimension {self.axis} of {text(shape)}"
            )
        return (*shape[: self.axis], self.stop - self.start, *shape[self.axis + 1 :])

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One operator."""
        return out.emit(relax.op.strided_slice(value, [self.axis], [self.start], [self.stop]))


class ShapeCalls(Chain):
    """The calls of this family."""

    def flatten(self, *, name: str | None = None) -> Self:
        """(batch, ...) to (batch, features)."""
        return self.then(Flatten(), kind="flatten", name=name)

    def reshape(self, *sample: int, name: str | None = None) -> Self:
        """(batch, ...) to (batch, *sample); one of `sample` may be -1: what is left."""
        need_whole("reshape", sample)
        return self.then(Reshape(sample), kind="reshape", name=name)

    def permute(self, *order: int, name: str | None = None) -> Self:
        """The dimensions behind the batch in this order, counted from 1."""
        need_whole("permute", order)
        return self.then(Permute(order), kind="permute", name=name)

    def slice(self, start: int, stop: int, *, axis: int = 1, name: str | None = None) -> Self:
        """Positions `start` to below `stop` of dimension `axis`."""
        return self.then(Crop(axis, start, stop), kind="slice", name=name)

    def zero_pad2d(self, padding: int | Sequence[int], *, name: str | None = None) -> Self:
        """Zeros around an image: one number, or (top, bottom, left, right)."""
        pads = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(pads) != 4 or min(pads) < 0:
            raise UserError(f"zero_pad2d takes one number from 0 on, or four, not {padding}")
        layer = Pad((pads[0], pads[2]), (pads[1], pads[3]))
        return self.then(layer, kind="zero_pad2d", name=name)

    def upsample2d(self, factor: Sizes, *, name: str | None = None) -> Self:
        """Each value of an image `factor` times along each axis."""
        rows, columns = sizes("factor", factor, 2)
        return self.then(Upsample((rows, columns)), kind="upsample2d", name=name)
