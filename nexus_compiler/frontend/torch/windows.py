"""Sliding windows of any rank: zero-stuffing, padding, and one slice for each place in a window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.border import pad
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or a pool, one number for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.kernel)

    def places(self) -> Iterator[tuple[int, ...]]:
        """Every place in the window, the last axis fastest."""
        return itertools.product(*map(range, self.kernel))


def window(node: Node, kernel: Sequence[int], *, stride: Any = None) -> Window:
    """The geometry that the arguments of `node` describe; one number may stand for all axes."""
    rank = len(kernel)

    def spread(value: Any, default: int) -> tuple[int, ...]:
        listed = list(value) if isinstance(value, list | tuple) else [value]
        listed = [default] if listed in ([], [None]) else listed
        return tuple(int(one) for one in (listed * rank if len(listed) == 1 else listed))

    given = node.get("stride") if stride is None else stride
    stride = spread(given, 0) if given else tuple(kernel)
    return Window(
        tuple(kernel), stride, spread(node.get("padding"), 0), spread(node.get("dilation"), 1)
    )


def padded(
    node: Node, x: Any, shape: Sequence[Size], spec: Window, out: Sequence[Size], value: Any
) -> relax.Expr:
    """`x` of `shape` with a border such that windows at `out` places fit in.

    They fit in exactly, but where a size is dynamic and steps are larger than 1.
    """
    pairs: list[tuple[Any, Any]] = [(0, 0), (0, 0)]
    for axis in range(spec.rank):
        reach = (out[axis] - 1) * spec.stride[axis] + spec.dilation[axis] * (spec.kernel[axis] - 1)
        after = reach + 1 - shape[axis + 2] - spec.padding[axis]
        after = sizes.number(after) if sizes.is_symbolic(after) else after
        pairs.append(
            (spec.padding[axis], spec.padding[axis] if sizes.is_symbolic(after) else after)
        )
    return pad(node, x, pairs, value)


def tap(node: Node, x: Any, spec: Window, place: Sequence[int], out: Sequence[Size]) -> relax.Var:
    """What all windows have at `place`, from a padded tensor: (batch, channels, *out)."""
    axes = list(range(2, 2 + spec.rank))
    begins = [place[a] * spec.dilation[a] for a in range(spec.rank)]
    ends = [begins[a] + (out[a] - 1) * spec.stride[a] + 1 for a in range(spec.rank)]
    return node.emit(
        R.strided_slice(x, axes, begins, node.dims(ends), list(spec.stride), assume_inbound=True)
    )


def stuffed(node: Node, x: Any, shape: Sequence[Size], stride: Sequence[int]) -> relax.Expr:
    """`x` of `shape` with `stride - 1` zeros behind each element of the spatial axes."""
    if all(step == 1 for step in stride):
        return x
    apart = [*shape[:2], *(item for size in shape[2:] for item in (size, 1))]
    widths = [0, 0, 0, 0] + [item for step in stride for item in (0, 0, 0, step - 1)]
    wide = node.emit(R.nn.pad(node.reshape(x, apart), widths, "constant", 0.0))
    whole = [size * step for size, step in zip(shape[2:], stride)]
    return node.reshape(wide, [*shape[:2], *whole])


def is_static(shape: Sequence[Size]) -> bool:
    """Whether no size depends on the input."""
    return not any(map(sizes.is_symbolic, shape))
