"""Which elements of an axis every element of a resized axis is made of, and how much of each.

Follows ONNX's reference operators, but reckons coordinates in float32 like ONNX Runtime, so that
they are rounded to the same elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COORDINATES = {
    *("align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"),
    "tf_crop_and_resize",
}
ROUNDINGS = {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """How one axis is resized.

    Attributes:
        size: its length.
        target: its new length.
        scale: the factor between them, before the new length was rounded.
        region: the part that is resized, as fractions, for "tf_crop_and_resize".
    """

    size: int
    target: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """How it is read between its elements; the names are ONNX's attributes."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def coordinates(axis: Axis, mode: str) -> np.ndarray:
    """For every new element the place it comes from, float32 `[target]`."""
    x = np.arange(axis.target, dtype=np.float32)
    scale, size, last = (np.float32(n) for n in (axis.scale, axis.size, axis.size - 1))
    half, length = np.float32(0.5), scale * size
    if mode == "align_corners":
        return np.zeros_like(x) if length == 1 else x * last / (length - 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        begin, end = (np.float32(n) for n in axis.region)
        step = (end - begin) * last
        inner = np.full_like(x, step * half) if length == 1 else x * (step / (length - 1))
        return begin * last + inner
    result = (x + half) / scale - half
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full_like(x, -half)
    if mode == "half_pixel_symmetric":
        result += size * half * (1 - np.float32(axis.target) / length)
    return result


def nearest(x: np.ndarray, rounding: str, size: int) -> np.ndarray:
    """The nearest element for every coordinate."""
    moves = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    }
    return np.clip(moves[rounding](x), 0, size - 1).astype(np.int64)


def taps(x: np.ndarray, axis: Axis, how: Filter) -> tuple[np.ndarray, np.ndarray]:
    """The elements (int64) and their weights (float64) for every coordinate, `[target, taps]`."""
    scale = min(axis.scale, 1.0) if how.antialias else 1.0
    reach = 1 if how.mode == "linear" else 2
    start = int(np.floor(-reach / scale)) + 1
    steps = np.arange(start, 2 - start)
    base = np.floor(x)
    places = base[:, None].astype(np.int64) + steps
    distance = np.abs(steps - (x - base)[:, None]) * scale
    weights = np.maximum(1 - distance, 0) if reach == 1 else _cubic(distance, how.cubic)
    if how.exclude_outside:
        weights = np.where((places >= 0) & (places < axis.size), weights, 0)
    if how.exclude_outside or how.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(places, 0, axis.size - 1), weights


def _cubic(s: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * s - (a + 3)) * s * s + 1
    far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return np.where(s <= 1, near, np.where(s < 2, far, 0))


def matrix(places: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """The same as a matrix `[target, size]`."""
    result = np.zeros((len(places), size))
    np.add.at(result, (np.arange(len(places))[:, None], places), weights)
    return result
