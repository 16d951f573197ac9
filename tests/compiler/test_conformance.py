"""`nexusc conformance`, on a handful of cases."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dying
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nexus_compiler.cli.main import _run
from nexus_compiler.verify.conformance import cases, compare, report, runner, worker
from nexus_compiler.verify.conformance.cases import Case
from nexus_compiler.verify.conformance.worker import OURS, Verdict


def test_command_runs_cases(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    status = _run(
        ["conformance", "onnx", "--filter", "^test_(relu|cumsum_1d)$", "--json"]
        + ["--jobs", "1", "--against", "onnxruntime", "--against", "tvm", "--write-docs", str(page)]
    )
    assert status == 0
    result = json.loads(capsys.readouterr().out)
    expected = {"total": 2, "pass": 2, "wrong": 0, "unsupported": 0, "crash": 0, "pass_frozen": 1}
    assert result["summary"] == expected
    assert [(row["operator"], row["frozen"]) for row in result["rows"]] == [
        ("CumSum", ["axis"]),
        ("Relu", []),
    ]
    assert [result["against"][peer]["pass"] for peer in ("onnxruntime", "tvm")] == [2, 2]
    assert "| Relu | 1 | 1 | 0 | 0 | 0 | 0 | 1 | 1 |" in page.read_text(encoding="utf-8")


def test_filter_that_matches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["conformance", "onnx", "--filter", "no such operator"]) == 1
    assert "no case matches" in capsys.readouterr().err


def case(*outputs: Any) -> Case:
    return Case("test", "Op", onnx.ModelProto(), {}, outputs, rtol=1e-3, atol=1e-5)


F = np.float32


@pytest.mark.parametrize(
    ("found", "wanted", "reason"),
    [
        (F([1, np.nan]), F([1.0005, np.nan]), ""),
        (F([1, 2]), F([1, 2.1]), "1 of 2 elements differ, first at [1]: 2.0"),
        (F([1]), np.float64([1]), "it is float32, not float64"),
        (F([1]), F([[1]]), "its shape is [1], not [1, 1]"),
        (F([np.inf]), F([-np.inf]), "1 of 1"),
        (np.int64([3]), np.int64([2]), "1 of 1"),
        (np.bool_([True]), np.bool_([True]), ""),
        ([F([1])], [F([1]), F([2])], "no sequence of 2"),
        ([F([1])], [F([1])], ""),
        (F([1]), [F([1])], "no sequence"),
        (F([1]), None, "ndarray, not NoneType"),
        (np.array(["a"], object), np.array(["a"]), ""),
        (np.array([b"a"], object), np.array(["b"]), "other strings"),
    ],
)
def test_comparison(found: Any, wanted: Any, reason: str) -> None:
    said = compare.difference(case(wanted), [found])
    assert reason in said
    assert bool(said) == bool(reason)


def test_of_random_numbers_type_and_shape_count() -> None:
    drawn = dataclasses.replace(case(F([1, 2])), drawn=True)
    assert not compare.difference(drawn, [F([3, 4])])
    assert "float64, not float32" in compare.difference(drawn, [np.float64([1, 2])])
    assert "its shape is [1]" in compare.difference(drawn, [F([1])])


@pytest.mark.parametrize(
    ("pattern", "drawn"),
    [("^test_bernoulli$", True), ("^test_training_dropout$", True), ("^test_relu$", False)]
    + [("^test_training_dropout_zero_ratio$", False)],
)
def test_which_cases_are_random(pattern: str, drawn: bool) -> None:
    (found,) = cases.select(pattern)
    assert found.drawn == drawn


def test_the_page_explains_what_stays_wrong() -> None:
    verdicts = {"a": {OURS: Verdict("wrong", "1 of 2 elements differ")}}
    page = report.document(report.value({"a": "Attention"}, verdicts), "1")
    assert "| Attention | wrong | 1 of 2 elements differ | 1 |" in page
    assert "### Attention" in page and "bfloat16" in page
    assert "### Attention" not in report.document(report.value({"a": "Add"}, verdicts), "1")


def test_wrong_number_of_outputs() -> None:
    assert compare.difference(case(F([1])), []) == "0 outputs, not 1"


@dataclass
class Puppet:
    """A process that does what the name of the case says; the time it takes is that of `Script`."""

    script: Script
    task: worker.Task | None = None
    running: bool = True
    ready: bool = False

    def send(self, task: worker.Task | None) -> None:
        self.task, self.running = task, task is not None
        if task:
            self.script.given.append(task[0])

    def receive(self) -> Verdict | None:
        if not self.ready:
            self.ready = True
            return None
        assert self.task is not None
        if self.task[0] == "dies":
            self.running = False
            raise EOFError
        return Verdict("pass")

    def end(self, *, kill: bool) -> int | None:
        assert kill == self.running
        self.running = False
        return 3


@dataclass
class Script:
    """A pool of puppets and a clock that only waiting moves."""

    time: float = 0.0
    started: list[Puppet] = field(default_factory=list[Puppet])
    given: list[str] = field(default_factory=list[str])

    def start(self) -> runner.Process:
        self.started.append(Puppet(self))
        return self.started[-1]

    def now(self) -> float:
        return self.time

    def wait(self, processes: Sequence[runner.Process], seconds: float) -> list[runner.Process]:
        here = [p for p in self.started if p in processes and not (p.task and p.task[0] == "hangs")]
        self.time += 0 if here else seconds
        return list(here)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_or_hangs_costs_one_task(jobs: int) -> None:
    pool, steps = Script(), list[int]()
    one = runner.Runner(jobs, 3, lambda _, done, total: steps.append(done), pool)
    names = ["a", "dies", "b", "hangs", "c"]
    found = one.run(names, [OURS, "tvm"])
    assert {name: [v.verdict for v in verdicts.values()] for name, verdicts in found.items()} == {
        name: ["crash" if name in {"dies", "hangs"} else "pass"] * 2 for name in names
    }
    assert found["dies"][OURS].reason == "the process ended with status 3"
    assert found["hangs"]["tvm"].reason == "not done after 3 s"
    assert sorted(pool.given) == sorted(names * 2)
    assert pool.time == 6 / jobs
    assert steps[0] == 0 and steps[-1] == 10
    assert not any(puppet.running for puppet in pool.started)


def test_a_process_that_cannot_start_ends_the_run() -> None:
    class Broken(Puppet):
        def receive(self) -> Verdict | None:
            self.running = False
            raise EOFError

    class Pool(Script):
        def start(self) -> runner.Process:
            return Broken(self)

        def wait(self, processes: Sequence[runner.Process], seconds: float) -> list[runner.Process]:
            return list(processes)

    one = runner.Runner(1, 3, lambda *_: None, Pool())
    with pytest.raises(RuntimeError, match="cannot start: the process ended with status 3"):
        one.run(["a"], [OURS])


def test_the_death_of_a_real_process_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "main", dying.main)
    found = runner.Runner(1, 300, lambda *_: None).run(["a", "b"], [OURS])
    reason = "the process ended with status 3"
    assert {name: verdicts[OURS].reason for name, verdicts in found.items()} == {
        "a": reason, "b": reason,
    }  # fmt: skip


def test_freeze_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("axis", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    arguments = ["compile", str(tmp_path / "net.onnx"), "--json"]
    assert _run(arguments) == 1
    assert "--freeze axis=FILE.npy" in capsys.readouterr().err
    np.save(tmp_path / "axis.npy", np.int64(-1))
    assert _run([*arguments, "--freeze", f"axis={tmp_path / 'axis.npy'}"]) == 0
    np.save(tmp_path / "wrong.npy", np.int32(-1))
    assert _run([*arguments, "--freeze", f"axis={tmp_path / 'wrong.npy'}"]) == 1
    assert "cannot be frozen to a value that is int32[]" in capsys.readouterr().err
    assert _run([*arguments, "--freeze", f"axes={tmp_path / 'axis.npy'}"]) == 1
    assert "no input 'axes'" in capsys.readouterr().err
