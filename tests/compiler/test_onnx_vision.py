"""Operators that read images at computed places agree with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import capture, compare, execute, floats, model, node, single, whole

from nexus_runtime.errors import UnsupportedOperator


@pytest.mark.parametrize(
    ("mode", "padding", "corners"),
    [
        *(("nearest", "zeros", 0), ("nearest", "border", 1), ("nearest", "reflection", 0)),
        *(("linear", "zeros", 1), ("linear", "border", 0), ("linear", "reflection", 1)),
        *(("cubic", "zeros", 0), ("cubic", "border", 0), ("cubic", "border", 1)),
        ("cubic", "reflection", 0),
    ],
)
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    arrays = [floats(2, 3, 5, 4), floats(2, 3, 6, 2, seed=1, low=-1.8, high=1.8)]
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    compare(*single("GridSample", arrays, opset=20, **attributes), tol=2e-5)


@pytest.mark.parametrize(("mode", "padding"), [("nearest", "border"), ("linear", "zeros")])
def test_grid_sample_of_volumes(mode: str, padding: str) -> None:
    arrays = [floats(1, 2, 3, 4, 5), floats(1, 2, 3, 2, 3, seed=1, low=-1.5, high=1.5)]
    compare(*single("GridSample", arrays, opset=20, mode=mode, padding_mode=padding), tol=2e-5)


def test_grid_sample_of_any_size() -> None:
    inputs = {"x": ("float32", ["n", 2, "h", "w"]), "g": ("float32", ["n", "a", "b", 2])}
    proto = model([node("GridSample", "x g", mode="bicubic")], inputs, opset=16)
    feeds = {"x": floats(2, 2, 5, 6), "g": floats(2, 3, 4, 2, low=-1, high=1)}
    compare(proto, feeds, tol=2e-5)


def test_grid_sample_survives_coordinates_that_are_no_numbers() -> None:
    grid = np.array([np.nan, np.inf, 1e30, -1e30], "float32").reshape(1, 1, 2, 2)
    proto, feeds = single("GridSample", [floats(1, 1, 3, 3), grid], opset=16)
    execute(capture(proto), feeds)


DEFORMED: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "padded": (1, {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "dilated, in offset groups": (2, {"dilations": [1, 2], "offset_group": 2}),
    "in groups": (1, {"group": 2}),
}


@pytest.mark.parametrize("name", DEFORMED)
def test_deform_conv(name: str) -> None:
    parts, attributes = DEFORMED[name]
    masked = name != "plain"
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0] * 4)
    grid = [
        (size + pads[i] + pads[i + 2] - dilations[i] * 2 - 1) // strides[i] + 1
        for i, size in enumerate((6, 7))
    ]
    weight = floats(6, 4 // attributes.get("group", 1), 3, 3, seed=1)
    offsets = floats(2, parts * 18, *grid, seed=2)
    arrays = [floats(2, 4, 6, 7), weight, offsets, floats(6)]
    arrays += [floats(2, parts * 9, *grid, seed=3)] if masked else []
    compare(*single("DeformConv", arrays, opset=19, **attributes), tol=2e-5)


ROIS = np.array([[0, 0, 6, 5], [1.3, 2.2, 3.1, 9], [-2, -3, 4, 4], [2, 2, 2.2, 2.1]], "float32")


@pytest.mark.parametrize("mapping", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize(("mode", "ratio"), [("avg", 2), ("avg", 0), ("max", 3)])
def test_roi_align(mapping: str, mode: str, ratio: int) -> None:
    attributes = {
        **{"coordinate_transformation_mode": mapping, "mode": mode, "sampling_ratio": ratio},
        **{"output_height": 3, "output_width": 2, "spatial_scale": 0.7},
    }
    arrays = [floats(2, 3, 7, 6), ROIS, np.array([0, 1, 1, 0])]
    compare(*single("RoiAlign", arrays, opset=16, **attributes), tol=2e-5)


def test_largest_samples_of_any_number_are_refused() -> None:
    arrays = [floats(1, 1, 7, 6), ROIS, np.array([0, 0, 0, 0])]
    proto, _ = single("RoiAlign", arrays, opset=16, mode="max")
    with pytest.raises(UnsupportedOperator, match="sampling_ratio"):
        capture(proto)


def test_max_roi_pool() -> None:
    rois = np.array([[0, 0, 0, 6, 5], [1, 1, 2, 3, 5], [0, 2, 1, 4, 4]], "float32")
    arrays = [floats(2, 3, 7, 8), rois]
    compare(*single("MaxRoiPool", arrays, pooled_shape=[2, 3], spatial_scale=1.0))


POOLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "1d": ((2, 2, 9), {"kernel_shape": [3], "strides": [2]}),
    "padded": ((2, 2, 7, 6), {"kernel_shape": [3, 2], "pads": [1, 1, 0, 0]}),
    "columns first": ((1, 2, 5, 6), {"kernel_shape": [2, 2], "storage_order": 1}),
    "past the end": ((1, 2, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "dilated": ((1, 1, 7, 7), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    "3d": ((1, 2, 4, 4, 4), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
}


@pytest.mark.parametrize("name", POOLS)
def test_places_of_the_largest(name: str) -> None:
    shape, attributes = POOLS[name]
    x = whole(*shape, low=-4, high=5, dtype="float32")  # small, so that there are ties
    compare(*single("MaxPool", [x], opset=12, outputs=2, **attributes))


def test_places_in_any_batch() -> None:
    made = node("MaxPool", "x", "y i", kernel_shape=[2, 2])
    proto = model([made], {"x": ("float32", ["n", 2, 4, 4])}, ["y", "i"])
    compare(proto, {"x": floats(3, 2, 4, 4)})


def test_max_unpool() -> None:
    nodes = [
        node("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", "p i", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    compare(model(nodes, {"x": ("float32", [2, 2, 4, 6])}), {"x": floats(2, 2, 4, 6)})


COLUMNS: dict[str, tuple[list[int], list[int], int, dict[str, Any]]] = {
    "apart": ([6, 4], [3, 2], 4, {"strides": [3, 2]}),
    "overlapping": ([5, 5], [2, 3], 12, {}),
    "padded": ([5, 5], [3, 3], 9, {"pads": [1, 0, 2, 0], "strides": [2, 1]}),
    "dilated": ([6, 6], [2, 2], 20, {"dilations": [1, 2]}),
    "3d": ([3, 3, 4], [2, 2, 2], 12, {}),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_col2im(name: str) -> None:
    image, kernel, blocks, attributes = COLUMNS[name]
    x = floats(2, 3 * int(np.prod(kernel)), blocks)
    compare(*single("Col2Im", [x], [np.array(image), np.array(kernel)], **attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]},
        {"kernel_shape": [2, 2], "dilations": [2, 1], "p": 3},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    ],
)
def test_lp_pool(attributes: dict[str, Any]) -> None:
    compare(*single("LpPool", [floats(1, 2, 6, 6)], **attributes))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [1, 3, 2, 4, 3]])
def test_affine_grid(corners: int, size: list[int]) -> None:
    theta = floats(size[0], len(size) - 2, len(size) - 1)
    compare(*single("AffineGrid", [theta], [np.array(size)], opset=20, align_corners=corners))


def test_center_crop_pad() -> None:
    stored = [np.array([3, 7])]
    compare(*single("CenterCropPad", [floats(2, 6, 4)], stored, axes=[1, 2]))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_determinant(size: int) -> None:
    x = floats(3, size, size)
    x[0, 0] = 0 * x[0, 0]  # singular
    x[1, 0, 0] = 0  # needs another row first
    compare(*single("Det", [x], opset=22), tol=2e-5)
