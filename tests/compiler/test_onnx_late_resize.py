"""Resizing and cutting by sizes from data, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import floats, model, node
from onnx_pipeline import Model, check

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator


def resizing(how: str, **options: Any) -> onnx.ModelProto:
    """Resize by an input called `how`: "sizes" or "scales"."""
    inputs = "x _ _ sizes" if how == "sizes" else "x _ scales"
    dtype = "int64" if how == "sizes" else "float32"
    shapes = {"x": ("float32", (1, 2, "h", 7)), how: (dtype, (2,))}
    return model([node("Resize", inputs, axes=[2, 3], **options)], shapes)


X = {"x": floats(1, 2, 5, 7)}
PLACES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


@pytest.mark.parametrize("places", PLACES)
def test_linear(places: str) -> None:
    options = {"mode": "linear", "coordinate_transformation_mode": places}
    sizes = (np.array(size) for size in ((9, 4), (5, 7), (2, 1)))
    check(resizing("sizes", **options), *({**X, "sizes": size} for size in sizes))
    # Where scales lead between two sizes, ONNX Runtime aligns other corners than ONNX.
    pairs = ((2, 3), (1, 2)) if places == "align_corners" else ((2, 0.5), (0.7, 1.3))
    scales = (np.array(scale, "float32") for scale in pairs)
    check(resizing("scales", **options), *({**X, "scales": scale} for scale in scales))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest(rounding: str) -> None:
    options = {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
    sizes = (np.array(size) for size in ((10, 5), (5, 14), (2, 3)))
    check(resizing("sizes", **options), *({**X, "sizes": size} for size in sizes))


@pytest.mark.parametrize(
    "options",
    [{"mode": "cubic"}, {"mode": "linear", "antialias": 1}]
    + [{"mode": "linear", "keep_aspect_ratio_policy": "not_larger"}],
)
def test_what_needs_fixed_sizes_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperator, match="input 3 .* must be a constant with mode"):
        capture(resizing("sizes", **options))


def splitting(outputs: str) -> onnx.ModelProto:
    inputs = {"x": ("float32", ("n", 6)), "s": ("int64", (3,))}
    return model([node("Split", "x s", outputs, axis=1)], inputs, outputs.split())


def test_pieces_of_late_sizes() -> None:
    sizes = (np.array(size) for size in ((1, 2, 3), (0, 6, 0)))
    check(splitting("a b c"), *({"x": floats(4, 6), "s": size} for size in sizes))
    with pytest.raises(Exception, match="MatchShape|match_cast|expected|Check"):
        Model(splitting("a b c")).run({"x": floats(4, 6), "s": np.array([1, 2, 2])})


def test_pieces_need_a_size_each() -> None:
    with pytest.raises(UnsupportedOperator, match="3 sizes for 2 outputs"):
        capture(splitting("a b"))
