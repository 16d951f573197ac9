"""Sizes that follow from data, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx_models import floats, model, node, whole
from onnx_pipeline import Model, check

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

MANY = {"x": ("float32", ("n", 6))}


def ints(*items: int) -> np.ndarray:
    return np.array(items, "int64")


def test_nonzero_finds_none_some_and_all() -> None:
    some = floats(5, 6) * (floats(5, 6, seed=1) > 0)
    graph = check(
        model([node("NonZero", "x")], MANY),
        *({"x": x.astype("float32")} for x in (some, 0 * some, floats(3, 6, low=1))),
    )
    assert graph.signature.functions[0].outputs[0].shape == (2, "y_1")


def test_what_is_no_number_is_no_zero() -> None:
    check(
        model([node("NonZero", "x")], MANY),
        {"x": np.array([[0, np.nan, -0.0, 1, 0, 2]], "float32")},
    )


def test_what_follows_may_use_the_new_size() -> None:
    nodes = [
        node("Greater", "x zero", "g"),
        node("NonZero", "g", "i"),
        node("Transpose", "i", "t", perm=[1, 0]),
        node("GatherND", "x t", "p"),
        node("Shape", "p", "s"),
        node("ConstantOfShape", "s", "o"),
        node("Add", "p o", "q"),
        node("ReduceSum", "q", "y", keepdims=0),
    ]
    proto = model(nodes, MANY, ("y", "q"), {"zero": np.array(0, "float32")})
    check(proto, {"x": floats(5, 6)}, {"x": -np.abs(floats(2, 6))})


def test_compress() -> None:
    flags = np.array([1, 0, 1, 1, 0, 1], "bool")
    inputs = {**MANY, "c": ("bool", ("m",))}
    check(model([node("Compress", "x c", axis=1)], inputs), {"x": floats(4, 6), "c": flags})
    check(model([node("Compress", "x c")], inputs), {"x": floats(4, 6), "c": flags[:5]})


@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(axis: int | None, in_order: int) -> None:
    options = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    shape = (9, 3) if axis != 1 else (3, 9)
    proto = model(
        [node("Unique", "x", "y i j c", **options)], {"x": ("int64", shape)}, ("y", "i", "j", "c")
    )
    check(proto, {"x": whole(*shape, high=3 if axis is None else 2)})


def boxes(batch: int, number: int, centres: bool = False) -> np.ndarray:
    corner = floats(batch, number, 2, low=0, high=4)
    size = floats(batch, number, 2, seed=1, low=0.5, high=2)
    return np.concatenate([corner, size if centres else corner + size], 2)


@pytest.mark.parametrize("centres", [False, True])
def test_non_max_suppression(centres: bool) -> None:
    made = node("NonMaxSuppression", "b s m i t", center_point_box=int(centres))
    inputs = {"b": ("float32", (2, "n", 4)), "s": ("float32", (2, 3, "n")), "m": ("int64", (1,))}
    constants = {"i": np.array([0.4], "float32"), "t": np.array([0.2], "float32")}
    proto = model([made], inputs, ("y",), constants)
    feeds = {"b": boxes(2, 25, centres), "s": floats(2, 3, 25, seed=2, low=0, high=1)}
    check(proto, *({**feeds, "m": ints(m)} for m in (3, 100, 0)))


LATE: list[tuple[str, list[np.ndarray], list[list[np.ndarray]], dict[str, Any]]] = [
    ("ConstantOfShape", [], [[ints(2, 3)], [ints(0, 4)]], {}),
    ("Range", [], [[np.array(2), np.array(9), np.array(3)], [np.array(9), *ints(2, -2)]], {}),
    ("Expand", [floats(3, 1)], [[ints(2, 3, 4)], [ints(1, 1, 1)]], {}),
    ("Tile", [floats(3, 2)], [[ints(2, 1)], [ints(0, 3)]], {}),
    ("Reshape", [floats(4, 6)], [[ints(3, -1)], [ints(0, 6)], [ints(24, 1)]], {}),
    ("TopK", [floats(4, 6)], [[ints(2)], [ints(4)]], {"axis": 0, "largest": 0}),
    ("Pad", [floats(4, 6)], [[ints(1, 2, 3, 0)], [ints(-1, 0, 1, -2)]], {}),
    ("Pad", [floats(4, 6)], [[ints(1, 2, 3, 0)]], {"mode": "reflect"}),
    ("Pad", [floats(4, 6)], [[ints(1, 2, 3, 0)]], {"mode": "edge"}),
]


@pytest.mark.parametrize(("kind", "data", "sizes", "options"), LATE, ids=lambda v: str(v)[:12])
def test_sizes_may_come_late(
    kind: str, data: list[np.ndarray], sizes: list[list[np.ndarray]], options: dict[str, Any]
) -> None:
    arrays = [*data, *(np.asarray(size) for size in sizes[0])]
    names = [f"x{i}" for i in range(len(arrays))]
    inputs = {name: (a.dtype.name, a.shape) for name, a in zip(names, arrays)}
    outputs = ["y", "places"] if kind == "TopK" else ["y"]
    proto = model([node(kind, " ".join(names), " ".join(outputs), **options)], inputs, outputs)
    feeds = [dict(zip(names, [*data, *(np.asarray(size) for size in given)])) for given in sizes]
    check(proto, *feeds)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("sizes", [[(2, 1, 4, 5), (2, 3, 6, 2)], [(2, 1, 4, 5, 3)]])
def test_grids_of_late_sizes(sizes: list[tuple[int, ...]], corners: int) -> None:
    rank = len(sizes[0])
    inputs = {"t": ("float32", (2, rank - 2, rank - 1)), "s": ("int64", (rank,))}
    proto = model([node("AffineGrid", "t s", align_corners=corners)], inputs, opset=20)
    feeds = [{"t": floats(2, rank - 2, rank - 1), "s": ints(*size)} for size in sizes]
    check(proto, *feeds)
    built = Model(proto)
    with pytest.raises(Exception, match="MatchShape|match_cast|expected|Check"):
        built.run({**feeds[0], "s": ints(3, *sizes[0][1:])})


def test_late_sizes_that_must_be_equal_are_one() -> None:
    nodes = [
        node("ConstantOfShape", "s", "z"),
        node("Range", "a b c", "r"),
        node("Add", "z r", "t"),
        node("Squeeze", "t axis", "q"),
        node("Mul", "q r"),
    ]
    inputs = {"s": ("int64", (2,)), **dict.fromkeys("abc", ("float32", ()))}
    proto = model(nodes, inputs, constants={"axis": ints(0)})
    numbers = {name: np.array(x, "float32") for name, x in zip("abc", (1, 5, 1))}
    check(proto, {"s": ints(1, 4), **numbers})
    with pytest.raises(Exception, match="MatchShape|match_cast|expected|Check"):
        Model(proto).run({"s": ints(2, 4), **numbers})


SLICES: list[tuple[Sequence[int], Sequence[int], Sequence[int]]] = [
    ((1, 0), (3, 6), (1, 2)),
    ((-1, 5), (-(2**63), -7), (-1, -2)),
    ((3, 2), (1, 2**63 - 1), (1, 3)),
]


def test_slices_with_bounds_from_data() -> None:
    inputs = {**MANY, **dict.fromkeys("abc", ("int64", (2,)))}
    proto = model([node("Slice", "x a b axes c")], inputs, ("y",), {"axes": ints(0, 1)})
    feeds = [dict(zip("abc", (ints(*part) for part in slices))) for slices in SLICES]
    check(proto, *({"x": floats(5, 6), **f} for f in feeds))


WRONG = [("Reshape", (5, 6)), ("Reshape", (-1, 5)), ("Expand", (8, 6)), ("Tile", (-1, 1))]


@pytest.mark.parametrize(("kind", "sizes"), WRONG)
def test_sizes_that_do_not_fit_stop_the_run(kind: str, sizes: tuple[int, int]) -> None:
    proto = model([node(kind, "x s")], {"x": ("float32", (4, 6)), "s": ("int64", (2,))})
    with pytest.raises(Exception, match="MatchShape|match_cast|expected|Check"):
        Model(proto).run({"x": floats(4, 6), "s": ints(*sizes)})


def test_what_cannot_come_late_says_so() -> None:
    proto = model(
        [node("Slice", "x a b axes")],
        {**MANY, **dict.fromkeys(("a", "b", "axes"), ("int64", (1,)))},
    )
    with pytest.raises(UnsupportedOperator, match=r"input 3 \('axes'\) must be a constant"):
        capture(proto)


def test_the_slim_runtime_runs_it() -> None:
    proto = model([node("Unique", "x", "y i j c"), node("NonZero", "c", "z")], MANY, ("y", "z"))
    module = nexus_runtime.load(nexus_compiler.compile(proto))
    x = np.round(floats(5, 6))
    outputs = module.run("main", {"x": x})
    np.testing.assert_array_equal(outputs["y"], np.unique(x))
    assert outputs["z"].shape == (1, len(np.unique(x)))
