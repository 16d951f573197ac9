"""The contest of `incremental.py`: equal edits for all contenders, each in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edits
import numpy as np

from nexus_compiler.cli import console

PEERS = ("torch.compile", "jax", "onnxruntime", "tvm")
COMPILERS = ("torch.compile", "jax")
KEEP_NOTHING = ("onnxruntime", "tvm")
GOALS = {"edit warm": "0.25 s, 10x", "edit new process": "1.5 s"}
# Results of the same weights by other orders of summation; far below what an edit changes.
CLOSE = 1e-3


@dataclass
class Row:
    """What was measured of a case; `value` is in seconds where nothing else is said."""

    case: str
    model: str
    goal: str
    nexus: float | None = None
    unit: str = "s"
    runs: list[float] = field(default_factory=list[float])
    peers: dict[str, float] = field(default_factory=dict[str, float])
    peers_runs: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    ratio_best_compiler: float | None = None
    errors: dict[str, str] = field(default_factory=dict[str, str])
    notes: dict[str, float] = field(default_factory=dict[str, float])


class Process:
    """A contender; see `contender.py`."""

    def __init__(self, name: str, kept: Path) -> None:
        environment = {
            **os.environ,
            "NEXUS_CACHE": str(kept / "nexus"),
            "TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"),
            "JAX_COMPILATION_CACHE_DIR": str(kept / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        script = str(Path(__file__).with_name("contender.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, name, str(time.time())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def first_result(self, edit: dict[str, Any]) -> dict[str, Any]:
        """Seconds and output of one edit, or the error."""
        assert self._process.stdin and self._process.stdout  # they are pipes
        try:
            self._process.stdin.write(json.dumps(edit) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else {"error": f"left with {self._process.wait()}"}

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def started(names: list[str], kept: Path) -> Iterator[dict[str, Process]]:
    """A process for each of `names`."""
    running = {name: Process(name, kept) for name in names}
    try:
        yield running
    finally:
        for process in running.values():
            process.close()


class Race:
    """The two cases of an edited width, for one model."""

    def __init__(
        self, name: str, folder: Path, given: argparse.Namespace, cases: Sequence[str]
    ) -> None:
        self._cases = cases
        self._name, self._model, self._given = name, edits.MODELS[name], given
        self._folder, self._kept = folder, folder / "kept"
        self._turn = 0

    def rows(self) -> list[Row]:
        """The rows of the cases that are asked for."""
        found = {case: Row(case, self._name, GOALS[case]) for case in self._cases}
        names = ["nexus", *(peer for peer in PEERS if re.search(self._given.peers, peer))]
        with started(names, self._kept) as warm:
            self._round(Row("", "", ""), names, lambda name: warm[name], edited=False)
            for _ in range(self._given.rounds):
                if row := found.get("edit warm"):
                    self._round(row, names, lambda name: warm[name])
        for _ in range(self._given.rounds):
            if row := found.get("edit new process"):
                self._round(row, names, lambda name: Process(name, self._kept), fresh=True)
        for row in found.values():
            _settle(row)
        return list(found.values())

    def _round(
        self,
        row: Row,
        names: list[str],
        process: Callable[[str], Process],
        *,
        edited: bool = True,
        fresh: bool = False,
    ) -> None:
        """The same edit for all; who needed longer than the limit has no further turn."""
        self._turn += edited
        width = self._model.usual + 8 * self._turn if edited else None
        path = edits.write(self._model, self._folder / f"{self._turn}.onnx", width)
        edit = {"model": self._name, "width": width, "path": str(path), "shape": self._model.shape}
        expected: np.ndarray | None = None
        for name in names:
            runs = row.runs if name == "nexus" else row.peers_runs.setdefault(name, [])
            if sum(runs) > self._given.limit or name in row.errors:
                continue
            if not edited and name in KEEP_NOTHING:
                continue
            one = process(name)
            answer = one.first_result(edit)
            if fresh:
                one.close()
            if "error" in answer:
                row.errors[name] = answer["error"]
                continue
            runs.append(answer["seconds"] + (answer["start"] if fresh else 0.0))
            output = np.array(answer["output"])
            expected = output if expected is None else expected
            if not np.allclose(output, expected, rtol=CLOSE, atol=CLOSE * np.abs(expected).max()):
                row.errors[name] = "its result is another one than the first contender's"
            console.say(f"{row.case or 'before'}, {self._name}, {name}: {runs[-1]:.3f} s")


def _settle(row: Row) -> None:
    row.nexus = statistics.median(row.runs) if row.runs else None
    row.peers = {name: statistics.median(runs) for name, runs in row.peers_runs.items() if runs}
    compilers = [row.peers[name] for name in COMPILERS if name in row.peers]
    if row.nexus and compilers:
        row.ratio_best_compiler = min(compilers) / row.nexus
