"""Training what GraphBuilder builds: statistics that are no gradients, indices, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler import GraphBuilder
from nexus_runtime import Module, load
from nexus_runtime.data import DataSet
from nexus_runtime.errors import UserError
from nexus_runtime.trainer import Trainer, total, train_alone

BATCH = 12
RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((BATCH, 3, 4)).astype(np.float32) * 2 + 25
Y = RANDOM.integers(0, 2, BATCH)


def normalised(momentum: float = 0.25) -> GraphBuilder:
    return (
        GraphBuilder()
        .input("x", (None, 3, 4))
        .batch_norm(momentum=momentum, name="norm")
        .flatten()
        .dense(2, activation="softmax")
    )


def built(network: GraphBuilder, path: Path, **options: Any) -> Module:
    network.build_training(path / "t.nxa", **options)
    return load(path / "t.nxa")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    return built(normalised(), tmp_path_factory.mktemp("norm"), optimizer="sgd")


def step(trainer: Trainer, cuts: list[int]) -> dict[str, np.ndarray]:
    edges = [0, *cuts, BATCH]
    parts = [trainer.gradients(X[a:b], Y[a:b], seed=0, row=a) for a, b in itertools.pairwise(edges)]
    means = {name: grad / np.float32(BATCH) for name, grad in total(parts).grads.items()}
    trainer.update(means, 0.1)
    return trainer.params


def test_running_statistics_are_those_of_torch_and_predict_uses_them(module: Module) -> None:
    trainer, theirs = Trainer(module), torch.nn.BatchNorm1d(3, momentum=0.25)
    for _ in range(3):
        found = step(trainer, [])
        theirs(torch.tensor(X))
    # PyTorch divides by n - 1 for the running variance, Nexus by n.
    count = X.size / 3
    unbiased = theirs.running_var.numpy() - 0.75**3
    expected = unbiased * (count - 1) / count + 0.75**3
    np.testing.assert_allclose(found["norm.running_mean"], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(found["norm.running_variance"], expected, rtol=1e-4)
    x = torch.tensor(X)
    normal = torch.nn.functional.batch_norm(
        x,
        torch.tensor(found["norm.running_mean"]),
        torch.tensor(found["norm.running_variance"]),
        torch.tensor(found["norm.scale"]),
        torch.tensor(found["norm.offset"]),
    )
    weight, bias = found["dense_1.weight"], found["dense_1.bias"]
    value = torch.softmax(normal.flatten(1) @ torch.tensor(weight) + torch.tensor(bias), -1)
    np.testing.assert_allclose(trainer.predict(X), value, rtol=2e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, BATCH - 1), max_size=3).map(sorted))
def test_running_statistics_do_not_depend_on_how_a_batch_is_cut(
    module: Module, cuts: list[int]
) -> None:
    whole, cut = (step(Trainer(module), where) for where in ([], cuts))
    # The mean is 12 deviations from the running one here, and its square is taken off in float32.
    for name, rtol in (("norm.running_mean", 1e-5), ("norm.running_variance", 1e-3)):
        np.testing.assert_allclose(cut[name], whole[name], rtol=rtol)


def test_a_piece_without_samples_adds_nothing(module: Module) -> None:
    given = {"x": X[:0], "labels": Y[:0], "seed": np.uint32(0), "row": np.int64(0)}
    assert all((value == 0).all() for value in module.run("gradients", given).values())


def test_statistics_have_no_optimiser_state(module: Module) -> None:
    assert {state.name for state in module.manifest.training.states} == {
        f"state:momentum:{name}"
        for name in ("norm.scale", "norm.offset", "dense_1.weight", "dense_1.bias")
    }


def test_indices_train(tmp_path: Path) -> None:
    """The class of a sequence is whether token 3 is in it; the floats of a data set do as well."""
    x = RANDOM.integers(0, 9, (256, 6))
    y = (x == 3).any(1).astype(np.int64)
    for dtype in ("int64", "float32"):
        network = (
            GraphBuilder()
            .input("tokens", (None, 6), dtype=dtype)
            .embedding(9, 8)
            .permute(2, 1)
            .global_max_pool()
            .dense(2, activation="softmax")
        )
        trainer = Trainer(built(network, tmp_path))
        rows = x.astype(dtype)
        data = DataSet("tokens", rows, y, rows, y)
        train_alone(trainer, data, epochs=12, batch_size=32, learning_rate=0.05)
        assert trainer.evaluate(rows, y) > 0.95


def test_indices_beyond_the_table_mean_its_ends(tmp_path: Path) -> None:
    network = GraphBuilder().input("i", (None, 2), dtype="int64").embedding(3, 2, name="e")
    module = built(network, tmp_path, loss="mse")
    table = module.parameters["e.table"]
    i = np.array([[-5, 99]])
    np.testing.assert_array_equal(module.run("predict", {"i": i})["output"][0], table[[0, 2]])
    labels = np.zeros((1, 2, 2), np.float32)
    given = {"i": i, "labels": labels, "seed": np.uint32(0), "row": np.int64(0)}
    found = module.run("gradients", given)["grad:e.table"]
    np.testing.assert_allclose(found, table * [[0.5], [0], [0.5]], rtol=1e-6)


def test_dropout_in_attention_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    network = (
        GraphBuilder()
        .input("x", (None, 3, 4))
        .attention(2, dropout=0.5)
        .flatten()
        .dense(2, activation="softmax")
    )
    trainer = Trainer(built(network, tmp_path))
    whole = trainer.gradients(X, Y, seed=1, row=0)
    parts = [trainer.gradients(X[a : a + 4], Y[a : a + 4], seed=1, row=a) for a in (0, 4, 8)]
    for name, grad in total(parts).grads.items():
        np.testing.assert_allclose(grad, whole.grads[name], rtol=1e-3, atol=1e-4)
    other = trainer.gradients(X, Y, seed=2, row=0)
    assert other.loss_sum != whole.loss_sum


TWO = GraphBuilder().input("a", (None, 3)).input("b", (None, 3)).add("a").dense(2)
REFUSED: list[tuple[Callable[[], GraphBuilder], str]] = [
    (lambda: TWO, r"several inputs \('a', 'b'\) cannot be trained"),
    (
        lambda: (
            GraphBuilder()
            .input("x", (None, 3))
            .dense(2, name="p")
            .dense(2, name="q")
            .output("p", "q")
        ),
        r"several outputs \('p', 'q'\) cannot be trained",
    ),
    (GraphBuilder, "the network has no input"),
]


@pytest.mark.parametrize(("network", "message"), REFUSED)
def test_what_a_trainer_cannot_feed_is_refused(
    network: Callable[[], GraphBuilder], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        network().build_training(tmp_path / "t.nxa")


def test_training_goes_on_from_given_weights(tmp_path: Path, module: Module) -> None:
    trained = step(Trainer(module), [])
    again = built(normalised().with_weights(trained), tmp_path)
    for name, value in trained.items():
        np.testing.assert_array_equal(again.parameters[name], value)
