"""Import, load and first call of the runtime in a fresh process: seconds and memory."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FRESH = """
import json, sys, time
begin = time.perf_counter()
import nexus_runtime
imported = time.perf_counter()
module = nexus_runtime.load(sys.argv[1])
loaded = time.perf_counter()
import numpy as np
module(np.ones((1, 784), np.float32))
called = time.perf_counter()
kib = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
print(json.dumps({"import": imported - begin, "load": loaded - imported,
                  "first call": called - loaded, "mib": kib / 1024}))
"""


def main() -> None:
    """Measure ten processes and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    from nexus_compiler import GraphBuilder, compile

    builder = GraphBuilder().input("x", (None, 784)).dense(256, activation="relu").dense(10)
    with tempfile.TemporaryDirectory() as directory:
        path = compile(builder).save(Path(directory) / "mlp.nxa")
        command = [sys.executable, "-c", FRESH, str(path)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            for _ in range(10)
        ]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if given.json:
        print(json.dumps(medians))
        return
    for key, value in medians.items():
        print(f"{key:<12}{value:8.1f} MiB" if key == "mib" else f"{key:<12}{value * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
