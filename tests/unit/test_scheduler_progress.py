"""What people are told while a job runs, and what the report says at its end."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from nexus_runtime.scheduler.placement import Candidate, min_max
from nexus_runtime.scheduler.profile import CostModel
from nexus_runtime.scheduler.progress import Bar, Lines, Quiet, for_stderr
from nexus_runtime.scheduler.report import PlanReport, Tally, TrainingReport


def _plan(*speeds: float, number: int = 0) -> PlanReport:
    candidates = [Candidate(f"w{i}", CostModel(0.0, 1 / s)) for i, s in enumerate(speeds)]
    return PlanReport(number, "w0: it joined", min_max(candidates, 100))


def _epoch():
    tally = Tally(loss=50.0, correct=75, samples=100, rounds=2, overhead=0.2, begin=1.0, end=3.0)
    tally.shares = {"w1": 25, "w0": 75}
    return tally.epoch(1, 0.8)


def test_an_epoch_is_means_over_its_samples():
    epoch = _epoch()
    assert (epoch.loss, epoch.accuracy, epoch.seconds) == (0.5, 0.75, 2.0)
    assert (epoch.samples_per_second, epoch.overhead) == (50.0, 0.1)
    assert list(epoch.shares) == ["w0", "w1"]


def test_plain_lines_go_to_stderr(capsys):
    with for_stderr(verbose=True) as talk:
        talk.planned(_plan(100.0, 300.0))
        talk.finished_epoch(_epoch())
    assert capsys.readouterr() == (
        "",
        "round 0: 100 samples = w0 25, w1 75; 250.0 ms predicted, 250.0 ms at best "
        "(w0: it joined)\n"
        "epoch 1: loss 0.5000, accuracy 75.00%, test accuracy 80.00%, 2.0 s, 50 samples/s\n",
    )


def test_small_moves_of_samples_are_not_told(capsys):
    lines = Lines()
    for number, speed in enumerate((100.0, 105.0, 300.0)):
        lines.planned(_plan(100.0, speed, number=number))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["round 0", "round 2"]


def test_silence_is_an_option(capsys):
    with for_stderr(verbose=False) as talk:
        assert type(talk) is Quiet
        talk.say("x")
        talk.planned(_plan(1.0))
        talk.advanced(1, 1, 2, Tally())
        talk.finished_epoch(_epoch())
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Bar() as bar:
        bar.advanced(1, 2, 2, Tally(loss=5.0, samples=10))
        bar.say("a [line]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a [line]" in err


def test_the_report_saves_its_weights(tmp_path):
    report = TrainingReport(
        test_accuracy=0.8,
        history=(_epoch(),),
        params={"w": np.arange(3, dtype=np.float32), "s": np.asarray(2.0, np.float32)},
        plans=(_plan(1.0),),
        seconds=2.0,
    )
    held = load_file(report.save(tmp_path / "w.safetensors"))
    assert held["w"].tolist() == [0.0, 1.0, 2.0]
    assert held["s"].shape == ()
    assert str(report).splitlines() == [
        "test accuracy 80.00% after 1 epochs",
        "  w0: 75.0% of the samples",
        "  w1: 25.0% of the samples",
    ]
    assert report.plans[0].placement.seconds == pytest.approx(100.0)
