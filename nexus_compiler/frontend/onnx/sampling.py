"""Sampling of images between their pixels, at places that the input names.

All taps of all places are one `take` from the image as a table of pixels; what follows is
arithmetic that every target fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, host

CUBIC = -0.75
"""Keys' constant, as PyTorch and ONNX Runtime choose it."""


@dataclass(frozen=True)
class Taps:
    """Where and how strongly one axis is read.

    Attributes:
        places: whole numbers as floats, `[rows, places, taps]`; they may lie outside.
        weights: of the same shape; None for a single tap of weight 1.
    """

    places: relax.Expr
    weights: relax.Expr | None


def number(node: Node, size: Size, dtype: str) -> relax.Expr:
    """A size, symbolic or not, as a constant without dimensions."""
    return node.importer.tensor(host(np.asarray(size, object).reshape(()), dtype))


def limited(node: Node, x: relax.Expr, size: Size) -> relax.Expr:
    """Places on an axis of `size`, those outside moved to its ends."""
    dtype = node.dtype(x)
    last = number(node, node.sizes.simple(size - 1), dtype)
    return node.emit(R.minimum(R.maximum(x, node.scalar(0, dtype)), last))


def taps(node: Node, x: relax.Expr, mode: str) -> Taps:
    """The taps around the coordinates `x` `[rows, places]` for "nearest", "linear" or "cubic"."""
    dtype = node.dtype(x)
    x = node.emit(R.expand_dims(x, [2]))
    if mode == "nearest":
        return Taps(node.emit(R.round(x)), None)
    steps = np.arange(2) if mode == "linear" else np.arange(-1, 3)
    start = node.emit(R.floor(x))
    places = R.add(start, node.importer.tensor(host(steps.astype(dtype))))
    ratio = node.emit(R.subtract(x, start))
    rest = node.emit(R.subtract(node.scalar(1, dtype), ratio))
    if mode == "linear":
        return Taps(node.emit(places), node.emit(R.concat([rest, ratio], 2)))
    weights = [_far(node, ratio), _near(node, ratio), _near(node, rest), _far(node, rest)]
    return Taps(node.emit(places), node.emit(R.concat(weights, 2)))


def _near(node: Node, t: relax.Expr) -> relax.Expr:
    """The weight of a pixel at a distance `t` up to 1: (a + 2) t^3 - (a + 3) t^2 + 1."""
    a, b, one = (node.scalar(f, node.dtype(t)) for f in (CUBIC + 2, CUBIC + 3, 1))
    return R.add(R.multiply(R.multiply(R.subtract(R.multiply(a, t), b), t), t), one)


def _far(node: Node, t: relax.Expr) -> relax.Expr:
    """The weight at a distance s = 1 + t: a s^3 - 5 a s^2 + 8 a s - 4 a = a t (1 - t)^2."""
    one = node.scalar(1, node.dtype(t))
    rest = R.subtract(one, t)
    return R.multiply(node.scalar(CUBIC, node.dtype(t)), R.multiply(t, R.multiply(rest, rest)))


def inside(node: Node, places: relax.Expr, size: Size) -> relax.Expr:
    """Whether each place lies on an axis of `size`."""
    dtype = node.dtype(places)
    high = R.less(places, number(node, size, dtype))
    return node.emit(R.logical_and(R.greater_equal(places, node.scalar(0, dtype)), high))


def outer(
    node: Node, make: Callable[..., Any], a: relax.Expr | None, b: relax.Expr | None
) -> relax.Expr | None:
    """`make` of every tap of `a` with every tap of `b`; None stands for a neutral element."""
    if a is None or b is None:
        return b if a is None else a
    rows, places, count = node.shape(b)
    joined = make(R.expand_dims(a, [3]), R.expand_dims(b, [2]))
    return node.emit(R.reshape(joined, [rows, places, node.shape(a)[2] * count]))


def pixels(
    node: Node, x: relax.Expr, places: Sequence[relax.Expr], owners: relax.Expr | None = None
) -> relax.Expr:
    """The pixels of `x` `[batch, channels, *spatial]` at the taps of every axis.

    Args:
        node: for messages.
        x: the images.
        places: per spatial axis floats `[rows, places, taps]`; those outside read the edge.
        owners: per row the image that it reads, int64 `[rows]`; by default its own number.

    Returns:
        `[rows, places, taps of the first axis * ... * taps of the last axis, channels]`.
    """
    batch, channels, *spatial = node.shape(x)
    order = [0, *range(2, len(spatial) + 2), 1]
    total = node.sizes.product([batch, *spatial])
    table = node.emit(R.reshape(R.permute_dims(x, order), [total, channels]))
    owners = R.arange(0, batch, 1, "int64") if owners is None else owners
    index = node.emit(R.expand_dims(owners, [1, 2]))
    for at, size in zip(places, spatial):
        start = node.emit(R.multiply(index, number(node, size, "int64")))
        here = node.emit(R.astype(limited(node, at, size), "int64"))
        index = outer(node, R.add, start, here)
    # A coordinate that is no number at all must not read outside of the table either.
    return node.emit(R.take(table, index, 0, mode="clip"))


def sample(
    node: Node,
    x: relax.Expr,
    axes: Sequence[Taps],
    *,
    zeros: bool,
    owners: relax.Expr | None = None,
) -> relax.Expr:
    """The weighted sums of the taps, `[rows, places, channels]`.

    Args:
        node: for messages.
        x: the images, `[batch, channels, *spatial]`.
        axes: the taps of every spatial axis.
        zeros: taps outside count as 0, else as the edge.
        owners: as for `pixels`.
    """
    found = pixels(node, x, [axis.places for axis in axes], owners)
    mask: relax.Expr | None = None
    weights: relax.Expr | None = None
    for axis, size in zip(axes, node.shape(x)[2:]):
        if zeros:
            mask = outer(node, R.logical_and, mask, inside(node, axis.places, size))
        weights = outer(node, R.multiply, weights, axis.weights)
    dtype = node.dtype(x)
    if mask is not None:
        found = node.emit(R.where(R.expand_dims(mask, [3]), found, node.scalar(0, dtype)))
    if weights is None:
        return node.emit(R.squeeze(found, [2]))
    weights = R.astype(R.expand_dims(weights, [3]), dtype)
    return node.emit(R.sum(R.multiply(found, weights), [2]))


def unflatten(node: Node, rows: relax.Expr, shape: Sequence[Size]) -> relax.Expr:
    """`[batch, places, channels]` as `[batch, channels, *shape]`."""
    batch, _, channels = node.shape(rows)
    return R.reshape(R.permute_dims(rows, [0, 2, 1]), [batch, channels, *shape])
