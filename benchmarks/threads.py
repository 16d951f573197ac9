"""One thread against two, alone and beside ONNX Runtime's spinning threads: ours, TVM's pool, ORT.

A pool spins on after its call, and TVM's has one size per process: each launcher gets a process of
its own, in turns. "Beside" is a call right after one of an ONNX Runtime that spins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nexus_compiler.cli import console

QUIET = 0.05  # seconds after which nobody spins any more
SHAPE = (1, 3, 224, 224)
PROCESSES = ("claiming", "tvm", "onnxruntime")


def export(network: str, directory: Path) -> Path:
    """`network` of networks.py as an ONNX file, and compiled beside it."""
    import networks
    import torch

    import nexus_compiler

    torch.manual_seed(0)
    path = directory / f"{network}.onnx"
    example = (torch.zeros(SHAPE),)
    torch.onnx.export(
        getattr(networks, network)().eval(),
        example,
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["x"],
    )
    nexus_compiler.compile(path, shapes={"x": SHAPE}).save(path.with_suffix(".nxa"))
    return path


def session(path: Path, threads: int) -> Callable[[np.ndarray], object]:
    """ONNX Runtime as it is by default: its threads spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: opened.run(None, {"x": x})


def contenders(kind: str, path: Path) -> dict[str, Callable[[np.ndarray], object]]:
    """The calls that the process for `kind` times."""
    if kind == "onnxruntime":
        return {f"onnxruntime, {count}": session(path, count) for count in (1, 2)}
    os.environ["NEXUS_LAUNCHER"] = kind
    import nexus_runtime

    counts = (1, 2) if kind == "claiming" else (2,)
    artifact = path.with_suffix(".nxa")
    return {f"{kind}, {n}": nexus_runtime.load(artifact, num_threads=n) for n in counts}


def measure(kind: str, path: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, alone and beside."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    calls, spinner = contenders(kind, path), session(path, 2)
    samples: dict[str, list[float]] = {}
    for name, call in calls.items():
        for beside in (False, True):
            times = samples[f"{name}{', beside' if beside else ''}"] = []
            time.sleep(QUIET)
            for turn in range(rounds + 3):
                if beside:
                    spinner(x)
                begin = time.perf_counter()
                call(x)
                if turn >= 3:
                    times.append(time.perf_counter() - begin)
    return samples


def summary(times: list[float]) -> dict[str, Any]:
    """Milliseconds."""
    ordered = sorted(times)
    last = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {
        "calls": len(ordered),
        "median_ms": statistics.median(ordered) * 1e3,
        "p99_ms": last * 1e3,
        "best_ms": ordered[0] * 1e3,
    }


def run(network: str, rounds: int, repeats: int) -> dict[str, Any]:
    """All processes in turns, `repeats` times."""
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = export(network, Path(directory))
        for _ in range(repeats):
            for kind in PROCESSES:
                command = [sys.executable, __file__, "--process", kind, "--model", str(path)]
                command += ["--rounds", str(rounds)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                for name, times in json.loads(done.stdout.splitlines()[-1]).items():
                    samples.setdefault(name, []).extend(times)
    rows = {name: summary(times) for name, times in samples.items()}
    ours = {name: row["median_ms"] for name, row in rows.items()}
    return {
        "network": network,
        "load": os.getloadavg()[0],
        "speedup_of_two": ours["claiming, 1"] / ours["claiming, 2"],
        "p99_over_median_beside": rows["claiming, 2, beside"]["p99_ms"]
        / ours["claiming, 2, beside"],
        "rows": rows,
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50", help="a function of networks.py")
    parser.add_argument("--rounds", type=int, default=50, help="calls of each, per process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", choices=PROCESSES, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        print(json.dumps(measure(given.process, given.model, given.rounds)))
        return
    value = run(given.network, given.rounds, given.repeats)
    if given.json:
        print(json.dumps(value))
        return
    cells = [
        (name, *(f"{row[key]:.2f}" for key in ("median_ms", "p99_ms", "best_ms")))
        for name, row in value["rows"].items()
    ]
    print(console.table(("threads", "median ms", "p99 ms", "best ms"), cells))
    print(
        f"{value['network']}: two threads {value['speedup_of_two']:.2f}x one; beside spinning "
        f"threads p99 is {value['p99_over_median_beside']:.2f}x the median; "
        f"load of the machine {value['load']:.1f}"
    )


if __name__ == "__main__":
    main()
