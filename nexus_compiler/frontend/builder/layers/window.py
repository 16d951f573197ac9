"""Windows that slide: sizes, strides, paddings and what they make of a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexus_compiler.frontend.builder.layers.base import Shape, fixed, text
from nexus_runtime.errors import ShapeError, UserError

Sizes = int | Sequence[int]
"""One number for all axes, or one an axis."""
Padding = int | Sequence[int] | str
"""As `Sizes`, or "valid" (none), or "same" (as many windows as values, over the stride)."""

_IMAGE = {1: "(batch, channels, length)", 2: "(batch, channels, height, width)"}


def need_image(layer: str, shape: Shape, rank: int) -> None:
    """Check that `shape` is a batch of images of `rank` axes, fixed behind the batch.

    Raises:
        ShapeError: it is not.
    """
    if len(shape) != rank + 2 or not all(isinstance(dim, int) for dim in shape[1:]):
        raise ShapeError(f"{layer} needs {_IMAGE[rank]}, not {text(shape)}")


def sizes(what: str, value: Sizes, rank: int, *, least: int = 1) -> tuple[int, ...]:
    """`value` as one number an axis.

    Raises:
        UserError: it has another length, or a number below `least`.
    """
    found = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(found) != rank or any(size < least for size in found):
        raise UserError(f"{what} takes {rank} numbers from {least} on, or one, not {value}")
    return found


@dataclass(frozen=True)
class Window:
    """A window over the axes behind the channels.

    Attributes:
        size: of the window, one number an axis.
        stride: between windows.
        padding: on both sides; "same" makes as many windows as values, over the stride, and puts
            what is odd at the end.
        dilation: between the values of one window.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str = "valid"
    dilation: tuple[int, ...] = ()

    @staticmethod
    def of(rank: int, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes = 1) -> Window:
        """From what a caller gives.

        Raises:
            UserError: a number is too small, or there are more or fewer than axes.
        """
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise UserError(f"padding is a number, 'same' or 'valid', not '{padding}'")
            pads = padding
        else:
            pads = sizes("padding", padding, rank, least=0)
        return Window(
            sizes("a window", size, rank),
            sizes("stride", stride, rank),
            pads,
            sizes("dilation", dilation, rank),
        )

    def span(self, axis: int) -> int:
        """How many values one window reaches over."""
        return self.dilation[axis] * (self.size[axis] - 1) + 1 if self.dilation else self.size[axis]

    def pads(self, shape: Shape) -> tuple[tuple[int, int], ...]:
        """(before, after) of each axis."""
        if self.padding == "valid":
            return ((0, 0),) * len(self.size)
        if not isinstance(self.padding, str):
            return tuple((pad, pad) for pad in self.padding)
        found: list[tuple[int, int]] = []
        for axis, stride in enumerate(self.stride):
            length = fixed(shape[2 + axis])
            total = max((-(-length // stride) - 1) * stride + self.span(axis) - length, 0)
            found.append((total // 2, total - total // 2))
        return tuple(found)

    def relax_pads(self, shape: Shape) -> list[int]:
        """As Relax wants them for two axes: top, left, bottom, right; one axis is the second."""
        before, after = zip(*self.pads(shape))
        lead = [0] * (2 - len(self.size))
        return [*lead, *before, *lead, *after]

    def infer(self, shape: Shape) -> tuple[int, ...]:
        """How many windows there are along each axis.

        Raises:
            ShapeError: not even one.
        """
        pads, found = self.pads(shape), list[int]()
        for axis, stride in enumerate(self.stride):
            length = fixed(shape[2 + axis]) + sum(pads[axis])
            if length < self.span(axis):
                raise ShapeError(
                    f"a window of {self.size} does not fit {text(shape)} padded by {self.padding}"
                )
            found.append((length - self.span(axis)) // stride + 1)
        return tuple(found)


def two(numbers: Sequence[int], lead: int = 1) -> tuple[int, int]:
    """One or two numbers as two, `lead` first."""
    return (lead, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
