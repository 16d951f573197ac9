"""GraphBuilder: what a newcomer types, and what he is told when it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import NexusError, ShapeError, UserError


def classifier() -> GraphBuilder:
    return (
        GraphBuilder()
        .input("features", (None, 20))
        .dense(16, activation="relu")
        .dropout(0.5)
        .dense(5, activation="softmax")
    )


def convolutional() -> GraphBuilder:
    return (
        GraphBuilder()
        .input("image", (None, 1, 8, 8))
        .conv2d(4, 3, padding=1, activation="relu")
        .max_pool2d(2)
        .conv2d(6, (3, 2), stride=(2, 1), activation="tanh")
        .flatten()
        .dense(3)
    )


def run(builder: GraphBuilder, x: np.ndarray, root: Path) -> np.ndarray:
    options = nexus_compiler.CompileOptions(store=LocalStore(root))
    return nexus_runtime.load(nexus_compiler.compile(builder, options=options))(x)


def test_a_classifier_computes_what_torch_does(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((7, 20)).astype(np.float32)
    p = {name: torch.tensor(value) for name, value in classifier().parameters().items()}
    hidden = torch.relu(torch.tensor(x) @ p["dense_1.weight"] + p["dense_1.bias"])
    expected = torch.softmax(hidden @ p["dense_2.weight"] + p["dense_2.bias"], -1)
    np.testing.assert_allclose(run(classifier(), x, tmp_path), expected, rtol=1e-5, atol=1e-6)


def test_a_convolutional_network_computes_what_torch_does(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    p = {name: torch.tensor(value) for name, value in convolutional().parameters().items()}
    value = torch.conv2d(torch.tensor(x), p["conv2d_1.weight"], p["conv2d_1.bias"], padding=1)
    value = torch.max_pool2d(torch.relu(value), 2)
    value = torch.conv2d(value, p["conv2d_2.weight"], p["conv2d_2.bias"], stride=(2, 1))
    expected = torch.tanh(value).flatten(1) @ p["dense_1.weight"] + p["dense_1.bias"]
    np.testing.assert_allclose(run(convolutional(), x, tmp_path), expected, rtol=1e-4, atol=1e-5)


def test_a_builder_is_a_value() -> None:
    base = GraphBuilder().input("x", (None, 4))
    wide, narrow = base.dense(8), base.dense(2)
    assert wide.shape == ("batch", 8)
    assert narrow.shape == ("batch", 2)
    assert base.shape == ("batch", 4)


def test_weights_follow_from_seed_and_name() -> None:
    first, again = classifier().parameters(), classifier().parameters()
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    other = GraphBuilder(seed=1).input("features", (None, 20)).dense(16)
    assert (other.parameters()["dense_1.weight"] != first["dense_1.weight"]).any()
    deeper = classifier().dense(2).parameters()
    np.testing.assert_array_equal(deeper["dense_1.weight"], first["dense_1.weight"])


def test_summary(snapshot: Callable[[str, str], None]) -> None:
    snapshot("builder_summary", convolutional().summary() + "\n")


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: GraphBuilder().dense(3), "the network has no input"),
    (lambda: GraphBuilder().input("x", ()), "cannot have the shape"),
    (lambda: GraphBuilder().input("x", (None, 0)), "cannot have the shape"),
    (lambda: GraphBuilder().input("x", (2,)).input("x", (2,)), "a tensor 'x' already"),
    (lambda: GraphBuilder().input("x", (None, 4)).dense(0), "units must be at least 1, not 0"),
    (lambda: GraphBuilder().input("x", (None, None)).dense(3), r"not \(batch, dim_1\)"),
    (lambda: classifier().conv2d(4, 3), r"conv2d needs .* not \(batch, 5\)"),
    (lambda: convolutional().max_pool2d(2), r"max_pool2d needs .* not \(batch, 3\)"),
    (lambda: GraphBuilder().input("x", (None, 1, 2, 2)).conv2d(1, 3), "does not fit"),
    (lambda: classifier().dropout(1.0), "rate from 0 to below 1, not 1.0"),
    (lambda: classifier().activation("rele"), "did you mean relu"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_refused_at_the_call(call: Callable, message: str) -> None:
    with pytest.raises(NexusError, match=message):
        call()


def test_errors_are_of_their_kind() -> None:
    with pytest.raises(ShapeError):
        classifier().conv2d(4, 3)
    with pytest.raises(UserError):
        GraphBuilder().dense(3)


def test_trained_weights_can_be_put_in(tmp_path: Path) -> None:
    x = np.ones((2, 20), np.float32)
    trained = {name: value * 2 for name, value in classifier().parameters().items()}
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    artifact = nexus_compiler.compile(classifier().to_graph(trained), options=options)
    module = nexus_runtime.load(artifact)
    np.testing.assert_array_equal(module.parameters["dense_1.weight"], trained["dense_1.weight"])
    assert (module(x) != run(classifier(), x, tmp_path)).any()
    for broken in (
        {k: v for k, v in trained.items() if k != "dense_1.bias"},
        {**trained, "more": np.ones(1)},
        {**trained, "dense_1.bias": np.ones(3)},
    ):
        with pytest.raises(ShapeError, match="weight '"):
            classifier().to_graph(broken)


@pytest.mark.parametrize(
    "shape", [(), (0, 3), (-1, 3), (1.5, 3), (2, "a b"), "abc", (None, None, 0)]
)
def test_shapes_that_are_none_are_refused(shape: tuple) -> None:
    with pytest.raises(ShapeError, match="input 'x' cannot have the shape"):
        GraphBuilder().input("x", shape)


def test_whole_numbers_are_whole() -> None:
    x = GraphBuilder().input("x", (None, 6))
    assert x.dense(np.int64(3)).to_graph()
    for call in (lambda: x.dense(1.5), lambda: x.reshape((2, 3)), lambda: x.permute("1")):
        with pytest.raises(UserError, match="whole number"):
            call()


def test_shapes_are_for_onnx_models() -> None:
    """Ignored, they would promise what does not hold."""
    with pytest.raises(NexusError, match="are for inputs of ONNX models"):
        nexus_compiler.capture(GraphBuilder().input("x", (None, 6)).dense(3), shapes={"x": (2, 6)})
