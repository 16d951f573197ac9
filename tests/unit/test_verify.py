"""Comparison, timing and made-up inputs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from nexus_compiler.verify import compare, inputs, timing
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec, TensorSpec

FUNCTION = FunctionSpec(
    "main",
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("ids", "int64", ("batch",))),
    (),
)


def one(found: object, expected: object, dtype: str = "float32") -> compare.Difference:
    a, b = np.array(found, dtype), np.array(expected, dtype)
    return compare.compare({"y": a}, {"y": b})[0]


def test_rounding_passes_and_errors_do_not() -> None:
    assert one([1.0, 2.0], [1.0, 2.00001]).passed
    assert not one([1.0, 2.0], [1.0, 2.001]).passed
    assert one([1, 2], [1, 2], "int64").passed
    assert not one([1, 2], [1, 3], "int64").passed


def test_rounded_numbers_may_be_a_step_apart_in_few_places() -> None:
    wanted = np.arange(200, dtype=np.uint8)
    for places, step, passed in ((0, 1, True), (4, 1, True), (5, 1, False), (1, 2, False)):
        found = wanted.copy()
        found[:places] += step
        (said,) = compare.compare({"y": found}, {"y": wanted}, rounded=True)
        assert said.passed is passed
        assert compare.compare({"y": found}, {"y": wanted})[0].passed is (places == 0)
    one_of_three = {"y": np.array([1, 2, 4], np.int8)}, {"y": np.array([1, 2, 3], np.int8)}
    assert compare.compare(*one_of_three, rounded=True)[0].passed


def test_errors_are_relative_to_the_largest_value() -> None:
    difference = one([1000.0, 0.01], [1000.0, 0.0])
    assert difference.max_abs == pytest.approx(0.01)
    assert difference.max_rel == pytest.approx(1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_on_one_side_fails(bad: float) -> None:
    assert not one([bad, 1.0], [0.0, 1.0]).passed
    assert not one([0.0, 1.0], [bad, 1.0]).passed
    assert one([bad, 1.0], [bad, 1.0]).passed


def test_other_shapes_and_dtypes_fail() -> None:
    assert not one([1.0], [1.0, 1.0]).passed
    assert not compare.compare({"y": np.zeros(2)}, {"y": np.zeros(2, "f4")})[0].passed
    assert one([], []).passed


def test_other_outputs_are_an_error() -> None:
    with pytest.raises(InputError, match="output 'b' exists on one side only"):
        compare.compare({"a": np.zeros(1)}, {"a": np.zeros(1), "b": np.zeros(1)})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bounds_follow_from_the_dtype(dtype: str) -> None:
    bound = compare.bound_for(np.dtype(dtype))
    assert np.finfo(dtype).eps < bound < 0.02


def test_random_inputs_follow_from_the_seed() -> None:
    make = {"x": "random", "ids": "random:5:7"}
    first = inputs.make(FUNCTION, make, sizes={"batch": 4}, seed=1)
    again = inputs.make(FUNCTION, make, sizes={"batch": 4}, seed=1)
    other = inputs.make(FUNCTION, make, sizes={"batch": 4}, seed=2)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert (first["x"] != other["x"]).any()
    assert first["x"].shape == (4, 3)
    assert set(first["ids"]) <= {5, 6}


def test_open_dimensions_follow_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((6, 3), np.float32))
    arrays = inputs.make(FUNCTION, {"x": str(tmp_path / "x.npy")}, sizes={}, fill="random")
    assert arrays["ids"].shape == (6,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": "random"}, "there is no input 'y'"),
        ({"x": "random"}, "input 'ids' is missing"),
        ({"x": "none.npy", "ids": "random"}, "cannot read none.npy"),
        ({"x": "random:1", "ids": "random"}, "write random or random:LOW:HIGH"),
        ({"x": "random:a:b", "ids": "random"}, "could not convert"),
    ],
)
def test_bad_inputs_are_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inputs.make(FUNCTION, given, sizes={})


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((6, 4), np.float32))
    (tmp_path / "text.npy").write_text("hello")
    for name, message in (("x.npy", "is 4 long on axis 1"), ("text.npy", "cannot read")):
        with pytest.raises(InputError, match=message):
            inputs.make(FUNCTION, {"x": str(tmp_path / name), "ids": "random"}, sizes={})


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read"):
        inputs.make(FUNCTION, {"x": str(tmp_path / "x.npy"), "ids": "random"}, sizes={})


def test_contenders_take_turns() -> None:
    ticks = itertools.count()
    calls: list[str] = []
    timings = timing.alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=10,
        clock=lambda: float(next(ticks)),
    )
    assert [t.name for t in timings] == ["a", "b"]
    assert all(t.calls == 10 and t.median == t.p99 == t.best == 1 for t in timings)
    rounds = calls[6:]
    assert all(set(rounds[i : i + 2]) == {"a", "b"} for i in range(0, 20, 2))
    assert rounds != ["a", "b"] * 10, "the order is random"


def test_a_turn_is_as_many_calls_as_fill_it() -> None:
    ticks = itertools.count()
    calls: list[str] = []
    (said,) = timing.alternate(
        {"a": lambda: calls.append("a")}, rounds=2, turn=4, clock=lambda: float(next(ticks))
    )
    assert said.calls == 2 * 4
    assert len(calls) == 3 + 2 * (1 + 4), "the first call of a turn is not timed"
