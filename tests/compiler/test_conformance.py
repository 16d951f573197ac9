"""`nexusc conformance`, on a handful of cases."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nexus_compiler.cli.main import _run
from nexus_compiler.verify.conformance import compare, runner, worker
from nexus_compiler.verify.conformance.cases import Case
from nexus_compiler.verify.conformance.worker import OURS, Verdict


def test_command_runs_cases(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    status = _run(
        ["conformance", "onnx", "--filter", "^test_(relu|cumsum_1d)$", "--json"]
        + ["--jobs", "1", "--against", "onnxruntime", "--write-docs", str(page)]
    )
    assert status == 0
    result = json.loads(capsys.readouterr().out)
    expected = {"total": 2, "pass": 2, "wrong": 0, "unsupported": 0, "crash": 0, "pass_frozen": 1}
    assert result["summary"] == expected
    assert [(row["operator"], row["frozen"]) for row in result["rows"]] == [
        ("CumSum", ["axis"]),
        ("Relu", []),
    ]
    assert result["against"]["summary"]["pass"] == 2
    assert "| Relu | 1 | 1 | 0 | 0 | 0 | 0 | 1 |" in page.read_text(encoding="utf-8")


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


def test_wrong_number_of_outputs() -> None:
    assert compare.difference(case(F([1])), []) == "0 outputs, not 1"


def stand_in(connection: Any, against: bool) -> None:
    """A worker that does what the name of the case says."""
    connection.send(None)
    while (name := connection.recv()) is not None:
        if name == "dies":
            sys.exit(3)
        if name == "hangs":
            time.sleep(1000)
        connection.send((OURS, Verdict("pass")))


def test_a_worker_that_dies_or_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "main", stand_in)
    one = runner.Runner(jobs=1, timeout=3, against=False, progress=lambda *_: None)
    found = one.run(["a", "dies", "b", "hangs", "c"])
    assert {name: verdicts[OURS].verdict for name, verdicts in found.items()} == {
        "a": "pass", "dies": "crash", "b": "pass", "hangs": "crash", "c": "pass",
    }  # fmt: skip
    assert found["dies"][OURS].reason == "the process ended with status 3"
    assert found["hangs"][OURS].reason == "not done after 3 s"


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
