"""Convolutions and transposed convolutions over one and two axes.

One axis is computed as two of which the first is 1 long: reshaping costs nothing, and kernels,
schedules and gradients are those of two axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from tvm import relax

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.chain import Chain
from nexus_compiler.frontend.builder.initial import Init, Initializer
from nexus_compiler.frontend.builder.layers.base import (
    Emitter,
    OneInput,
    Parameter,
    Shape,
    Shapes,
    at_least_one,
    fixed,
    relax_shape,
    size_of,
    text,
)
from nexus_compiler.frontend.builder.layers.window import (
    Padding,
    Sizes,
    Window,
    need_image,
    sizes,
    two,
)
from nexus_runtime.errors import ShapeError, UserError


@dataclass(frozen=True)
class Conv(OneInput):
    """A convolution over (batch, channels, axes...)."""

    filters: int
    window: Window
    groups: int = 1
    bias: bool = True
    init: Initializer = initial.HE_NORMAL
    bias_init: Initializer = initial.ZEROS

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, filters, axes'...)."""
        rank = len(self.window.size)
        need_image(f"conv{rank}d", shape, rank)
        if fixed(shape[1]) % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"{self.groups} groups must divide the {shape[1]} channels of {text(shape)} and "
                f"the {self.filters} filters"
            )
        return (shape[0], self.filters, *self.window.infer(shape))

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`weight` (filters, channels / groups, window...), He-normal unless told, and `bias`."""
        channels, area = fixed(shapes[0][1]) // self.groups, math.prod(self.window.size)
        fans = (channels * area, self.filters // self.groups * area)
        weight = Parameter((self.filters, channels, *self.window.size), self.init, fans)
        bias = {"bias": Parameter((self.filters,), self.bias_init)} if self.bias else {}
        return {"weight": weight, **bias}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A convolution and an add."""
        window = self.window
        result = out.emit(
            relax.op.nn.conv2d(
                as_plane(out, value),
                as_plane(out, out.parameters["weight"]),
                strides=two(window.stride),
                padding=window.relax_pads(shape),
                dilation=two(window.dilation),
                groups=self.groups,
            )
        )
        return _finish(out, result, len(window.size), out.parameters.get("bias"))

    def flops(self, shapes: Shapes) -> int:
        """Two a weight and position."""
        weights = math.prod(self.parameters(shapes)["weight"].shape)
        return 2 * weights * size_of(self.infer(shapes)[2:])


@dataclass(frozen=True)
class ConvTransposed(OneInput):
    """The gradient of a convolution by its input, used forwards (Dumoulin and Visin 2016)."""

    filters: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    bias: bool = True
    init: Initializer = initial.HE_NORMAL
    bias_init: Initializer = initial.ZEROS

    def infer_one(self, shape: Shape) -> Shape:
        """(batch, filters, (length - 1) * stride - 2 * padding + size + output padding...)."""
        rank = len(self.size)
        need_image(f"conv{rank}d_transposed", shape, rank)
        found: list[int] = []
        for axis, size in enumerate(self.size):
            grown = (fixed(shape[2 + axis]) - 1) * self.stride[axis] + size
            found.append(grown - 2 * self.padding[axis] + self.output_padding[axis])
        if min(found) < 1:
            raise ShapeError(f"padding {self.padding} leaves nothing of {text(shape)}: {found}")
        return (shape[0], self.filters, *found)

    def parameters(self, shapes: Shapes) -> dict[str, Parameter]:
        """`weight` (channels, filters, window...), He-normal unless told, and `bias`."""
        channels, area = fixed(shapes[0][1]), math.prod(self.size)
        fans = (max(channels * area // math.prod(self.stride), 1), self.filters * area)
        weight = Parameter((channels, self.filters, *self.size), self.init, fans)
        bias = {"bias": Parameter((self.filters,), self.bias_init)} if self.bias else {}
        return {"weight": weight, **bias}

    def emit_one(self, out: Emitter, value: relax.Var, shape: Shape) -> relax.Var:
        """A transposed convolution and an add."""
        pads = two(self.padding, 0)
        result = out.emit(
            relax.op.nn.conv2d_transpose(
                as_plane(out, value),
                as_plane(out, out.parameters["weight"]),
                strides=two(self.stride),
                padding=(*pads, *pads),
                output_padding=two(self.output_padding, 0),
            )
        )
        return _finish(out, result, len(self.size), out.parameters.get("bias"))

    def flops(self, shapes: Shapes) -> int:
        """Two a weight and position of the input."""
        return 2 * math.prod(self.parameters(shapes)["weight"].shape) * size_of(shapes[0][2:])


def as_plane(out: Emitter, value: relax.Var) -> relax.Var:
    """(a, b, length) as (a, b, 1, length); two axes stay as they are."""
    dims = relax_shape(value)
    if len(dims) == 4:
        return value
    return out.emit(relax.op.reshape(value, (dims[0], dims[1], 1, dims[2])))


def as_line(out: Emitter, value: relax.Var) -> relax.Var:
    """The inverse of `as_plane`."""
    dims = relax_shape(value)
    return out.emit(relax.op.reshape(value, (dims[0], dims[1], dims[3])))


def _finish(out: Emitter, value: relax.Var, rank: int, bias: relax.Expr | None) -> relax.Var:
    if bias is not None:
        column = out.emit(relax.op.reshape(bias, (1, relax_shape(value)[1], 1, 1)))
        value = out.emit(relax.op.add(value, column))
    return as_line(out, value) if rank == 1 else value


class ConvCalls(Chain):
    """The calls of this family."""

    def conv1d(
        self,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        activation: str | None = None,
        bias: bool = True,
        init: Init = None,
        bias_init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """A convolution: (batch, channels, length) to (batch, filters, length')."""
        window = Window.of(1, kernel, stride, padding, dilation)
        layer = _conv(filters, window, groups, bias, init, bias_init)
        return self.then(layer, kind="conv1d", name=name, share=share)._activated(activation)

    def conv2d(
        self,
        filters: int,
        kernel: Sizes,
        *,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        activation: str | None = None,
        bias: bool = True,
        init: Init = None,
        bias_init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """A convolution: (batch, channels, height, width) to (batch, filters, height', width').

        Args:
            filters: channels of the output.
            kernel: size of the window, one number or one an axis; so the next three.
            stride: between windows.
            padding: zeros on each side, or "same" or "valid".
            dilation: between the values of a window.
            groups: channels are cut into so many, each with its own filters; as many as channels
                make a depthwise convolution.
            activation: a name of `activation`.
            bias: whether there is one.
            init: of the weight (filters, channels / groups, height, width).
            bias_init: of the bias.
            name: of the layer, its weights and its tensor.
            share: the layer whose weights it uses.

        Raises:
            ShapeError: the input is no image, or smaller than a window.
        """
        window = Window.of(2, kernel, stride, padding, dilation)
        layer = _conv(filters, window, groups, bias, init, bias_init)
        return self.then(layer, kind="conv2d", name=name, share=share)._activated(activation)

    def conv1d_transposed(
        self,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        activation: str | None = None,
        bias: bool = True,
        init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """As `conv2d_transposed`, over (batch, channels, length)."""
        layer = _transposed(1, filters, (kernel, stride, padding, output_padding), bias, init)
        called = self.then(layer, kind="conv1d_transposed", name=name, share=share)
        return called._activated(activation)

    def conv2d_transposed(
        self,
        filters: int,
        kernel: Sizes,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        activation: str | None = None,
        bias: bool = True,
        init: Init = None,
        name: str | None = None,
        share: str | None = None,
    ) -> Self:
        """A transposed convolution: each axis grows to (n - 1) * stride - 2 * padding + kernel.

        `output_padding` (below the stride) makes it longer at the end, to choose among the sizes
        that a strided convolution maps to one.
        """
        layer = _transposed(2, filters, (kernel, stride, padding, output_padding), bias, init)
        called = self.then(layer, kind="conv2d_transposed", name=name, share=share)
        return called._activated(activation)


def _conv(
    filters: int, window: Window, groups: int, bias: bool, init: Init, bias_init: Init
) -> Conv:
    at_least_one("filters", filters)
    at_least_one("groups", groups)
    weight = initial.resolve(init, initial.HE_NORMAL)
    return Conv(filters, window, groups, bias, weight, initial.resolve(bias_init, initial.ZEROS))


def _transposed(
    rank: int, filters: int, figures: tuple[Sizes, Sizes, Sizes, Sizes], bias: bool, init: Init
) -> ConvTransposed:
    at_least_one("filters", filters)
    kernel, stride, padding, more = figures
    steps = sizes("stride", stride, rank)
    extra = sizes("output_padding", more, rank, least=0)
    if any(e >= s for e, s in zip(extra, steps)):
        raise UserError(f"output_padding {extra} must be below the stride {steps}")
    window = sizes("a window", kernel, rank)
    pads = sizes("padding", padding, rank, least=0)
    weight = initial.resolve(init, initial.HE_NORMAL)
    return ConvTransposed(filters, window, steps, pads, extra, bias, weight)
