"""What an edit costs until there is a new result: against torch.compile, JAX, ONNX Runtime and TVM.

One layer of a network gets another width, each time one that was never there before. "Warm" is a
process that has compiled the network before; "new process" is timed from its start, imports
included, with what the contender keeps on disk from before. Every contender has processes of its
own, which take turns, and results are compared. The other cases are of Nexus alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import edits
import store as store_costs
from race import GOALS, PEERS, Race, Row

from nexus_compiler import CompileOptions, capture, compile, plan
from nexus_compiler.build import Memory
from nexus_compiler.cli import console
from nexus_compiler.store.counting import CountingStore
from nexus_compiler.store.local import LocalStore

CASES = (*GOALS, "rebuilt", "depth", "cold", "plan")


def rebuilt(models: dict[str, edits.Model], folder: Path) -> Iterator[Row]:
    """Objects that are built again by edits that change no kernel, without a warm memory."""
    for name, model in models.items():
        store = LocalStore(folder / f"rebuilt-{name}")
        compile(edits.write(model, folder / "before.onnx"), options=_options(store))
        for what, how in {
            "rename everything": {"prefix": "other_"},
            "reorder independent lines": {"backwards": True},
            "new weights": {"seed": 1},
        }.items():
            counting = CountingStore(store)
            compile(edits.write(model, folder / "after.onnx", **how), options=_options(counting))
            row = Row(what, name, "0", counting.built, "kernels rebuilt")
            row.notes = {"kernels reused": counting.reused}
            yield row


def _options(store: Any) -> CompileOptions:
    return CompileOptions(store=store, memory=Memory())


def depth(few: int, many: int, width: int, rounds: int, folder: Path) -> Row:
    """Cold builds of equal layers: the processor's seconds, in turns."""
    models = {
        count: edits.Model("transformer", width, 64, 4 * width, count) for count in (few, many)
    }
    paths = {n: edits.write(one, folder / f"{n}.onnx") for n, one in models.items()}
    seconds: dict[int, list[float]] = {few: [], many: []}
    walls: dict[int, list[float]] = {few: [], many: []}
    objects: dict[int, int] = {}
    for turn in range(rounds):
        for count in (few, many) if turn % 2 else (many, few):
            with tempfile.TemporaryDirectory(dir=folder) as root:
                counting = CountingStore(LocalStore(Path(root)))
                begin, wall = time.process_time(), time.perf_counter()
                compile(paths[count], options=_options(counting))
                seconds[count].append(time.process_time() - begin)
                walls[count].append(time.perf_counter() - wall)
                objects[count] = counting.built
    row = Row(f"{many} equal layers against {few}", f"transformer of {width}", "1.3", unit="times")
    row.runs = [b / a for a, b in zip(seconds[few], seconds[many])]
    row.nexus = statistics.median(row.runs)
    row.notes = {f"processor s, {n} layers": statistics.median(s) for n, s in seconds.items()}
    row.notes |= {f"wall s, {n} layers": statistics.median(s) for n, s in walls.items()}
    row.notes |= {f"objects, {n} layers": count for n, count in objects.items()}
    return row


def cold(rounds: int) -> Row:
    """See `store.py`."""
    found = store_costs.cold(rounds)
    row = Row("cold build, store against none", "12 dense layers", "1.1", unit="times")
    row.nexus = found.pop("cold_ratio")
    row.notes = found
    return row


def planned(layers: int, width: int, rounds: int, folder: Path) -> Row:
    """Plans of edits in a process that has built the network, from the file on."""
    model = edits.Model("transformer", width, 64, 4 * width, layers)
    options = _options(LocalStore(folder / "plan"))
    path = edits.write(model, folder / "plan.onnx")
    before = compile(path, options=options)
    row = Row("plan", f"transformer of {layers} layers", "0.2 s")
    main = capture(path).module["main"]
    row.notes["nodes"] = sum(len(block.bindings) for block in main.body.blocks)
    for turn in range(1, rounds + 1):
        path = edits.write(model, folder / "plan.onnx", model.usual + 8 * turn)
        begin = time.perf_counter()
        (found,) = plan(path, against=before, options=options)
        row.runs.append(time.perf_counter() - begin)
        row.notes["regions to build"] = found.rebuilds
    row.nexus = statistics.median(row.runs)
    return row


def wanted(given: argparse.Namespace, cases: Any) -> list[str]:
    """Those of `cases` that are asked for."""
    return [case for case in cases if not given.only or case in given.only]


def measure(given: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of all cases that are asked for."""
    models = edits.QUICK if given.quick else edits.FULL
    models = {name: model for name, model in models.items() if given.model in name}
    rows: list[Row] = []
    quick = given.quick
    work: dict[str, Callable[[], Any]] = {
        "rebuilt": lambda: list(rebuilt(models, folder)),
        "depth": lambda: [depth(*((2, 6, 64) if quick else (12, 96, 256)), given.rounds, folder)],
        "cold": lambda: [cold(given.rounds)],
        "plan": lambda: [planned(*((4, 64) if quick else (32, 256)), given.rounds, folder)],
    }
    for case in wanted(given, work):
        rows += work[case]()
        console.say(f"{case}: {[row.nexus for row in rows]}")
    if races := wanted(given, GOALS):
        for name in models:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                rows += Race(name, Path(own), given, races).rows()
    return rows


def result(rows: list[Row], given: argparse.Namespace) -> dict[str, Any]:
    """What `--json` prints: of several models the slowest."""

    def worst(*names: str) -> float | None:
        found = [row.nexus for row in rows if row.case.startswith(names) and row.nexus is not None]
        return max(found, default=None)

    return {
        "edit_warm_s": worst("edit warm"),
        "edit_new_process_s": worst("edit new process"),
        "rename_rebuilt": worst("rename", "reorder", "new weights"),
        "depth_96_over_12": None if given.quick else worst("96 equal"),
        "quick": given.quick,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[-1],
        "rows": [vars(row) for row in rows],
    }


def text(rows: list[Row]) -> str:
    """A table for people."""

    def number(value: float | None, error: str = "") -> str:
        return ("failed" if error else "-") if value is None else f"{value:.4g}"

    head = ("case", "model", "goal", "nexus", "unit", *PEERS, "best compiler / nexus", "notes")
    cells = [
        (
            *(
                row.case,
                row.model,
                row.goal,
                number(row.nexus, row.errors.get("nexus", "")),
                row.unit,
            ),
            *(number(row.peers.get(peer), row.errors.get(peer, "")) for peer in PEERS),
            number(row.ratio_best_compiler),
            ", ".join(f"{name} {number(value)}" for name, value in row.notes.items())
            + "; ".join(f" {name}: {said}" for name, said in row.errors.items()),
        )
        for row in rows
    ]
    return console.table(head, cells)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=CASES, action="append", metavar="CASE", help=", ".join(CASES)
    )
    parser.add_argument("--model", default="", help="models whose name has it")
    parser.add_argument("--quick", action="store_true", help="smaller models")
    parser.add_argument("--peers", default="", metavar="RE", help="peers whose name has it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=60, help="seconds of a contender's edits, about"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given, Path(folder))
    print(json.dumps(result(rows, given)) if given.json else text(rows))
    if (load := os.getloadavg()[-1]) > len(os.sched_getaffinity(0)):
        console.say(f"the machine was busy with other work: load average {load:.1f}")


if __name__ == "__main__":
    main()
