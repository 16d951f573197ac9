"""What convolutions and pools share: strides, dilations and padding of their windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.sizes import Size


@dataclass(frozen=True)
class Window:
    """A window that moves over the spatial axes.

    Attributes:
        kernel: its size.
        strides: how far it moves.
        dilations: the distance of its taps.
        pads: how much is added before all axes, then after all axes (TVM's order, too).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def span(self, axis: int) -> int:
        """How many elements it covers."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def read(node: Node, kernel: Sequence[int], spatial: Sequence[Size]) -> Window:
    """The window of `node`, with `auto_pad` worked out for an input of size `spatial`."""
    rank = len(kernel)
    strides = tuple(node.attr("strides") or [1] * rank)
    dilations = tuple(node.attr("dilations") or [1] * rank)
    pads = tuple(node.attr("pads") or [0] * (2 * rank))
    mode = node.attr("auto_pad")
    window = Window(tuple(kernel), strides, dilations, pads)
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        totals = [_same(node, window, axis, size) for axis, size in enumerate(spatial)]
        return Window(*_head(window), split_pads(totals, upper=mode == "SAME_UPPER"))
    if mode == "VALID":
        return Window(*_head(window), (0,) * (2 * rank))
    if any(pad < 0 for pad in pads):
        raise node.refuse("it has negative pads", "cut the tensor with Slice before it")
    return window


def _head(window: Window) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return window.kernel, window.strides, window.dilations


def split_pads(totals: Sequence[int], *, upper: bool) -> tuple[int, ...]:
    """Halves of `totals`; what is odd goes to the end (`upper`) or to the start."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return tuple([*small, *large] if upper else [*large, *small])


def _same(node: Node, window: Window, axis: int, size: Size) -> int:
    stride, span = window.strides[axis], window.span(axis)
    if stride == 1:
        return span - 1
    if not isinstance(size, int):
        raise node.refuse(
            f"with auto_pad and a stride its padding depends on the size {size}",
            "fix that size with `shapes=`",
        )
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + span - size, 0)
