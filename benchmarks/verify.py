"""What `nexusc verify` costs: a model for the first time, after one edit, and with no edit at all.

Each verification is a process of its own, timed without its imports, on kernels that were built
before; rounds of all cases take turns, and each round has an edit that was never there before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))

from nexus_compiler import CompileOptions, GraphBuilder, compile
from nexus_compiler.cli import console
from nexus_compiler.store.door import PROOFS
from nexus_compiler.store.layout import bucket_path
from nexus_compiler.store.local import LocalStore
from nexus_compiler.verify import api

CASES = ("first", "first, regions only", "edit", "edit, regions only", "no edit")
LAYERS, WIDTH, STEPS = 24, 256, 64
MODELS = {"transformer24": 4 * WIDTH, "resnet50": 256}
"""By name the usual width of what is edited."""


def transformer(wide: int) -> GraphBuilder:
    """24 layers, of which one is `wide` inside, the others 1024."""
    graph = GraphBuilder().input("x", (1, STEPS, WIDTH))
    for number in range(LAYERS):
        inner = wide if number == LAYERS // 3 else 4 * WIDTH
        graph = graph.residual(lambda g: g.layer_norm().attention(4))
        graph = graph.residual(
            lambda g, inner=inner: g.layer_norm().dense(inner, activation="gelu").dense(WIDTH)
        )
    return graph


def model(name: str, wide: int, folder: Path) -> Any:
    """The model; ResNet-50 as an ONNX file, which ONNX Runtime is the reference for."""
    if name == "transformer24":
        return transformer(wide)
    import edits

    return edits.write(edits.FULL[name], folder / f"{name}-{wide}.onnx", wide)


def work(name: str, wide: int, folder: Path, how: str) -> None:
    """One verification, or the build before it; prints what it took."""
    given, options = model(name, wide, folder), CompileOptions(store=LocalStore(folder / "store"))
    if how == "build":
        compile(given, options=options)
        return
    begin, busy = time.perf_counter(), time.process_time()
    report = api.verify(given, options=options, end_to_end="regions" not in how)
    said = {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - busy,
        "build_seconds": report.build_seconds,
        "check_seconds": report.seconds,
        "passed": report.passed,
        "proved": report.count("proved"),
        "inherited": report.count("inherited"),
    }
    print(json.dumps(said))


def spawned(name: str, wide: int, folder: Path, how: str) -> dict[str, Any]:
    """What `work` says in a process of its own."""
    command = [sys.executable, __file__, "--work", name, str(wide), str(folder), how]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def measure(name: str, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each case: medians over `rounds`."""
    usual, proofs = MODELS[name], bucket_path(folder / "store", PROOFS)
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    spawned(name, usual, folder, "build")
    for turn in range(1, rounds + 1):
        wide = usual + 16 * turn
        spawned(name, wide, folder, "build")
        for case, width, keeps in (
            ("first, regions only", usual, False),
            ("edit, regions only", wide, True),
            ("first", usual, False),
            ("edit", wide, True),
            ("no edit", wide, True),
        ):
            if not keeps:
                shutil.rmtree(proofs, ignore_errors=True)
            said = spawned(name, width, folder, case)
            found[case].append(said)
            console.say(f"{name}, {case}: {said}")
    return [_row(name, case, runs) for case, runs in found.items()]


def _row(name: str, case: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    keys = (
        *("seconds", "processor_seconds", "build_seconds", "check_seconds"),
        *("proved", "inherited"),
    )
    medians = {key: statistics.median(one[key] for one in runs) for key in keys}
    return {"model": name, "case": case, "rounds": len(runs), **medians}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="models whose name has it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        name, wide, folder, how = given.work
        work(name, int(wide), Path(folder), how)
        return
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        if given.model in name:
            with tempfile.TemporaryDirectory() as folder:
                rows += measure(name, given.rounds, Path(folder))
    result = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[-1], "rows": rows}
    cells = [[row[key] for key in rows[0]] for row in rows]
    text = console.table(list(rows[0]), [[_short(cell) for cell in row] for row in cells])
    print(json.dumps(result) if given.json else text)


def _short(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
