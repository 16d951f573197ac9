"""Gradients of pieces are the gradient of the whole; checkpoints; aggregation; blobs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_model import NumpyGraph, NumpySteps

from nexus_runtime import data
from nexus_runtime.errors import ArtifactError, DataError, SchedulerError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler.aggregation import combine
from nexus_runtime.trainer import Gradients, Trainer, scheduled_rate, total, train_alone


def _trainer(**graph) -> Trainer:
    return Trainer(NumpySteps(NumpyGraph(**{"features": 6, "hidden": 5, "classes": 3, **graph})))


def _batch(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 6)).astype(np.float32), random.integers(0, 3, count)


def _close(one: Gradients, other: Gradients) -> None:
    assert (one.count, one.correct) == (other.count, other.correct)
    assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-5)
    for name, grad in one.grads.items():
        np.testing.assert_allclose(grad, other.grads[name], rtol=2e-5, atol=2e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**31))
def test_shards_of_any_size_sum_to_the_gradient_of_the_batch(sizes, seed):
    trainer = _trainer()
    x, y = _batch(sum(sizes))
    whole = trainer.gradients(x, y, seed=seed, row=100)
    ends = list(itertools.accumulate(sizes))
    parts = [
        trainer.gradients(x[a:b], y[a:b], seed=seed, row=100 + a) for a, b in zip([0, *ends], ends)
    ]
    sums, means = combine(parts, len(x))
    _close(sums, whole)
    for name, mean in means.items():
        np.testing.assert_allclose(mean * len(x), whole.grads[name], rtol=2e-5, atol=2e-5)


def test_rows_at_once_bound_every_call_and_change_nothing():
    steps = NumpySteps(NumpyGraph(features=6, hidden=5, classes=3))
    small, large = Trainer(steps, rows_at_once=4), Trainer(steps)
    x, y = _batch(11)
    sizes: list[int] = []
    run = steps.run
    steps.run = lambda f, i, p=None: (sizes.append(len(i["features"])), run(f, i, p))[1]
    _close(small.gradients(x, y, seed=1, row=5), large.gradients(x, y, seed=1, row=5))
    assert sizes == [4, 4, 3, 11]


@given(st.permutations(range(5)))
def test_the_order_of_arrival_does_not_change_a_bit(arrival):
    trainer = _trainer()
    x, y = _batch(20)
    by_shard: dict[int, Gradients] = {}
    for shard in arrival:
        rows = slice(shard * 4, shard * 4 + 4)
        by_shard[shard] = trainer.gradients(x[rows], y[rows], seed=0, row=rows.start)
    _, means = combine([by_shard[shard] for shard in sorted(by_shard)], 20)
    expected = _REFERENCE.setdefault("bits", blobs.encode(means))
    assert blobs.encode(means) == expected


_REFERENCE: dict[str, bytes] = {}


def test_a_mean_of_means_would_be_wrong():
    one = Gradients(1.0, 0, 1, {"w": np.array([8.0], np.float32)})
    three = Gradients(3.0, 0, 3, {"w": np.array([0.0], np.float32)})
    _, means = combine([one, three], 4)
    assert means["w"].tolist() == [2.0]  # not 4.0, the mean of the two means


def test_total_leaves_its_parts_alone():
    part = Gradients(1.0, 0, 1, {"w": np.ones(2, np.float32)})
    total([part, part])
    assert part.grads["w"].tolist() == [1.0, 1.0]


def test_a_wrong_number_of_samples_or_an_infinite_loss_is_refused():
    part = Gradients(1.0, 0, 2, {"w": np.ones(1, np.float32)})
    with pytest.raises(SchedulerError, match="hold 2 samples, but the batch has 3"):
        combine([part], 3)
    with pytest.raises(SchedulerError, match="the loss became nan") as caught:
        combine([dataclasses.replace(part, loss_sum=float("nan"))], 2)
    assert "learning_rate" in caught.value.hint


def test_the_rate_rises_for_three_tenths_and_falls_to_zero():
    rates = [scheduled_rate(step, 100, 1.0) for step in range(1, 101)]
    assert rates[:2] == pytest.approx([0.5 / 30, 1.5 / 30])
    assert max(rates) == rates[30]
    assert rates[30] == pytest.approx(0.995, abs=0.01)
    assert rates[-1] == pytest.approx(0.5 / 70)
    assert 0 < scheduled_rate(1, 1, 1.0) <= 1.0


def test_training_alone_learns(tmp_path):
    digits = data.load("digits")
    trainer = Trainer(NumpySteps(NumpyGraph()))
    fitted = trainer.fit_data(digits)
    history = train_alone(trainer, fitted, epochs=6, batch_size=64, learning_rate=8e-3)
    assert history[-1].loss < history[0].loss / 2
    assert trainer.evaluate(fitted.test_x, fitted.test_y) > 0.9
    assert trainer.step == 6 * 23


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="10 classes, but the model has 3 outputs"):
        Trainer(NumpySteps(NumpyGraph(classes=3))).fit_data(data.load("digits"))
    with pytest.raises(DataError, match="shape 8x8, but the model takes 63"):
        Trainer(NumpySteps(NumpyGraph(features=63))).fit_data(data.load("digits"))


def test_an_artifact_for_inference_cannot_be_trained():
    steps = NumpySteps(NumpyGraph())
    steps.manifest = dataclasses.replace(steps.manifest, training=None)
    with pytest.raises(ArtifactError, match="inference only"):
        Trainer(steps)


def _stepped(count: int = 2) -> Trainer:
    trainer = _trainer()
    x, y = _batch(8)
    for _ in range(count):
        trainer.update(trainer.gradients(x, y, seed=0, row=0).grads, 0.1)
    return trainer


def test_a_checkpoint_brings_everything_back(tmp_path):
    trainer, other = _stepped(), _trainer()
    trainer.save(tmp_path / "c", about={"epoch": 3})
    assert other.restore(tmp_path / "c") == {"epoch": 3}
    assert other.step == trainer.step == 2
    for own, theirs in ((trainer.params, other.params), (trainer.states, other.states)):
        assert blobs.encode(own) == blobs.encode(theirs)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    _stepped().save(tmp_path / "c")
    with pytest.raises(ArtifactError, match="'param:b1' does not fit"):
        _trainer(hidden=4).restore(tmp_path / "c")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4000))
def test_a_truncated_checkpoint_is_an_artifact_error(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("c") / "c"
    _stepped().save(path)
    raw = path.read_bytes()
    if cut < len(raw):
        path.write_bytes(raw[:cut])
        with pytest.raises(ArtifactError, match="cannot be read"):
            _trainer().restore(path)


# Blobs
@given(st.binary(max_size=300), st.integers(1, 64), st.integers(0, 300))
def test_a_blob_arrives_whole_even_after_a_break(raw, size, broken):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blobs, "CHUNK", size)
        assembler = blobs.Assembler(blobs.ref(raw), limit=300)
        for chunk in blobs.chunks(raw):
            assert len(chunk) <= size
            if assembler.size + len(chunk) > broken:
                break
            assembler.add(chunk)
        for chunk in blobs.chunks(raw, assembler.size):
            assembler.add(chunk)
        assert assembler.finish() == raw


@pytest.mark.parametrize(
    ("sent", "cause"),
    [(b"abcX", "were changed"), (b"abc", "ended after 3 of 4"), (b"abcde", "longer than the 4")],
)
def test_a_tampered_blob_is_refused(sent, cause):
    assembler = blobs.Assembler(blobs.ref(b"abcd"), limit=10)
    with pytest.raises(blobs.BlobError, match=cause):
        assembler.add(sent)
        assembler.finish()


def test_a_blob_beyond_the_limit_is_refused_before_a_byte_is_read():
    with pytest.raises(blobs.BlobError, match="100 bytes was announced, the limit is 10"):
        blobs.Assembler(blobs.BlobRef("0" * 64, 100), limit=10)


def test_tensors_must_fit_the_model():
    like = {"a": np.zeros(2, np.float32), "b": np.zeros((), np.int64)}
    assert blobs.decode(blobs.encode(like), like)["b"].shape == ()
    for other in (
        {"a": like["a"]},
        {**like, "c": like["a"]},
        {**like, "a": np.zeros(3, np.float32)},
        {**like, "a": np.zeros(2, np.float64)},
    ):
        with pytest.raises(blobs.BlobError, match="does not fit the model"):
            blobs.decode(blobs.encode(other), like)
