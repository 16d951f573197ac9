"""Deltas of compiled models, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nexus_runtime
from nexus_compiler import CompileOptions, GraphBuilder, compile
from nexus_compiler.cli.main import _run
from nexus_compiler.store.local import LocalStore


def network(root: Path, name: str, width: int) -> Path:
    """Six layers, of which the third is `width` wide; the others have the same weights."""
    graph = GraphBuilder().input("x", (None, 256))
    for index in range(6):
        graph = graph.dense(width if index == 2 else 256, activation="relu", name=f"layer{index}")
    options = CompileOptions(store=LocalStore(root / "store"))
    artifact = compile(graph, targets=["x86-64-v2"], options=options)
    return artifact.save(root / f"{name}.nxa")


def test_an_edited_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = network(tmp_path, "old", 256), network(tmp_path, "new", 192)
    made, result = str(tmp_path / "d.nxd"), tmp_path / "result.nxa"
    assert _run(["delta", str(old), str(new), "-o", made, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    layers = 4 * (256 * 192 + 192 + 192 * 256 + 256)  # the edited one and the next
    assert said["bytes"] < layers + 60_000
    assert said["whole"] == new.stat().st_size
    assert _run(["apply", str(old), made, "-o", str(result)]) == 0
    assert result.read_bytes() == new.read_bytes()
    x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    np.testing.assert_array_equal(nexus_runtime.load(result)(x), nexus_runtime.load(new)(x))
    assert _run(["apply", str(new), made, "-o", str(result)]) == 1
    assert "is no delta of" in capsys.readouterr().err
