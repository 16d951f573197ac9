"""`nexusc cache`, and building what it holds again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm
from test_cli import network
from tvm.script import tirx as T

from nexus_compiler import targets
from nexus_compiler.cli.main import _run
from nexus_compiler.codegen.door import room_for
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.ir import canonical
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store import layout
from nexus_compiler.store.door import KERNELS, OBJECTS
from nexus_compiler.store.local import LocalStore

TARGET = "x86-64-v2"


@T.prim_func(private=True)
def double(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    T.func_attr({"tirx.noalias": True})
    for i in range(16):
        y[i] = x[i] * T.float32(2)


@T.prim_func(private=True)
def triple(x: T.Buffer((16,), "float32"), y: T.Buffer((16,), "float32")):
    T.func_attr({"tirx.noalias": True})
    for i in range(16):
        y[i] = x[i] * T.float32(3)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    return LocalStore()


def build(store: LocalStore, kernel: tvm.tirx.PrimFunc) -> Fingerprint:
    """What the pipeline does: the kernel by its content, its object by everything."""
    target = targets.load(TARGET)
    room = room_for(target)
    content = canonical.digest(kernel)
    text = tvm.ir.save_json(kernel).encode()
    store.put(KERNELS, Fingerprint((("content", content),)), text)
    unit = room.revive(content, text)
    key = Fingerprint((("content", content), *room.versions, *target.factors()))
    store.get_or_build(OBJECTS, key, lambda: room.build(unit, target))
    return key


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    capsys.readouterr()
    status = _run(["cache", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_objects_are_built_again_from_what_the_store_says(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [build(store, double), build(store, triple)]
    status, found = said(capsys, "verify")
    assert status == 0
    entries = {"regions": 0, "kernels": 2, "objects": 2, "proofs": 0, "tuning": 0}
    assert found["entries"] == entries
    assert sorted(found["rebuilt"]["equal"]) == sorted(key.digest for key in keys)
    assert len(said(capsys, "verify", "--rebuild", "1")[1]["rebuilt"]["equal"]) == 1
    assert said(capsys, "verify", "--rebuild", "0")[1]["rebuilt"]["equal"] == []


def test_a_wrong_object_is_found_and_removed(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = build(store, double), build(store, triple)
    # Whole, and of the right name: only building it again can tell.
    store.put(OBJECTS, bad, store.get(OBJECTS, good) or b"")
    status, found = said(capsys, "verify")
    assert (status, found["rebuilt"]["differing"]) == (1, [bad.digest])
    assert store.get(OBJECTS, bad) is None
    assert said(capsys, "verify")[0] == 0


def test_damaged_entries_are_found_and_removed(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    key = build(store, double)
    path = store.path(OBJECTS, key.digest)
    path.write_bytes(path.read_bytes()[:-1])
    status, found = said(capsys, "verify")
    assert (status, found["damaged"]["objects"]) == (1, [key.digest])
    assert not path.exists()
    assert said(capsys, "verify")[0] == 0


def test_what_cannot_be_built_again_is_said(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    factors = dict(build(store, double).factors)
    for change in ({"tvm": "0.1"}, {"content": "0" * 64}, {"target.kind": "abacus"}):
        store.put(OBJECTS, Fingerprint(tuple({**factors, **change}.items())), b"object")
    other = Fingerprint((("content", "1" * 64),))
    store.put(KERNELS, other, tvm.ir.save_json(triple).encode())
    store.put(OBJECTS, Fingerprint(tuple({**factors, **dict(other.factors)}.items())), b"object")
    status, found = said(capsys, "verify")
    assert (status, len(found["rebuilt"]["equal"])) == (0, 1)
    assert sorted(found["rebuilt"]["left_out"]) == [
        f"made by tvm 0.1, here is {tvm.__version__}",
        "target '' is of kind 'abacus', for which there is no room",
        "the kernel is not kept",
        "what is kept as the kernel 111111111111 is something else",
    ]


def test_size_prune_and_clean(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, double)
    build(store, triple)
    for name in ("objects-v1/ab/old", "roofline-v1/some.json", "mine/thesis.tex"):
        path = store.root / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"text")
    _, found = said(capsys, "size")
    assert {one["name"]: one["files"] for one in found["held"]} == {
        "kernels-v2": 2,
        "locks-v2": 0,
        "objects-v1": 1,
        "objects-v2": 2,
        "roofline-v1": 1,
    }
    assert found["bytes"] > 1000
    assert said(capsys, "prune")[1]["entries"] == 0
    assert not (store.root / "objects-v1").exists()
    assert said(capsys, "prune", "--limit", "0")[1] == {
        "entries": 4,
        "bytes": found["bytes"] - 8,
        "left": 0,
    }
    assert said(capsys, "clean")[0] == 0
    assert [path.name for path in store.root.iterdir()] == ["mine"]
    assert said(capsys, "size")[1]["held"] == []


def test_people_can_read_it(
    store: LocalStore,
    capsys: pytest.CaptureFixture[str],
    snapshot: Callable[[str, str], None],
    masked: Callable[[str], str],
) -> None:
    build(store, double)
    path = layout.entry_path(store.root, KERNELS, "f" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nothing of ours")
    text = ""
    for command in (("dir",), ("size",), ("prune",), ("verify",), ("verify",), ("clean",)):
        status = _run(["cache", *command])
        out, err = capsys.readouterr()
        text += f"$ nexusc cache {' '.join(command)}\nexit {status}\n{out}{err}"
    snapshot("cli_cache", masked(text.replace(str(store.root), "CACHE")))


def test_a_limit_that_is_none_is_refused(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["cache", "prune", "--limit", "lots"]) == 1
    assert "error: --limit is 'lots', which is no size\nhint:" in capsys.readouterr().err


def test_two_machines_share_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert _run(["cache", "key", "new", "anna"]) == 0
    url = f"file://{tmp_path}/shared"
    command = ["compile", str(model), "--target", TARGET, "--store", url]

    def built(machine: str, *options: str) -> tuple[bytes, float]:
        """The artifact, and the latest change of the remote store."""
        monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / machine))
        assert _run([*command, *options, "-o", f"{machine}.nxa"]) == 0, capsys.readouterr().err
        files = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
        assert files
        return (tmp_path / f"{machine}.nxa").read_bytes(), max(p.stat().st_mtime for p in files)

    first = built("one", "--sign", "anna.key")
    # The second builds nothing: what a room would do is not there.
    monkeypatch.setattr(LlvmRoom, "build", None)
    assert built("two", "--trust", "anna.pub") == first
    capsys.readouterr()
    assert _run(command) == 1
    assert "nobody is trusted to fill the store" in capsys.readouterr().err


def test_trouble_with_a_store_is_one_line(tmp_path: Path) -> None:
    model = network(tmp_path)
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "nexus_compiler.cli.main", "compile", str(model), "-o", "a.nxa"],
        env={**os.environ, "NEXUS_CACHE": str(tmp_path / "file")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "warning" in line.lower()]
    assert len(said) == 1
    assert said[0].startswith(f"warning: the store in {tmp_path}/file cannot be used: ")
