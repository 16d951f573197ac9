"""Real worker processes over loopback: the result is one worker's, whatever happens to some."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from scheduler_model import NumpyGraph, NumpySteps, load

from nexus_runtime import data
from nexus_runtime.errors import ArtifactError, SchedulerError
from nexus_runtime.scheduler import progress
from nexus_runtime.scheduler.config import ClusterConfig, DeviceType
from nexus_runtime.scheduler.engines.external import ExternalEngine
from nexus_runtime.scheduler.engines.local import LocalEngine
from nexus_runtime.scheduler.events import Timing
from nexus_runtime.scheduler.facade import RECIPES, Scheduler
from nexus_runtime.scheduler.report import TrainingReport
from nexus_runtime.trainer import Trainer, train_alone

AGENT = [sys.executable, str(Path(__file__).with_name("scheduler_agent.py"))]
# Short leases and little patience, so that faults are noticed while the test runs.
QUICK = Timing(patience=4.0, lease_floor=4.0, grace=2.0)
THREE = (
    ClusterConfig()
    .add_node("gpu-pool", DeviceType.CPU, 2)
    .add_node("edge", DeviceType.CPU, 1)
    .enable_federated_scheduling()
)


def _train(graph: NumpyGraph, cluster: ClusterConfig, *, engine=None, **options) -> TrainingReport:
    scheduler = Scheduler.with_graph(
        graph, cluster, engine=engine or LocalEngine(AGENT), load=load, timing=QUICK
    )
    settings = {"epochs": 2, "batch_size": 64, "verbose": False, **options}
    return scheduler.train("digits", **settings)


def _alone(graph: NumpyGraph, *, epochs: int = 2, batch_size: int = 64) -> Trainer:
    trainer = Trainer(NumpySteps(graph))
    digits = trainer.fit_data(data.load("digits"))
    rate = RECIPES["adam"].rate
    train_alone(trainer, digits, epochs=epochs, batch_size=batch_size, learning_rate=rate)
    return trainer


def _same(report: TrainingReport, trainer: Trainer) -> None:
    for name, param in trainer.params.items():
        np.testing.assert_allclose(report.params[name], param, rtol=2e-3, atol=2e-3)


def test_three_workers_train_what_one_trains(tmp_path):
    report = _train(NumpyGraph(), THREE, epochs=6)
    _same(report, _alone(NumpyGraph(), epochs=6))
    assert report.test_accuracy > 0.9
    assert [e.samples for e in report.history] == [1437] * 6
    assert sum(report.history[0].shares.values()) == 1437
    assert report.plans[0].placement.samples.keys() == {"edge-0", "gpu-pool-0", "gpu-pool-1"}
    saved = report.save(tmp_path / "weights.safetensors")
    assert saved.stat().st_size > 0


def test_one_pool_is_split_evenly_and_gives_the_same_bits_every_time():
    cluster = ClusterConfig().add_node("lab", DeviceType.CPU, 2)
    first, second = (_train(NumpyGraph(), cluster, epochs=1) for _ in range(2))
    assert first.plans[0].placement.samples == {"lab-0": 32, "lab-1": 32}
    for name, param in first.params.items():
        np.testing.assert_array_equal(second.params[name], param)


def test_a_slow_worker_gets_a_small_share_and_a_limit_is_kept():
    cluster = (
        ClusterConfig()
        .add_node("free", DeviceType.CPU, 1)
        .add_node("small", DeviceType.CPU, 1, memory_limit_samples=5)
        .enable_federated_scheduling()
    )
    report = _train(NumpyGraph(delay=0.002), cluster)
    assert all(plan.placement.samples["small-0"] <= 5 for plan in report.plans)


class _Saboteur(LocalEngine):
    """Does something to one worker after some of the job's progress."""

    def __init__(self, act) -> None:
        super().__init__(AGENT)
        self._act = act

    def start(self, specs, scheduler, on_exit) -> str:
        said = super().start(specs, scheduler, on_exit)
        threading.Thread(target=self._wait_and_act, daemon=True).start()
        return said

    def _wait_and_act(self) -> None:
        assert _ROUNDS.wait(30)
        self._act(self.pids)


_ROUNDS = threading.Event()
_WHYS: list[str] = []


@pytest.fixture
def after_rounds(monkeypatch):
    """`_ROUNDS` is set once ten rounds of the job are done."""
    _ROUNDS.clear()
    _WHYS.clear()

    def advanced(self, epoch, rounds, of, tally) -> None:
        if rounds >= 10:
            _ROUNDS.set()

    monkeypatch.setattr(progress.Quiet, "advanced", advanced)
    monkeypatch.setattr(progress.Quiet, "planned", lambda self, plan: _WHYS.append(plan.why))


SLOW = NumpyGraph(delay=0.01)


@pytest.mark.usefixtures("after_rounds")
def test_a_worker_killed_in_the_middle_changes_nothing():
    killed = []

    def kill(pids) -> None:
        os.kill(pids["gpu-pool-0"], signal.SIGKILL)
        killed.append(pids["gpu-pool-0"])

    report = _train(SLOW, THREE, engine=_Saboteur(kill))
    assert killed
    _same(report, _alone(SLOW))
    assert any("killed by signal 9" in plan.why for plan in report.plans)
    assert report.plans[-1].placement.samples.keys() == {"edge-0", "gpu-pool-1"}


@pytest.mark.usefixtures("after_rounds")
def test_a_worker_that_sleeps_and_wakes_changes_nothing():
    """The zombie writer: it is given up, wakes with a lease in hand, and registers again."""

    def nap(pids) -> None:
        os.kill(pids["edge-0"], signal.SIGSTOP)
        while not any("edge-0: " in why for why in _WHYS[1:]):
            time.sleep(0.05)
        os.kill(pids["edge-0"], signal.SIGCONT)

    report = _train(SLOW, THREE, engine=_Saboteur(nap), epochs=16)
    _same(report, _alone(SLOW, epochs=16))
    lost = [i for i, why in enumerate(_WHYS) if "edge-0: it was silent" in why]
    lost += [i for i, why in enumerate(_WHYS) if "edge-0: its lease expired" in why]
    back = [i for i, why in enumerate(_WHYS) if "edge-0: it joined" in why]
    back += [i for i, why in enumerate(_WHYS) if "edge-0: it is back" in why]
    assert lost, _WHYS
    assert max(back) > min(lost), _WHYS


@pytest.mark.usefixtures("after_rounds")
def test_a_job_whose_workers_are_all_killed_ends_with_an_error():
    def kill(pids) -> None:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(SchedulerError, match=r"no worker is left.*killed by signal 9"):
        _train(SLOW, THREE, engine=_Saboteur(kill))


def test_a_worker_that_cannot_start_shows_what_it_said():
    engine = LocalEngine([sys.executable, "-c", "raise SystemExit('out of luck')"])
    with pytest.raises(SchedulerError, match="ended with status 1 and said: out of luck"):
        _train(NumpyGraph(), THREE, engine=engine)


def test_workers_end_with_the_job():
    engine = LocalEngine(AGENT)
    _train(NumpyGraph(), THREE, engine=engine, epochs=1)
    for pid in engine.pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_infinite_loss_ends_the_job():
    with pytest.raises(SchedulerError, match=r"round \d+: the loss became") as caught:
        _train(NumpyGraph(), THREE, learning_rate=1e38)
    assert "learning_rate" in caught.value.hint


def test_a_job_that_was_interrupted_goes_on_to_the_same_result(tmp_path, monkeypatch):
    path = tmp_path / "job.checkpoint"
    whole = _train(NumpyGraph(), THREE, epochs=3)

    def stop(self, report) -> None:
        if report.epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(progress.Quiet, "finished_epoch", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            _train(NumpyGraph(), THREE, epochs=3, checkpoint=path)
    resumed = _train(NumpyGraph(), THREE, epochs=3, checkpoint=path)
    assert [e.epoch for e in resumed.history] == [1, 2, 3]
    for name, param in whole.params.items():
        np.testing.assert_allclose(resumed.params[name], param, rtol=2e-3, atol=2e-3)
    done = _train(NumpyGraph(), THREE, epochs=3, checkpoint=path)
    assert done.test_accuracy == resumed.test_accuracy
    for name, param in resumed.params.items():
        np.testing.assert_array_equal(done.params[name], param)


def test_a_checkpoint_of_another_job_is_refused(tmp_path):
    path = tmp_path / "job.checkpoint"
    _train(NumpyGraph(), THREE, epochs=1, checkpoint=path)
    with pytest.raises(SchedulerError, match="of another job: its batch_size is 64, now it is 32"):
        _train(NumpyGraph(), THREE, epochs=1, batch_size=32, checkpoint=path)
    path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="cannot be read"):
        _train(NumpyGraph(), THREE, epochs=1, checkpoint=path)


def test_an_error_of_ours_ends_the_job(monkeypatch):
    def advanced(self, epoch, rounds, of, tally) -> None:
        raise RuntimeError("a broken bar")

    monkeypatch.setattr(progress.Quiet, "advanced", advanced)
    with pytest.raises(RuntimeError, match="a broken bar"):
        _train(NumpyGraph(), ClusterConfig().add_node("lab", DeviceType.CPU, 1))


class _Hands(ExternalEngine):
    """Types what the scheduler says, as a person would."""

    def start(self, specs, scheduler, on_exit) -> str:
        said = super().start(specs, scheduler, on_exit)
        lines = [line.split() for line in said.splitlines()[1:]]
        assert [words[:2] for words in lines] == [["nexus-agent", "join"]] * 2
        self.agents = [subprocess.Popen([*AGENT, *words[1:]]) for words in lines]
        return said


def test_workers_that_people_start_join_by_command_line(tmp_path):
    hands = _Hands(tmp_path / "credentials")
    cluster = ClusterConfig().add_node("lab", DeviceType.VULKAN, 2)
    report = _train(NumpyGraph(), cluster, engine=hands, epochs=1)
    assert [agent.wait(10) for agent in hands.agents] == [0, 0]
    assert report.history[0].shares.keys() == {"lab-0", "lab-1"}
