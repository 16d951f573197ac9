"""Resizing of images and volumes: one interpolation per axis, with TVM's coordinates."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from nexus_compiler.codegen.xla.operators.pool import spatial_axes
from nexus_compiler.codegen.xla.registry import Node, operator

# TVM shifts by this before it rounds down or up, against rounding errors of the coordinates.
_NUDGE = np.float32(1e-5)


@dataclass(frozen=True)
class _Taps:
    """For each output position: which inputs (int [taps, out]) and how much (float, same)."""

    places: Any
    weights: Any


def _coordinates(node: Node, size: int, target: int) -> np.ndarray:
    mode = str(node.attrs.coordinate_transformation_mode)
    x = np.arange(target, dtype=np.float32)
    scale = np.float32(size) / np.float32(target)
    half = np.float32(0.5)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and target > 1):
        return (x + half) * scale - half
    if mode == "pytorch_half_pixel":
        return np.zeros_like(x)
    if mode == "align_corners":
        return x * (np.float32(size - 1) / np.float32(max(target - 1, 1)))
    if mode == "asymmetric":
        return x * scale
    if mode == "tf_half_pixel_for_nn":
        return (x + half) * scale
    raise node.refuse(f"the coordinate mode '{mode}'")


def _nearest(node: Node, at: np.ndarray) -> _Taps:
    rounding = str(node.attrs.rounding_method)
    aligned = str(node.attrs.coordinate_transformation_mode) == "align_corners"
    functions = {
        "round": np.round,
        "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
        "floor": lambda x: np.floor(x + _NUDGE),
        "ceil": lambda x: np.ceil(x - _NUDGE),
    }
    name = rounding or ("round" if aligned else "floor")
    if name not in functions:
        raise node.refuse(f"the rounding '{name}'")
    return _Taps(functions[name](at)[None], np.ones((1, len(at)), np.float32))


def _linear(at: np.ndarray) -> _Taps:
    low = np.floor(at)
    part = at - low
    return _Taps(np.stack([low, low + 1]), np.stack([1 - part, part]))


def _cubic(node: Node, at: np.ndarray, size: int) -> _Taps:
    low, alpha = np.floor(at), np.float32(node.attrs.cubic_alpha)
    t = at - low
    t2, t3 = t * t, t * t * t
    weights = np.stack(
        [
            alpha * (t3 - 2 * t2 + t),
            (alpha + 2) * t3 - (3 + alpha) * t2 + 1,
            -(alpha + 2) * t3 + (3 + 2 * alpha) * t2 - alpha * t,
            -alpha * t3 + alpha * t2,
        ]
    )
    places = np.stack([low - 1, low, low + 1, low + 2])
    if node.attrs.cubic_exclude:
        weights = np.where((places < 0) | (places >= size), np.float32(0), weights)
        weights = weights / weights.sum(0)
    return _Taps(places, weights)


def _taps(node: Node, size: int, target: int) -> _Taps:
    at, method = _coordinates(node, size, target), str(node.attrs.method)
    if method == "nearest_neighbor":
        taps = _nearest(node, at)
    elif method == "linear":
        taps = _linear(at)
    elif method == "cubic":
        taps = _cubic(node, at, size)
    else:
        raise node.refuse(f"the method '{method}'")
    return _Taps(np.clip(taps.places, 0, size - 1).astype(np.int64), taps.weights)


@operator("image.resize2d", "image.resize3d")
def resize(node: Node) -> Any:
    """Resize the spatial axes to a static size; computed in float32."""
    x, shape = node[0], node.shape
    nearest = str(node.attrs.method) == "nearest_neighbor"
    y = x if nearest else x.astype(jnp.float32)
    for axis in spatial_axes(node, str(node.attrs.layout)):
        size, target = x.shape[axis], shape[axis]
        if not (isinstance(size, int) and isinstance(target, int)):
            raise node.refuse(
                "an axis of unknown length", hint="fix height and width; the batch may stay open"
            )
        taps = _taps(node, size, target)
        spread = [-1 if place == axis else 1 for place in range(x.ndim)]
        parts = [jnp.take(y, places, axis=axis, mode="clip") for places in taps.places]
        if nearest:
            y = parts[0]
            continue
        weights = [jnp.asarray(weight.reshape(spread)) for weight in taps.weights]
        y = functools.reduce(jnp.add, map(jnp.multiply, parts, weights))
    return y.astype(node.dtype)
