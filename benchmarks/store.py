"""The store: what it costs a cold build, an entry, a listing; and whether it holds when killed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nexus_compiler import CompileOptions, GraphBuilder, compile
from nexus_compiler.build import Memory
from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store import prune
from nexus_compiler.store.door import OBJECTS, About, Entry
from nexus_compiler.store.local import LocalStore

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from store_faults import Trial


class NoStore:
    """See `Store`; keeps nothing."""

    def get(self, bucket: str, fingerprint: Fingerprint) -> bytes | None:
        return None

    def put(self, bucket: str, fingerprint: Fingerprint, payload: bytes) -> None:
        pass

    def get_or_build(
        self, bucket: str, fingerprint: Fingerprint, build: Callable[[], bytes]
    ) -> tuple[bytes, bool]:
        return build(), False

    def about(self, bucket: str, digest: str) -> About | None:
        return None

    def factors(self, bucket: str, digest: str) -> tuple[Factor, ...] | None:
        return None

    def entries(self, bucket: str) -> Iterator[Entry]:
        return iter(())

    def close(self) -> None:
        pass


def network() -> GraphBuilder:
    """Twelve dense layers of different widths: 24 kernels or more, all different."""
    graph = GraphBuilder().input("x", (64, 256))
    for index in range(12):
        graph = graph.dense(256 + 32 * index, activation="relu")
    return graph


def cold(rounds: int) -> dict[str, float]:
    """A build with an empty store against one with none, in turns: processor seconds, medians."""

    def seconds(store: LocalStore | NoStore) -> float:
        begin = time.process_time()
        compile(
            network(),
            targets=["native"],
            options=CompileOptions(store=store, jobs=1, memory=Memory()),
        )
        return time.process_time() - begin

    seconds(NoStore())
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds):
        without = seconds(NoStore())
        with tempfile.TemporaryDirectory() as root:
            pairs.append((seconds(LocalStore(Path(root))), without))
            prune.wait(Path(root))
    return {
        "cold_with_s": statistics.median(pair[0] for pair in pairs),
        "cold_without_s": statistics.median(pair[1] for pair in pairs),
        "cold_ratio": statistics.median(a / b for a, b in pairs),
    }


def entries(count: int) -> dict[str, float]:
    """What one entry of 20 kB costs, and a listing of many: medians of the thread's time."""

    def median(work: Callable[[Fingerprint], object]) -> float:
        times: list[float] = []
        for key in keys:
            begin = time.thread_time()
            work(key)
            times.append(time.thread_time() - begin)
        return statistics.median(times) * 1e6

    payload = np.random.default_rng(0).bytes(20_000)
    keys = [Fingerprint((("content", str(number)),)) for number in range(count)]
    with tempfile.TemporaryDirectory() as root:
        store = LocalStore(Path(root))
        found = {
            "miss_us": median(lambda key: store.get_or_build(OBJECTS, key, lambda: payload)),
            "hit_us": median(lambda key: store.get(OBJECTS, key)),
            "about_us": median(lambda key: store.about(OBJECTS, key.digest)),
        }
        prune.wait(Path(root))
        begin = time.thread_time()
        prune.prune(Path(root), 10**12, now=0)
        listed = (time.thread_time() - begin) / count
    return found | {"prune_us_an_entry": listed * 1e6}


def killed(rounds: int) -> dict[str, float]:
    """Eight processes, one killed a round; raises where a promise is broken."""
    with tempfile.TemporaryDirectory() as root:
        trial = Trial(Path(root), processes=8, limit=10**12, seed=0)
        for _ in range(rounds):
            trial.play()
        return {f"faults_{name}": value for name, value in trial.finish().items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="of cold builds")
    options.add_argument("--kills", type=int, default=1000, help="rounds of killed processes")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    found = cold(given.rounds) | entries(5000) | killed(given.kills)
    found = {name: round(value, 4) for name, value in found.items()}
    text = json.dumps(found) if given.json else "\n".join(f"{k:28} {v}" for k, v in found.items())
    print(text)


if __name__ == "__main__":
    main()
