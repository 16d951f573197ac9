"""The command line as its users see it: exit status, data on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nexus_compiler.cli.main import _run

Cli = Callable[..., tuple[int, str, str]]


def network(directory: Path, *, scale: float = 1.0, operator: str = "Relu") -> Path:
    """relu(x @ w) + b for any batch, as an ONNX file."""
    random = np.random.default_rng(0)
    w = (random.standard_normal((6, 4)) * scale).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="multiply"),
            helper.make_node(operator, ["h"], ["r"], name="rectify"),
            helper.make_node("Add", ["r", "b"], ["y"], name="shift"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = directory / "net.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = _run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def built(cli: Cli, tmp_path: Path) -> Path:
    network(tmp_path)
    status, _, said = cli("compile", "net.onnx", "--target", "x86-64-v2", "-o", "net.nxa")
    assert status == 0, said
    return tmp_path / "net.nxa"


def story(cli: Cli, masked: Callable[[str], str], *arguments: str) -> str:
    status, out, err = cli(*arguments)
    text = f"$ nexusc {' '.join(arguments)}\nexit {status}\n--- stdout\n{out}--- stderr\n{err}"
    return masked(text)


STORIES = {
    "help": ("--help",),
    "compile": ("compile", "net.onnx", "--target", "x86-64-v2", "-o", "out.nxa"),
    "inspect": ("inspect", "net.nxa"),
    "run": ("run", "net.nxa", "--input", "x=random", "--dim", "batch=2"),
    "verify": ("verify", "net.nxa", "--against", "net.onnx", "--dim", "batch=3"),
    "targets": ("targets",),
    "unknown_command": ("compil",),
    "unknown_option": ("targets", "--jsn"),
    "unknown_target": ("compile", "net.onnx", "--target", "x86-64-v33"),
    "missing_model": ("compile", "none.onnx"),
    "missing_directory": ("compile", "net.onnx", "-o", "nowhere/out.nxa"),
    "bad_shape": ("compile", "net.onnx", "--shape", "x=3,7"),
    "bad_shape_name": ("compile", "net.onnx", "--shape", "z=3,6"),
    "bad_shape_text": ("compile", "net.onnx", "--shape", "x=3,six six"),
    "missing_artifact": ("run", "none.nxa"),
    "no_artifact": ("run", "net.onnx"),
    "missing_input": ("run", "net.nxa"),
    "unknown_input": ("run", "net.nxa", "--input", "z=random"),
    "missing_file": ("run", "net.nxa", "--input", "x=none.npy"),
    "other_target": ("run", "net.nxa", "--input", "x=random", "--target", "native"),
}


@pytest.mark.parametrize("name", STORIES)
def test_story(
    name: str,
    cli: Cli,
    built: Path,
    snapshot: Callable[[str, str], None],
    masked: Callable[[str], str],
) -> None:
    before = sorted(path.name for path in built.parent.iterdir())
    text = story(cli, masked, *STORIES[name])
    snapshot(f"cli_{name}", text)
    if "exit 1" in text:
        after = sorted(path.name for path in built.parent.iterdir())
        assert after == before, "a command that failed has left something"


def test_json_of_every_command(cli: Cli, built: Path) -> None:
    commands = [
        ("compile", "net.onnx", "--target", "x86-64-v2", "-o", "again.nxa"),
        ("inspect", "net.nxa"),
        ("run", "net.nxa", "--input", "x=random"),
        ("verify", "net.nxa", "--against", "net.onnx"),
        ("bench", "net.nxa", "--rounds", "3"),
        ("targets",),
        ("doctor",),
    ]
    for command in commands:
        status, out, err = cli(*command, "--json")
        assert status == 0, err
        assert len(out.splitlines()) == 1
        assert json.loads(out)
    status, out, _ = cli("inspect", "net.nxa", "--json")
    assert json.loads(out)["signature"]["functions"][0]["name"] == "main"


def test_outputs_are_written_and_right(cli: Cli, built: Path) -> None:
    x = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    np.save(built.parent / "x.npy", x)
    status, _, err = cli("run", "net.nxa", "--input", "x=x.npy", "--output", "y.npz")
    assert (status, err) == (0, "wrote y.npz\n")
    model = onnx.load(built.parent / "net.onnx")
    w = numpy_helper.to_array(model.graph.initializer[0])
    with np.load(built.parent / "y.npz") as found:
        np.testing.assert_allclose(found["y"], np.maximum(x @ w, 0) + 1, rtol=1e-5, atol=1e-5)


def test_verify_fails_where_results_differ(cli: Cli, built: Path) -> None:
    network(built.parent, scale=1.01)
    rows = ("--dim", "batch=8")
    status, out, _ = cli("verify", "net.nxa", "--against", "net.onnx", *rows, "--json")
    assert status == 1
    assert json.loads(out)["passed"] is False
    status, out, _ = cli("verify", "net.nxa", "--against", "net.onnx", *rows)
    assert status == 1
    assert "DIFFERS" in out


def test_bench_takes_turns_with_a_peer(cli: Cli, built: Path) -> None:
    status, out, err = cli(
        "bench", "net.nxa", "--against", "onnxruntime", "--rounds", "5", "--json"
    )
    assert status == 0, err
    said = json.loads(out)
    assert [one["name"] for one in said["timings"]] == ["nexus", "onnxruntime"]
    assert said["ratio"] > 0
    network(built.parent, scale=2)  # the source beside the artifact is no longer its source
    status, _, err = cli("bench", "net.nxa", "--against", "onnxruntime", "--rounds", "2")
    assert status == 1
    assert "the source of the artifact, 'net.onnx', is not here" in err
    status, _, err = cli(
        "bench",
        "net.nxa",
        "--against",
        "onnxruntime",
        "--model",
        "net.onnx",
        "--dim",
        "batch=8",
    )
    assert status == 1
    assert "the outputs differ" in err


def test_a_tampered_artifact_is_refused(cli: Cli, built: Path) -> None:
    data = bytearray(built.read_bytes())
    place = data.index(b"ELF") + 2000
    data[place] ^= 0xFF
    built.write_bytes(bytes(data))
    for command in (("run", "net.nxa", "--input", "x=random"), ("inspect", "net.nxa")):
        status, out, err = cli(*command)
        assert (status, out) == (1, "")
        assert err.startswith("error: net.nxa")


def test_missing_operators_are_named(cli: Cli, tmp_path: Path) -> None:
    path = network(tmp_path)
    model = onnx.load(path)
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)
    status, _, err = cli("compile", "net.onnx")
    assert status == 1
    assert "com.example" in err and "Frobnicate" in err and "rectify" in err and "hint:" in err
    assert not (tmp_path / "net.nxa").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 50, bytes(range(256)) * 4])
def test_what_is_no_onnx_is_refused(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    status, out, err = cli("compile", "net.onnx")
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and "net.onnx" in err and "Traceback" not in err


def test_debug_shows_the_traceback(cli: Cli) -> None:
    assert "Traceback" not in cli("compile", "none.onnx")[2]
    assert "Traceback" in cli("--debug", "compile", "none.onnx")[2]


def test_a_fault_of_ours_leaves_with_2(
    cli: Cli, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("nexus_compiler.pipeline.base.run", broken)
    status, _, err = cli("compile", "net.onnx")
    assert status == 2
    assert "error: ZeroDivisionError: boom (tests/compiler/test_cli.py:" in err
    assert "in broken)\nhint: this is a fault of nexusc" in err


def test_dumped_ir_is_one_file_a_pass(cli: Cli, built: Path) -> None:
    status, _, err = cli("compile", "net.onnx", "--target", "x86-64-v2", "--dump-ir", "ir")
    assert status == 0, err
    names = sorted(path.name for path in (built.parent / "ir").iterdir())
    assert names[:2] == ["00-unify_sizes.py", "01-simplify.py"]
    assert any(name.endswith("-schedule.py") for name in names)
    assert "R.matmul" in (built.parent / "ir" / names[0]).read_text()


def test_the_program_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nexus_compiler.cli.main", "targets", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert msgspec.json.decode(done.stdout)
    assert done.stderr == ""


def test_a_closed_pipe_makes_no_noise(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nexus_compiler.cli.main", "targets"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""
