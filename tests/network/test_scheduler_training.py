"""The newcomer's job, whole: GraphBuilder, compiled artifact, worker processes, real data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nexus_compiler.frontend.builder import GraphBuilder
from nexus_runtime import ClusterConfig, DeviceType, Scheduler, Trainer, data, load
from nexus_runtime.errors import DataError
from nexus_runtime.scheduler.facade import RECIPES
from nexus_runtime.trainer import total, train_alone

CLUSTER = (
    ClusterConfig()
    .add_node("gpu-pool", DeviceType.CPU, 2)
    .add_node("edge", DeviceType.CPU, 1)
    .enable_federated_scheduling()
)


def _graph(features: int, hidden: int) -> GraphBuilder:
    return (
        GraphBuilder()
        .input("features", (None, features))
        .dense(hidden, activation="relu")
        .dropout(0.5)
        .dense(10, activation="softmax")
    )


def _trainer(graph: GraphBuilder, tmp_path) -> Trainer:
    path = tmp_path / "job.nxa"
    recipe = RECIPES["adam"]
    graph.build_training(
        path, loss="auto", optimizer="adam", options=recipe.options, targets=("native",)
    )
    return Trainer(load(path, num_threads=1))


def test_compiled_gradients_of_shards_sum_to_the_gradient_of_the_batch(tmp_path):
    trainer = _trainer(_graph(64, 32), tmp_path)
    digits = trainer.fit_data(data.load("digits"))
    x, y = digits.train_x[:100], digits.train_y[:100]
    whole = trainer.gradients(x, y, seed=11, row=500)
    cuts = [0, 1, 38, 99, 100]
    parts = [
        trainer.gradients(x[a:b], y[a:b], seed=11, row=500 + a) for a, b in itertools.pairwise(cuts)
    ]
    sums = total(parts)
    assert (sums.correct, sums.count) == (whole.correct, 100)
    assert sums.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)
    for name, grad in whole.grads.items():
        np.testing.assert_allclose(sums.grads[name], grad, rtol=1e-4, atol=1e-4)


def test_digits_on_three_workers_are_digits_on_one(tmp_path):
    graph = _graph(64, 32)
    report = Scheduler.with_graph(graph, CLUSTER).train(
        "digits", epochs=3, batch_size=64, verbose=False
    )
    trainer = _trainer(graph, tmp_path)
    digits = trainer.fit_data(data.load("digits"))
    train_alone(trainer, digits, epochs=3, batch_size=64, learning_rate=8e-3)
    for name, param in trainer.params.items():
        np.testing.assert_allclose(report.params[name], param, rtol=2e-3, atol=2e-3)
    alone = trainer.evaluate(digits.test_x, digits.test_y)
    assert report.test_accuracy == pytest.approx(alone, abs=0.01)


def test_mnist_reaches_its_accuracy_in_three_epochs(capsys):
    """Needs MNIST's four files (see `nexus_runtime.data`); about 20 s on two idle cores."""
    try:
        data.load("mnist")
    except DataError as error:
        pytest.fail(f"this test cannot run: {error}")
    report = Scheduler.with_graph(_graph(784, 256), CLUSTER).train(
        "mnist", epochs=3, batch_size=128
    )
    assert report.test_accuracy >= 0.975, str(report)
    assert [epoch.samples for epoch in report.history] == [60_000] * 3
    with capsys.disabled():
        last = report.history[-1]
        print(
            f"\nMNIST: {report.test_accuracy:.2%} in {report.seconds:.1f} s, "
            f"{last.samples_per_second:,.0f} samples/s, "
            f"round overhead {last.overhead * 1e3:.1f} ms, shares {last.shares}"
        )
