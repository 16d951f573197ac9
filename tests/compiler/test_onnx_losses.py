"""Losses agree with ONNX Runtime, optimisers with ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx_models import capture, compare, execute, floats, model, node, single, whole

KINDS: dict[str, tuple[tuple[int, ...], bool, dict[str, Any]]] = {
    "mean": ((4, 5), False, {}),
    "weighted mean": ((4, 5), True, {"reduction": "mean"}),
    "weighted sum of pixels": ((2, 5, 3, 2), True, {"reduction": "sum"}),
    "none": ((2, 5, 6), False, {"reduction": "none"}),
    "ignored": ((3, 5, 4), True, {"ignore_index": 2}),
    "ignored, outside of the classes": ((3, 5, 4), False, {"ignore_index": -1}),
}


@pytest.mark.parametrize("operator", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("name", KINDS)
def test_loss(operator: str, name: str) -> None:
    shape, weighted, attributes = KINDS[name]
    target = whole(shape[0], *shape[2:], high=5)
    target.reshape(-1)[1] = attributes.get("ignore_index", 1)
    weights = [floats(5, low=0.5, seed=2)] if weighted else []
    compare(*single(operator, [floats(*shape), target, *weights], **attributes))


def test_cross_entropy_returns_its_logarithms() -> None:
    arrays = [floats(3, 5, 2), whole(3, 2, high=5)]
    compare(*single("SoftmaxCrossEntropyLoss", arrays, outputs=2))


def test_loss_over_any_batch() -> None:
    made = node("SoftmaxCrossEntropyLoss", "x t", reduction="mean", ignore_index=3)
    inputs = {"x": ("float32", ["n", 5]), "t": ("int64", ["n"])}
    compare(model([made], inputs), {"x": floats(6, 5), "t": whole(6, high=5)})


STEPS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "adagrad": ("Adagrad", 1, 3, {"decay_factor": 0.1, "epsilon": 1e-5, "norm_coefficient": 0.01}),
    "adam": ("Adam", 2, 3, {"alpha": 0.9, "beta": 0.99, "norm_coefficient_post": 0.1}),
    "adam, first step": ("Adam", 2, 0, {"norm_coefficient": 0.1}),
    "momentum": (
        *("Momentum", 1, 2),
        {"alpha": 0.9, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.1},
    ),
    "nesterov, first step": (
        *("Momentum", 1, 0),
        {"alpha": 0.9, "beta": 0.5, "mode": "nesterov", "norm_coefficient": 0.0},
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_optimizer(name: str) -> None:
    operator, moments, count, attributes = STEPS[name]
    shapes = [(2, 3), (4,)]
    feeds = {"r": np.float32(0.1).reshape(()), "t": np.int64(count).reshape(())}
    for kind in range(2 + moments):
        for i, shape in enumerate(shapes):
            feeds[f"x{kind}{i}"] = floats(*shape, seed=2 * kind + i, low=0.1)
    outputs = [f"y{i}" for i in range(2 * (1 + moments))]
    domain = "ai.onnx.preview.training"
    made = helper.make_node(operator, list(feeds), outputs, domain=domain, **attributes)
    shaped = {key: (value.dtype.name, value.shape) for key, value in feeds.items()}
    proto = model([made], shaped, outputs, domains=[domain])
    for place, value in enumerate(proto.graph.output):
        value.CopyFrom(_typed(value.name, shapes[place % 2]))
    # ONNX's reference reads t as a number.
    wanted = ReferenceEvaluator(proto).run(None, feeds)
    for got, expected in zip(execute(capture(proto), feeds), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def _typed(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
