"""Resize agrees with ONNX Runtime in every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import compare, floats, model, node, single, whole

MODES: dict[str, dict[str, Any]] = {
    "floor": {"mode": "nearest", "nearest_mode": "floor"},
    "ceil": {"mode": "nearest", "nearest_mode": "ceil"},
    "round down": {"mode": "nearest", "nearest_mode": "round_prefer_floor"},
    "round up": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "linear": {"mode": "linear"},
    "cubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
    "cubic, inside": {"mode": "cubic", "exclude_outside": 1},
    "linear, smooth": {"mode": "linear", "antialias": 1},
    "cubic, smooth": {"mode": "cubic", "antialias": 1},
}
PLACES = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize(("scales", "places"), [([1.3, 2.6], 0), ([0.6, 0.8], 3), ([3, 0.3], 2)])
def test_scales(name: str, scales: list[float], places: int) -> None:
    attributes = {"coordinate_transformation_mode": PLACES[places], **MODES[name]}
    if "antialias" in attributes:
        attributes["coordinate_transformation_mode"] = "half_pixel"
    stored = [None, np.array([1, 1, *scales], "float32")]
    compare(*single("Resize", [floats(1, 2, 7, 9)], stored, opset=19, **attributes), tol=2e-5)


@pytest.mark.parametrize("places", [*PLACES, "half_pixel_symmetric"])
def test_sizes(places: str) -> None:
    stored = [None, None, np.array([1, 2, 4, 11])]
    attributes = {"mode": "linear", "coordinate_transformation_mode": places}
    compare(*single("Resize", [floats(1, 2, 7, 6)], stored, opset=19, **attributes), tol=2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_region(mode: str) -> None:
    roi = np.array([0, 0, 0.4, 0.6, 1, 1, 0.7, 1.2], "float32")
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": mode}
    stored = [roi, None, np.array([1, 1, 3, 3])]
    arrays = [floats(1, 1, 4, 4)]
    compare(*single("Resize", arrays, stored, opset=19, extrapolation_value=10.0, **attributes))


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_the_shape_of_the_image_is_kept(policy: str) -> None:
    attributes = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
    stored = [None, None, np.array([7, 8])]
    compare(*single("Resize", [floats(1, 1, 2, 4)], stored, opset=19, **attributes))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_volumes(mode: str) -> None:
    stored = [None, np.array([1, 1, 2, 1.5, 0.5], "float32")]
    compare(*single("Resize", [floats(1, 2, 3, 4, 5)], stored, opset=19, mode=mode), tol=2e-5)


def test_any_axes() -> None:
    stored = [None, np.array([2, 1, 3], "float32")]
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    compare(*single("Resize", [floats(2, 3, 4)], stored, opset=13, **attributes))


def test_whole_numbers() -> None:
    stored = [None, np.array([1, 1, 2, 2], "float32")]
    x = whole(1, 1, 3, 4, high=255, dtype="uint8")
    attributes = {"mode": "nearest", "nearest_mode": "floor"}
    compare(*single("Resize", [x], stored, opset=13, **attributes))


def test_any_batch() -> None:
    made = node("Resize", "x _ _ sizes", mode="linear", antialias=1)
    constants = {"sizes": np.array([4, 3])}
    made.attribute.extend(node("Resize", "x", axes=[2, 3]).attribute)
    proto = model([made], {"x": ("float32", ["n", 2, 9, 9])}, constants=constants)
    compare(proto, {"x": floats(3, 2, 9, 9)}, tol=2e-5)


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset: int) -> None:
    scales = [1.0, 1.0, 2.0, 3.0]
    stored = [] if opset == 7 else [np.array(scales, "float32")]
    attributes = {"scales": scales} if opset == 7 else {}
    arrays = [floats(1, 2, 3, 2)]
    compare(*single("Upsample", arrays, stored, opset=opset, mode="linear", **attributes))
