"""What the benchmarks share: the machine's speed, the contest, the table."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

from nexus_compiler.cli import console
from nexus_compiler.verify import timing

Contenders = dict[str, Callable[[], object]]


def arguments(description: str) -> argparse.Namespace:
    """The options that all benchmarks have; sets the thread count before any pool is made."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    if given.threads == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return given


def product_gflops() -> float:
    """GFLOP/s of NumPy's 1024³ float32 product, best of five: what this machine does at least."""
    a = np.ones((1024, 1024), np.float32)
    best = min(_seconds(lambda: a @ a) for _ in range(5))
    return 2 * 1024**3 / best / 1e9


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def contest(name: str, contenders: Contenders, rounds: int) -> dict[str, object]:
    """One row: medians and p99 of all, and how much slower than Nexus each peer is."""
    timings = {one.name: one for one in timing.alternate(contenders, rounds=rounds)}
    own = timings["nexus"]
    row: dict[str, object] = {"case": name}
    for one in timings.values():
        row[one.name] = {"median": one.median, "p99": one.p99, "ratio": one.median / own.median}
    console.say(f"  {name}: done")
    return row


def report(title: str, rows: list[dict[str, object]], given: argparse.Namespace) -> None:
    """Print all rows as a table, or as JSON."""
    peak = product_gflops()
    value = {"title": title, "threads": given.threads, "product_gflops": peak, "rows": rows}
    if given.json:
        print(json.dumps(value))
        return
    peers = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    cells = [[row["case"], *(_cell(row.get(peer)) for peer in peers)] for row in rows]
    print(f"{title}, {given.threads} thread(s), NumPy's product: {peak:.0f} GFLOP/s")
    print(console.table(("median / p99 (ratio)", *peers), cells))


def _cell(entry: object) -> str:
    if not isinstance(entry, dict):
        return "-"
    median, p99 = console.seconds(entry["median"]), console.seconds(entry["p99"])
    return f"{median} / {p99} ({entry['ratio']:.2f}x)"
