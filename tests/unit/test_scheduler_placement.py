"""Planners against brute force: exact, within every limit, and explained."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime.errors import SchedulerError
from nexus_runtime.scheduler.placement import Candidate, even, min_max
from nexus_runtime.scheduler.profile import CostModel, Sample, batches_to_measure, fit, measure

_costs = st.builds(
    CostModel,
    fixed=st.floats(0, 2),
    per_sample=st.floats(1e-3, 1),
    scale=st.floats(0.5, 3),
    overhead=st.floats(0, 2),
)
_clusters = st.lists(st.tuples(_costs, st.none() | st.integers(1, 9)), min_size=1, max_size=4)


def _candidates(cluster) -> list[Candidate]:
    return [Candidate(f"w{i}", cost, limit) for i, (cost, limit) in enumerate(cluster)]


def _brute_force(candidates: list[Candidate], batch: int) -> float:
    ranges = [range(c.cap(batch) + 1) for c in candidates]
    return min(
        max(c.cost.seconds(n) for c, n in zip(candidates, split))
        for split in itertools.product(*ranges)
        if sum(split) == batch
    )


@settings(max_examples=300, deadline=None)
@given(_clusters, st.integers(1, 9))
def test_min_max_is_optimal_and_keeps_every_limit(cluster, batch):
    candidates = _candidates(cluster)
    if sum(c.cap(batch) for c in candidates) < batch:
        with pytest.raises(SchedulerError, match="memory limits hold"):
            min_max(candidates, batch)
        return
    plan = min_max(candidates, batch)
    assert sum(plan.samples.values()) == batch
    assert all(0 <= plan.samples[c.worker] <= c.cap(batch) for c in candidates)
    assert plan.seconds == _brute_force(candidates, batch)
    assert plan.bound <= plan.seconds * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(_costs, st.floats(0, 20), st.integers(0, 300))
def test_most_is_the_largest_share_in_time(cost, seconds, limit):
    shares = [n for n in range(1, limit + 1) if cost.seconds(n) <= seconds]
    assert cost.most(seconds, limit) == (max(shares) if shares else 0)


def test_equal_workers_get_equal_shares():
    plan = min_max([Candidate(f"w{i}", CostModel(0.0, 0.001)) for i in range(4)], 128)
    assert list(plan.samples.values()) == [32, 32, 32, 32]
    assert plan.gap == pytest.approx(0.0)


def test_speed_decides_the_share():
    speeds = {"a": 100.0, "b": 50.0, "c": 25.0}
    plan = min_max([Candidate(n, CostModel(0.0, 1 / r)) for n, r in speeds.items()], 175)
    assert plan.samples == {"a": 100, "b": 50, "c": 25}
    assert plan.seconds == pytest.approx(1.0)


def test_a_worker_whose_link_is_slower_than_the_others_compute_is_left_out():
    near, far = CostModel(0.001, 0.0001), CostModel(0.001, 0.0001, overhead=5.7)
    plan = min_max([Candidate("near", near), Candidate("far", far)], 128)
    assert plan.samples == {"near": 128, "far": 0}
    assert "left out: one sample would take" in plan.shares[1].reason


def test_a_memory_limit_is_named_where_it_binds():
    costs = CostModel(0.0, 0.001)
    plan = min_max([Candidate("small", costs, 10), Candidate("large", costs)], 100)
    assert plan.samples == {"small": 10, "large": 90}
    assert plan.shares[0].reason.endswith("at its memory limit of 10")


def test_large_batches_and_many_workers_are_planned_fast_enough_to_plan_every_round():
    candidates = [Candidate(f"w{i}", CostModel(0.01, 1e-4 * (1 + i % 7))) for i in range(200)]
    plan = min_max(candidates, 1_000_000)
    assert sum(plan.samples.values()) == 1_000_000
    assert plan.gap < 0.01


def test_even_gives_the_rest_to_the_first():
    plan = even([Candidate(n, CostModel(0.0, 0.001)) for n in "abc"], 128)
    assert plan.samples == {"a": 43, "b": 43, "c": 42}


def test_even_refuses_what_does_not_fit():
    with pytest.raises(SchedulerError, match="does not fit 'a'") as caught:
        even([Candidate("a", CostModel(0.0, 1.0), 3), Candidate("b", CostModel(0.0, 1.0))], 10)
    assert "enable_federated_scheduling" in caught.value.hint


def test_nobody_is_an_error():
    with pytest.raises(SchedulerError, match="no worker"):
        min_max([], 8)


# Time models
@given(st.floats(0, 1), st.floats(1e-5, 0.1))
def test_fit_recovers_the_line_behind_exact_measurements(fixed, per_sample):
    model = fit([Sample(b, fixed + b * per_sample) for b in (8, 32, 128)])
    for batch in (1, 20, 128, 1000):
        assert model.seconds(batch) == pytest.approx(fixed + batch * per_sample, rel=1e-3)


@given(st.lists(st.builds(Sample, st.integers(1, 512), st.floats(0, 10)), min_size=1, max_size=9))
def test_fit_never_predicts_negative_or_falling_times(profile):
    model = fit(profile)
    assert model.fixed >= 0
    assert model.per_sample > 0
    assert model.rate > 0


def test_fit_takes_the_fastest_of_repeated_measurements():
    noisy = [Sample(10, 1.0), Sample(10, 9.0), Sample(20, 2.0), Sample(20, 3.0)]
    assert fit(noisy).seconds(40) == pytest.approx(4.0)


def test_one_measurement_is_a_line_through_the_origin():
    assert fit([Sample(10, 1.0)]).seconds(20) == pytest.approx(2.0)


def test_no_measurement_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        fit([])


def test_rounds_teach_overhead_and_scale():
    model = CostModel(0.0, 0.01).observe(100, compute=2.0, total=2.5)
    assert (model.scale, model.overhead) == (2.0, 0.5)  # the first round replaces assumptions
    model = model.observe(100, compute=1.0, total=1.3)
    assert (model.scale, model.overhead) == (1.0, pytest.approx(0.3))  # and was cold itself
    for _ in range(200):
        model = model.observe(100, compute=1.0, total=1.1)
    assert model.seconds(100) == pytest.approx(1.1, rel=1e-3)
    assert model.rate == pytest.approx(100.0, rel=1e-3)


def test_measure_warms_up_and_repeats():
    calls: list[int] = []
    ticks = iter(range(100))
    profile = measure(calls.append, (4, 8), repeats=2, clock=lambda: float(next(ticks)))
    assert calls == [4, 4, 4, 8, 8, 8]
    assert profile == (Sample(4, 1.0), Sample(4, 1.0), Sample(8, 1.0), Sample(8, 1.0))


@pytest.mark.parametrize(
    ("batch", "samples", "expected"), [(128, 60000, (8, 32, 128)), (128, 5, (1, 5)), (1, 9, (1,))]
)
def test_batches_to_measure(batch, samples, expected):
    assert batches_to_measure(batch, samples) == expected
