"""Random operators: that they repeat, and that they have the distribution that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node
from onnx_pipeline import Model, subgraph

COUNT = 4096


def seed(number: int) -> dict[str, np.ndarray]:
    return {"seed": np.array(number, "uint32")}


def drawn(op: str, **attributes: Any) -> tuple[Model, dict[str, np.ndarray]]:
    x = np.full((4, COUNT // 4), 0.3, "float32")
    inputs = (
        {} if op in {"RandomNormal", "RandomUniform"} else {"x": ("float32", ("n", COUNT // 4))}
    )
    attributes |= {} if inputs else {"shape": x.shape}
    proto = model([node(op, " ".join(inputs), **attributes)], inputs or {"x": ("float32", (1,))})
    return Model(proto), {"x": x if inputs else x[0, :1]}


def near(found: float, wanted: float, deviation: float) -> bool:
    """Within five standard deviations of the mean of `COUNT` numbers."""
    return abs(found - wanted) < 5 * deviation / COUNT**0.5


OPS = ["RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Bernoulli"]


@pytest.mark.parametrize("op", OPS)
def test_numbers_follow_from_the_input_seed(op: str) -> None:
    built, feeds = drawn(op)
    assert [spec.name for spec in built.main.inputs] == ["x", "seed"]
    runs = [built.run(feeds | seed(number))[0] for number in (7, 7, 8)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).mean() > 0.3
    assert runs[0].shape == (4, COUNT // 4)


@pytest.mark.parametrize("op", OPS)
def test_numbers_follow_from_the_attribute(op: str) -> None:
    (one, feeds), (other, _) = drawn(op, seed=3.0), drawn(op, seed=4.0)
    assert [spec.name for spec in one.main.inputs] == ["x"]
    np.testing.assert_array_equal(one.run(feeds)[0], one.run(feeds)[0])
    assert (one.run(feeds)[0] != other.run(feeds)[0]).mean() > 0.3


@pytest.mark.parametrize("op", ["RandomUniform", "RandomUniformLike"])
def test_uniform(op: str) -> None:
    built, feeds = drawn(op, low=-1.0, high=3.0, dtype=onnx.TensorProto.DOUBLE)
    (x,) = built.run(feeds | seed(1))
    assert x.dtype == np.float64 and x.min() >= -1 and x.max() < 3
    assert near(x.mean(), 1, 4 / 12**0.5)
    assert near(((x - 1) ** 2).mean(), 4 / 3, 1.2)
    assert abs(np.corrcoef(x.reshape(-1)[1:], x.reshape(-1)[:-1])[0, 1]) < 5 / COUNT**0.5


@pytest.mark.parametrize("op", ["RandomNormal", "RandomNormalLike"])
def test_normal(op: str) -> None:
    built, feeds = drawn(op, mean=2.0, scale=0.5)
    (x,) = built.run(feeds | seed(1))
    assert np.isfinite(x).all() and near(x.mean(), 2, 0.5)
    assert near((((x - 2) / 0.5) ** 2).mean(), 1, 2**0.5)
    assert near((((x - 2) / 0.5) ** 4).mean(), 3, 96**0.5)


def test_bernoulli() -> None:
    built, feeds = drawn("Bernoulli", dtype=onnx.TensorProto.BOOL)
    (x,) = built.run(feeds | seed(1))
    assert x.dtype == np.bool_ and near(x.mean(), 0.3, 0.21**0.5)
    assert not built.run({"x": 0 * feeds["x"], **seed(1)})[0].any()
    assert built.run({"x": 0 * feeds["x"] + 1, **seed(1)})[0].all()


def test_multinomial() -> None:
    odds = np.array([[0.5, 0.2, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0]], "float32")
    proto = model(
        [node("Multinomial", "x", sample_size=COUNT, dtype=onnx.TensorProto.INT64)],
        {"x": ("float32", ("n", 4))},
    )
    with np.errstate(divide="ignore"):
        (x,) = Model(proto).run({"x": np.log(odds), **seed(1)})
    assert x.dtype == np.int64
    for row, wanted in zip(x, odds):
        counts = np.bincount(row, minlength=4)
        assert all(near(c / COUNT, p, (p * (1 - p)) ** 0.5 + 1e-9) for c, p in zip(counts, wanted))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_dropout(late: bool, training: bool) -> None:
    ratio, flag = np.array(0.25, "float32"), np.array(training)
    given = {"r": ("float32", ()), "t": ("bool", ())} if late else {}
    proto = model(
        [node("Dropout", "x r t", "y mask")],
        {"x": ("float32", ("n", COUNT // 4)), **given},
        ("y", "mask"),
        {} if late else {"r": ratio, "t": flag},
    )
    x = np.full((4, COUNT // 4), 3, "float32")
    feeds = {"x": x} | ({"r": ratio, "t": flag} if late else {})
    built = Model(proto)
    y, mask = built.run(feeds | (seed(1) if late or training else {}))
    if training:
        assert near(mask.mean(), 0.75, 0.1875**0.5)
        np.testing.assert_allclose(y, np.where(mask, x / np.float32(0.75), 0), rtol=1e-6)
    else:
        np.testing.assert_array_equal(y, x)
        assert mask.all()


def test_two_operators_draw_differently_unless_their_seeds_are_equal() -> None:
    def pair(**attributes: Any) -> bool:
        nodes = [node("RandomNormalLike", "x", out, **attributes) for out in ("a", "b")]
        built = Model(model(nodes, {"x": ("float32", (8,))}, ("a", "b")))
        feeds = {"x": np.zeros(8, "float32")} | ({} if attributes else seed(1))
        a, b = built.run(feeds)
        return bool((a == b).all())

    assert not pair()
    assert pair(seed=1.0)


@pytest.mark.parametrize("attributes", [{}, {"seed": 1.0}])
def test_every_step_of_a_loop_draws_anew(attributes: dict[str, Any]) -> None:
    body = subgraph(
        [node("Identity", "go", "on"), node("RandomUniformLike", "x", "d", **attributes)],
        {"i": "int64", "go": "bool"},
        {"on": "bool", "d": "float32"},
    )
    proto = model(
        [node("Loop", "m true", "y", body=body)],
        {"x": ("float32", (3,)), "m": ("int64", ())},
        constants={"true": np.array(True)},
    )
    feeds = {"x": np.zeros(3, "float32"), "m": np.array(5)} | ({} if attributes else seed(2))
    (y,) = Model(proto).run(feeds)
    assert y.shape == (5, 3) and len(np.unique(y)) == 15


def test_an_input_may_be_called_seed() -> None:
    proto = model([node("RandomUniformLike", "seed", "y")], {"seed": ("float32", (3,))})
    assert [spec.name for spec in Model(proto).main.inputs] == ["seed", "seed_"]
