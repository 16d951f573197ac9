"""Pools: the maximum or the mean of windows, or of everything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from tvm import relax

from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    OneInput,
    Shape,
    Shapes,
    size_of,
    text,
)
from nexus_compiler.frontend.builder.layers.conv import as_line, as_plane
from nexus_compiler.frontend.builder.layers.window import Padding, Sizes, Window, need_image, two
from nexus_runtime.errors import ShapeError, UserError


@dataclass(frozen=True)
class Pool(OneInput):
    """The maximum or the mean of each window; padding counts in neither."""

    window: Window
    maximum: bool

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, channels, axes'...)."""
        rank = len(self.window.size)
        need_image(f"{'max' if self.maximum else 'avg'}_pool{rank}d", shape, rank)
        for pads, size in zip(self.window.pads(shape), self.window.size):
            # A window of padding alone would have no maximum.
            if max(pads) >= size:
                raise UserError(f"padding {pads} must be below the window {self.window.size}")
        return (shape[0], shape[1], *self.window.infer(shape))

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One pooling operator."""
        window = self.window
        operator = relax.op.nn.max_pool2d if self.maximum else relax.op.nn.avg_pool2d
        # TVM counts padding in unless told, for means.
        extra = {} if self.maximum else {"count_include_pad": False}
        result = out.emit(
            operator(
                as_plane(out, value),
                two(window.size),
                two(window.stride),
                window.relax_pads(shape),
                **extra,
            )
        )
        return as_line(out, result) if len(window.size) == 1 else result

    def flops(self, shapes: Shapes) -> int:
        """One a value of each window."""
        return size_of(self.infer(shapes)[1:]) * math.prod(self.window.size)


@dataclass(frozen=True)
class GlobalPool(OneInput):
    """The maximum or the mean over all axes behind the channels."""

    maximum: bool

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, channels)."""
        if len(shape) < 3 or (not self.maximum and not all(isinstance(d, int) for d in shape[2:])):
            raise ShapeError(f"a global pool needs (batch, channels, axes...), not {text(shape)}")
        return shape[:2]

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """One reduction."""
        operator = relax.op.max if self.maximum else relax.op.mean
        return out.emit(operator(value, axis=list(range(2, len(shape)))))

    def flops(self, shapes: Shapes) -> int:
        """One a value."""
        return size_of(shapes[0][1:])


class PoolCalls(Chain):
    """The calls of this family. Windows touch unless `stride` says otherwise."""

    def max_pool1d(
        self,
        size: int,
        *,
        stride: int | None = None,
        padding: int | str = 0,
        name: str | None = None,
    ) -> Self:
        """The maximum of each window of (batch, channels, length)."""
        return self._pool(1, size, stride, padding, name, maximum=True)

    def max_pool2d(
        self,
        size: Sizes,
        *,
        stride: Sizes | None = None,
        padding: Padding = 0,
        name: str | None = None,
    ) -> Self:
        """The maximum of each window of (batch, channels, height, width)."""
        return self._pool(2, size, stride, padding, name, maximum=True)

    def avg_pool1d(
        self,
        size: int,
        *,
        stride: int | None = None,
        padding: int | str = 0,
        name: str | None = None,
    ) -> Self:
        """The mean of each window of (batch, channels, length); padding does not count."""
        return self._pool(1, size, stride, padding, name, maximum=False)

    def avg_pool2d(
        self,
        size: Sizes,
        *,
        stride: Sizes | None = None,
        padding: Padding = 0,
        name: str | None = None,
    ) -> Self:
        """The mean of each window of (batch, channels, height, width); padding does not count."""
        return self._pool(2, size, stride, padding, name, maximum=False)

    def global_max_pool(self, *, name: str | None = None) -> Self:
        """(batch, channels, ...) to the maxima (batch, channels)."""
        return self.then(GlobalPool(maximum=True), kind="global_max_pool", name=name)

    def global_avg_pool(self, *, name: str | None = None) -> Self:
        """(batch, channels, ...) to the means (batch, channels)."""
        return self.then(GlobalPool(maximum=False), kind="global_avg_pool", name=name)

    def _pool(
        self,
        rank: int,
        size: Sizes,
        stride: Sizes | None,
        padding: Padding,
        name: str | None,
        *,
        maximum: bool,
    ) -> Self:
        window = Window.of(rank, size, size if stride is None else stride, padding)
        kind = f"{'max' if maximum else 'avg'}_pool{rank}d"
        return self.then(Pool(window, maximum), kind=kind, name=name)
