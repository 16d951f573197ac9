"""`nexusc watch`, and models that are functions of Python files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nexus_runtime
from nexus_compiler import CompileOptions, Session
from nexus_compiler.build import Memory
from nexus_compiler.cli import models
from nexus_compiler.cli import watch as watching
from nexus_compiler.cli.main import _run
from nexus_compiler.store import signing
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import UserError

MODEL = """
from nexus_compiler import GraphBuilder
from widths import WIDE

def make():
    return GraphBuilder().input("x", (None, 8)).dense(WIDE, activation="relu").dense(4)
"""


def files(folder: Path, wide: int = 12) -> Path:
    (folder / "widths.py").write_text(f"WIDE = {wide}\n")
    path = folder / "network.py"
    path.write_text(MODEL)
    return path


def rounds(
    folder: Path, path: Path, *edits: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """What the loop told of the first round, and of one after each of `edits`."""
    waiting = list(edits)

    def wait(seconds: float) -> None:
        waiting.pop(0)()

    options = CompileOptions(store=LocalStore(folder / "store"), memory=Memory())
    watching.loop(
        models.Named(f"{path}:make"),
        Session(options=options),
        folder / "out.nxa",
        as_json=True,
        rounds=len(edits) + 1,
        sleep=wait,
    )
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def result(path: Path) -> np.ndarray:
    found = nexus_runtime.load(path)(np.ones((2, 8), np.float32))
    assert isinstance(found, np.ndarray)
    return found


def test_a_save_rebuilds_what_it_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path)
    seen: list[np.ndarray] = []

    def edit(wide: int) -> Callable[[], object]:
        def now() -> None:
            seen.append(result(tmp_path / "out.nxa"))
            # Of the same length, and perhaps within the same second.
            (tmp_path / "widths.py").write_text(f"WIDE = {wide}\n")

        return now

    told = rounds(tmp_path, path, edit(20), edit(12), capsys=capsys)
    last = result(tmp_path / "out.nxa")
    assert [bool(one["kernels_rebuilt"]) for one in told] == [True, True, False]
    assert told[0]["sha256"] == told[2]["sha256"] != told[1]["sha256"]
    np.testing.assert_array_equal(seen[0], last)
    assert not np.array_equal(seen[1], last)


def test_an_error_is_shown_and_the_loop_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path)
    kept: list[bytes] = []

    def broken() -> None:
        kept.append((tmp_path / "out.nxa").read_bytes())
        path.write_text("def make(:\n")

    def leaving() -> None:
        path.write_text("raise SystemExit('not today')\n")

    def refused() -> None:
        path.write_text(MODEL.replace(".dense(4)", ".add('nothing')"))

    def mended() -> None:
        assert (tmp_path / "out.nxa").read_bytes() == kept[0]
        path.write_text(MODEL.replace("dense(4)", "dense(5)"))

    told = rounds(tmp_path, path, broken, leaving, refused, mended, capsys=capsys)
    assert told[1]["error"].startswith("SyntaxError")
    assert told[2]["error"] == "SystemExit: not today"
    assert "no tensor 'nothing'" in told[3]["error"]
    assert np.shape(result(tmp_path / "out.nxa")) == (2, 5)


def test_a_module_of_the_folder_that_fails_is_watched_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path)
    told = rounds(
        tmp_path,
        path,
        lambda: (tmp_path / "widths.py").write_text("WIDE = nobody\n"),
        lambda: (tmp_path / "widths.py").write_text("WIDE = 14\n"),
        capsys=capsys,
    )
    assert "NameError" in told[1]["error"]
    assert "error" not in told[2]


def test_a_file_that_is_away_for_a_moment_is_no_change(tmp_path: Path) -> None:
    path = files(tmp_path)
    before = watching.stamps({path})
    text = path.read_text()
    path.unlink()
    assert not watching.changed(before, watching.stamps({path}))
    path.write_text(text + "\n")
    assert watching.changed(before, watching.stamps({path}))


def test_the_trace_begins_in_the_users_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def make():\n    return 1 / 0\n")
    session = Session(options=CompileOptions(store=LocalStore(tmp_path), memory=Memory()))
    watching.loop(models.Named(f"{path}:make"), session, tmp_path / "out.nxa", rounds=1)
    said = capsys.readouterr().out.splitlines()
    assert "wrong.py" in said[1]
    assert said[-1] == "ZeroDivisionError: division by zero"


def test_the_command_ends_after_so_many_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "store"))
    loop = watching.loop

    def save(seconds: float) -> None:
        assert seconds > 0
        (tmp_path / "widths.py").write_text("WIDE = 32\n")

    monkeypatch.setattr(watching, "loop", lambda *a, **k: loop(*a, **k, sleep=save))
    status = _run(["watch", f"{path}:make", "-o", str(tmp_path / "m.nxa"), "--once-changed", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert (status, len(lines)) == (0, 2)
    assert "m.nxa: rebuilt " in lines[1]
    assert np.shape(result(tmp_path / "m.nxa")) == (2, 4)


def test_compile_takes_a_function_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files(tmp_path)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "store"))
    assert _run(["compile", f"{path}:make"]) == 0
    assert np.shape(result(tmp_path / "network.nxa")) == (2, 4)


def test_a_module_of_pytorch_comes_with_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "pytorch.py"
    path.write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(8, 3).eval(), (torch.zeros(2, 8),)\n"
    )
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "store"))
    assert _run(["compile", f"{path}:make"]) == 0
    assert np.shape(result(tmp_path / "pytorch.nxa")) == (2, 3)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("network.py:mak", "no function 'mak'"),
        ("absent.py:make", "no file"),
        ("network.py:nothing", "returned a NoneType"),
        ("network.py:odd", "returned a int beside the model"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, named: str, reason: str) -> None:
    path = files(tmp_path)
    path.write_text(MODEL + "\ndef nothing():\n    pass\n\ndef odd():\n    return make(), 3\n")
    with pytest.raises(UserError, match=reason):
        models.Named(str(tmp_path / named)).make()


def test_a_python_file_needs_a_function() -> None:
    with pytest.raises(UserError, match="which function"):
        models.Named("network.py")
    assert models.Named("folder/net.onnx").path == Path("folder/net.onnx")


def test_the_search_for_modules_is_as_before(tmp_path: Path) -> None:
    before = list(sys.meta_path)
    models.Named(f"{files(tmp_path)}:make").make()
    assert sys.meta_path == before


def test_inputs_are_fixed_at_every_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    path, opset = tmp_path / "net.onnx", [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    monkeypatch.setattr(watching, "changed", lambda before, now: True)
    command = ["watch", str(path), "--shape", "x=2,3", "--once-changed", "1", "--json"]
    private, _, _ = signing.new_pair(tmp_path / "anna.key")
    store = ["--store", f"file://{tmp_path / 'shared'}", "--sign", str(private)]
    assert _run([*command, *store, "-o", str(tmp_path / "out.nxa")]) == 0
    assert any((tmp_path / "shared").rglob("*")), "what was built is shared"
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["regions_rebuilt"]
    assert second["regions_rebuilt"] == []
    module = nexus_runtime.load(tmp_path / "out.nxa")
    assert module.main.inputs[0].shape == (2, 3)
    x = np.full((2, 3), 0.5, "float32")
    np.testing.assert_allclose(module(x), np.tanh(x), rtol=1e-6)
