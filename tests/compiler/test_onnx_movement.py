"""Moving, cutting, picking and resizing agree with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import compare, floats, model, node, single, whole


def ints(*items: int) -> np.ndarray:
    return np.array(items, "int64")


MOVES: dict[str, tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = {
    "reshape": ("Reshape", (2, 3, 4), [ints(6, 4)], {}),
    "reshape 0 -1": ("Reshape", (2, 3, 4), [ints(0, -1)], {}),
    "reshape -1 0": ("Reshape", (2, 3, 4), [ints(-1, 0, 2)], {}),
    "reshape allowzero": ("Reshape", (0, 3), [ints(3, 0)], {"allowzero": 1}),
    "flatten": ("Flatten", (2, 3, 4), [], {"axis": 2}),
    "flatten 0": ("Flatten", (2, 3), [], {"axis": 0}),
    "flatten -1": ("Flatten", (2, 3, 4), [], {"axis": -1}),
    "transpose": ("Transpose", (2, 3, 4), [], {}),
    "transpose perm": ("Transpose", (2, 3, 4), [], {"perm": [1, 2, 0]}),
    "squeeze": ("Squeeze", (1, 3, 1), [ints(-1)], {}),
    "squeeze all": ("Squeeze", (1, 3, 1), [], {}),
    "unsqueeze": ("Unsqueeze", (2, 3), [ints(3, 0)], {}),
    "expand": ("Expand", (3, 1), [ints(2, 1, 4)], {}),
    "expand smaller": ("Expand", (2, 3, 4), [ints(3, 1)], {}),
    "tile": ("Tile", (2, 3), [ints(2, 3)], {}),
    "pad": ("Pad", (2, 3), [ints(1, 0, 0, 2)], {}),
    "pad value": ("Pad", (2, 3), [ints(1, 0, 0, 2), np.array(2.5, "float32")], {}),
    "pad axes": ("Pad", (2, 3), [ints(1, 2), None, ints(-1)], {}),
    "pad reflect": ("Pad", (3, 4), [ints(1, 2, 1, 1)], {"mode": "reflect"}),
    "pad edge": ("Pad", (3, 4), [ints(1, 2, 1, 1)], {"mode": "edge"}),
    "pad negative": ("Pad", (3, 4), [ints(-1, 1, 0, -2)], {}),
    "depth to space": ("DepthToSpace", (1, 8, 2, 3), [], {"blocksize": 2}),
    "depth to space crd": ("DepthToSpace", (1, 8, 2, 3), [], {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", (1, 2, 4, 6), [], {"blocksize": 2}),
    "upper": ("Trilu", (2, 3, 4), [np.array(1)], {}),
    "lower": ("Trilu", (3, 4), [np.array(-1)], {"upper": 0}),
    "eye": ("EyeLike", (3, 4), [], {"k": 1}),
    "slice": ("Slice", (5, 6), [ints(1, 2), ints(4, 99)], {}),
    "slice back": ("Slice", (5, 6), [ints(-1), ints(-99), ints(1), ints(-2)], {}),
    "slice inner": ("Slice", (5, 6), [ints(-2), ints(1), ints(0), ints(-1)], {}),
    "slice nothing": ("Slice", (5, 6), [ints(3), ints(1), ints(0)], {}),
    "slice steps": ("Slice", (5, 7), [ints(0, 1), ints(5, 6), ints(0, 1), ints(2, 3)], {}),
    "gather": ("Gather", (4, 3), [ints(2, -1, 0)], {}),
    "gather scalar": ("Gather", (4, 3), [np.array(-2)], {"axis": 1}),
    "gather matrix": ("Gather", (4, 3), [np.array([[0, 1], [2, -1]])], {"axis": 1}),
}


@pytest.mark.parametrize("name", MOVES)
def test_move(name: str) -> None:
    op, shape, constants, attributes = MOVES[name]
    compare(*single(op, [floats(*shape)], constants, **attributes))


def test_gather_by_computed_indices() -> None:
    indices = whole(2, 5, low=-4, high=4)
    compare(*single("Gather", [floats(4, 3), indices]))
    compare(*single("GatherElements", [floats(4, 5), indices], axis=0))
    compare(*single("GatherND", [floats(4, 4, 3), whole(5, 2, low=-4, high=4)]))


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(reduction: str) -> None:
    places = np.array([[0, -1, 2], [3, 1, 0]])
    data = [floats(4, 3), places, floats(2, 3, seed=1)]
    compare(*single("ScatterElements", data, axis=0, reduction=reduction))
    tuples = np.array([[0, 1], [-1, 2], [2, 0]])
    compare(*single("ScatterND", [floats(4, 3), tuples, floats(3)], reduction=reduction))


def test_concat() -> None:
    compare(*single("Concat", [floats(2, 3), floats(2, 1), floats(2, 4)], axis=-1))


@pytest.mark.parametrize("sizes", [None, ints(1, 3, 2), ints(6, 0, 0)])
def test_split(sizes: np.ndarray | None) -> None:
    stored = [] if sizes is None else [sizes]
    count = {} if sizes is not None else {"num_outputs": 3}
    compare(*single("Split", [floats(2, 6)], stored, outputs=3, axis=1, **count))


def test_split_before_opset_13() -> None:
    compare(*single("Split", [floats(2, 6)], opset=11, outputs=2, axis=1, split=[2, 4]))
    compare(*single("Split", [floats(2, 6)], opset=11, outputs=2))


def test_one_hot() -> None:
    pair = np.array([2, 5], "float32")
    compare(*single("OneHot", [whole(2, 3, low=-6, high=8)], [np.array(6), pair]))
    compare(*single("OneHot", [whole(2, 3, high=6)], [np.array(6), pair], axis=0))


RESIZES = [
    ("nearest", "asymmetric", "floor", (2, 3)),
    ("nearest", "half_pixel", "round_prefer_floor", (2, 3)),
    ("nearest", "half_pixel", "round_prefer_ceil", (0.5, 0.5)),
    ("nearest", "align_corners", "ceil", (2, 2)),
    ("linear", "half_pixel", "floor", (2, 3)),
    ("linear", "pytorch_half_pixel", "floor", (0.5, 0.25)),
    ("linear", "align_corners", "floor", (2, 1.5)),
    ("linear", "asymmetric", "floor", (2, 2)),
    ("cubic", "half_pixel", "floor", (2, 2)),
]


@pytest.mark.parametrize(("mode", "coordinates", "rounding", "scales"), RESIZES)
def test_resize(mode: str, coordinates: str, rounding: str, scales: tuple[float, float]) -> None:
    options = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    x = floats(1, 2, 4, 4)
    by_scale = [None, np.array([1, 1, *scales], "float32")]
    compare(*single("Resize", [x], by_scale, **options), tol=1e-4)
    by_size = [None, None, ints(1, 2, *(int(4 * scale) for scale in scales))]
    compare(*single("Resize", [x], by_size, **options), tol=1e-4)


def test_resize_in_older_opsets_and_other_ranks() -> None:
    two = np.array([1, 1, 2, 2], "float32")
    compare(*single("Upsample", [floats(1, 2, 3, 3)], [two], opset=9))
    compare(*single("Resize", [floats(1, 2, 3, 3)], [two], opset=10, mode="linear"))
    compare(
        *single(
            "Resize",
            [floats(1, 2, 3)],
            [None, two[1:] / np.array([1, 2, 1], two.dtype)],
            mode="linear",
        )
    )
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    three = np.array([1, 1, 2, 2, 2], "float32")
    compare(*single("Resize", [floats(1, 2, 2, 3, 2)], [None, three], **options))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(mode: str, padding: str) -> None:
    data = [floats(1, 2, 4, 5), floats(1, 3, 3, 2, low=-1.3, high=1.3)]
    compare(*single("GridSample", data, opset=16, mode=mode, padding_mode=padding), tol=1e-4)


def test_quantised() -> None:
    scale, zero = np.array(0.1, "float32"), np.array(7, "uint8")
    compare(*single("QuantizeLinear", [floats(3, 4, low=-30, high=30)], [scale, zero]))
    compare(*single("DequantizeLinear", [whole(3, 4, high=255, dtype="uint8")], [scale, zero]))
    scales, zeros = np.array([0.1, 0.2, 0.3], "float32"), np.array([1, -2, 3], "int8")
    compare(*single("DequantizeLinear", [whole(3, 4, dtype="int8")], [scales, zeros], axis=0))
    compare(*single("DynamicQuantizeLinear", [floats(3, 4)], outputs=3))
    pair = [whole(3, 4, dtype="uint8"), whole(4, 5, dtype="uint8")]
    compare(*single("MatMulInteger", pair, [zero, zero]))


def test_if_follows_a_condition_on_shapes() -> None:
    from onnx import helper

    branches = {
        f"{name}_branch": helper.make_graph(
            [node(op, "x", name)], name, [], [helper.make_tensor_value_info(name, 1, None)]
        )
        for name, op in (("then", "Neg"), ("else", "Exp"))
    }
    nodes = [
        node("Shape", "x", "s"),
        node("Size", "s", "r"),
        node("Equal", "r two", "c"),
        node("If", "c", "y", **branches),
    ]
    proto = model(nodes, {"x": ("float32", (2, 3))}, ("y",), {"two": np.array(2)})
    compare(proto, {"x": floats(2, 3)})


bounds = st.integers(-9, 9)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 6), bounds, bounds, st.sampled_from([-3, -2, -1, 1, 2, 3]))
def test_any_slice(size: int, start: int, end: int, step: int) -> None:
    expected = np.arange(size)[start:end:step]
    constants = [ints(start), ints(end), ints(0), ints(step)]
    proto, feeds = single("Slice", [floats(size, 2)], constants)
    graph = compare(proto, feeds)
    assert graph.signature.functions[0].outputs[0].shape == (len(expected), 2)
