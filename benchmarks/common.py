"""What the benchmarks share: options, the contest, rows and the table."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from nexus_compiler.cli import console
from nexus_compiler.profile import roofline
from nexus_compiler.verify import compare, timing

Call = Callable[[], Sequence[Any]]
# A contender keeps its turn so long, so that a peer's spinning threads and its cache lines are
# gone; and a workload may take so long altogether. Seconds.
TURN, BUDGET, FEWEST = 0.002, 20.0, 7


@dataclass(frozen=True)
class Workload:
    """One row: how to make its contenders ready.

    Attributes:
        name: unique; `--filter` looks into it.
        prepare: makes Nexus' call, and by peer's name what makes the peer's.
        goal: what `ratio_best_peer` is to reach.
        bound: how far outputs may be apart, relative, where it is more than rounding explains.
    """

    name: str
    prepare: Callable[[], tuple[Call, Mapping[str, Callable[[], Call]]]]
    goal: float = 1.0
    bound: float = 0.0


@dataclass
class Row:
    """What was measured of a workload; times in milliseconds."""

    workload: str
    goal: float
    nexus_ms: float | None = None
    nexus_p99_ms: float | None = None
    nexus_best_ms: float | None = None
    peers_ms: dict[str, float] = field(default_factory=dict)
    peers_p99_ms: dict[str, float] = field(default_factory=dict)
    peers_best_ms: dict[str, float] = field(default_factory=dict)
    best_peer: str = ""
    ratio_best_peer: float | None = None
    max_rel: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def arguments(description: str) -> argparse.Namespace:
    """The options that all benchmarks have; sets the thread count before any pool is made."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50, help="turns of each, at most")
    parser.add_argument("--filter", default="", metavar="RE", help="workloads whose name has it")
    parser.add_argument("--peers", default="", metavar="RE", help="peers whose name has it")
    parser.add_argument("--limit", type=float, default=600, help="seconds for a workload")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    count = str(given.threads)
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ[name] = count
    cores = sorted(os.sched_getaffinity(0))
    # All pools, those that take no option too, see as many cores as there are threads.
    os.sched_setaffinity(0, cores[-given.threads :])
    return given


def quiet() -> None:
    """Keep the peers' talk off the terminal."""
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)


def measure(workloads: Sequence[Workload], given: argparse.Namespace) -> list[Row]:
    """Rows of all workloads that `--filter` takes, each measured in a process of its own.

    So a crash, a compiler's global switch or memory that is not given back is one row's matter: a
    workload that fails says so in its row.
    """
    if given.only is not None:
        workload = next(w for w in workloads if w.name == given.only)
        row = Row(workload.name, workload.goal)
        try:
            _fill(row, workload, given)
        except Exception as error:
            row.errors["nexus"] = _line(error)
            console.say(traceback.format_exc())
        print(json.dumps(vars(row)), flush=True)
        # Some peers' threads crash when they are ended in order.
        os._exit(0)
    return [_apart(w, given) for w in workloads if re.search(given.filter, w.name)]


def _apart(workload: Workload, given: argparse.Namespace) -> Row:
    begin = time.perf_counter()
    command = [sys.executable, *sys.argv, "--only", workload.name]
    row = Row(workload.name, workload.goal)
    try:
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, text=True, timeout=given.limit
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"workload"')]
        if lines:
            row = Row(**json.loads(lines[-1]))
        else:
            row.errors["nexus"] = f"the process ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        row.errors["nexus"] = f"took longer than {given.limit} s altogether"
    ratio = "-" if row.ratio_best_peer is None else f"{row.ratio_best_peer:.2f}"
    console.say(f"{row.workload}: {ratio} {row.errors or ''} ({time.perf_counter() - begin:.0f} s)")
    return row


def _fill(row: Row, workload: Workload, given: argparse.Namespace) -> None:
    own, peers = workload.prepare()
    contenders: dict[str, Call] = {}
    expected: Sequence[Any] = []
    for name, make in peers.items():
        if not re.search(given.peers, name):
            continue
        try:
            call = make()
            outputs = _arrays(call())
            if contenders and (far := _distance(outputs, expected)):
                row.max_rel[name] = far[1]
                if not far[0] and far[1] > workload.bound:
                    raise ValueError(f"outputs are {far[1]:.2g} off the first peer's")
            expected = expected or outputs
            contenders[name] = call
        except Exception as error:
            row.errors[name] = _line(error)
            console.say(f"{row.workload}, {name}: {row.errors[name]}")
    close, far = _distance(_arrays(own()), expected) if expected else (True, 0.0)
    row.max_rel["nexus"] = far
    if not close and far > workload.bound:
        row.errors["nexus"] = f"outputs are {far:.2g} off the first peer's"
    _race(row, {"nexus": own, **contenders}, given.rounds)


def _race(row: Row, contenders: dict[str, Call], rounds: int) -> None:
    """Let all take turns, as many as there is time for."""
    first = {name: _once(call) for name, call in contenders.items()}
    total = sum(max(TURN, 2 * seconds) for seconds in first.values())
    row.rounds = max(FEWEST, min(rounds, int(BUDGET / total)))
    for one in timing.alternate(contenders, rounds=row.rounds, turn=TURN):
        median, p99, best = one.median * 1e3, one.p99 * 1e3, one.best * 1e3
        if one.name == "nexus":
            row.nexus_ms, row.nexus_p99_ms, row.nexus_best_ms = median, p99, best
        else:
            row.peers_ms[one.name], row.peers_p99_ms[one.name] = median, p99
            row.peers_best_ms[one.name] = best
    if row.peers_ms and row.nexus_ms:
        row.best_peer = min(row.peers_ms, key=row.peers_ms.__getitem__)
        row.ratio_best_peer = row.peers_ms[row.best_peer] / row.nexus_ms


def _once(call: Call) -> float:
    call()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _arrays(outputs: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(one) for one in outputs]


def _distance(found: list[np.ndarray], expected: Sequence[np.ndarray]) -> tuple[bool, float]:
    """Whether rounding explains the differences, and the largest of them, relative."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} outputs instead of {len(expected)}")
    names = [str(index) for index in range(len(found))]
    # IREE and JAX have their own integers and drop the batch of scalars.
    same = [a.astype(b.dtype).reshape(b.shape) for a, b in zip(found, expected)]
    all_of_them = compare.compare(dict(zip(names, same)), dict(zip(names, expected)))
    return all(d.passed for d in all_of_them), max((d.max_rel for d in all_of_them), default=0.0)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"


def report(title: str, rows: list[Row], given: argparse.Namespace) -> None:
    """Print all rows as a table, or as JSON, beside what the machine can do."""
    machine = msgspec.to_builtins(roofline.load(given.threads), str_keys=True)
    if given.json:
        value = {"title": title, "threads": given.threads, "machine": machine}
        value |= {"cores": os.cpu_count(), "load": os.getloadavg()[-1]}
        print(json.dumps({**value, "rows": [vars(row) for row in rows]}))
        return
    peers = list(dict.fromkeys(name for row in rows for name in (*row.peers_ms, *row.errors)))
    peers = [name for name in peers if name != "nexus"]
    cells = [
        (row.workload, _cell(row, "nexus"), *(_cell(row, peer) for peer in peers), _ratio(row))
        for row in rows
    ]
    rates = {name: f"{rate:.0f} GFLOP/s" for name, rate in machine["gflops"].items()}
    print(f"{title}, {given.threads} thread(s); {machine['machine']}: {rates}")
    print(console.table(("median / p99, ms", "nexus", *peers, "best peer / nexus"), cells))
    sys.stdout.flush()


def _ratio(row: Row) -> str:
    return "-" if row.ratio_best_peer is None else f"{row.ratio_best_peer:.2f} ({row.best_peer})"


def _cell(row: Row, name: str) -> str:
    median = row.nexus_ms if name == "nexus" else row.peers_ms.get(name)
    p99 = row.nexus_p99_ms if name == "nexus" else row.peers_p99_ms.get(name)
    if median is None or p99 is None:
        return "failed" if name in row.errors else "-"
    return f"{median:.4g} / {p99:.4g}" + (" (wrong)" if name in row.errors else "")
