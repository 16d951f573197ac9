"""Many processes on one store, killed at random points, and what must hold all the while.

`python tests/store_faults.py --rounds 1000` is the long run, tests/unit has a short one.
In every round one process dies by SIGKILL in the midst of its work, and one entry is damaged. A
process stops the run if it was given anything but the right bytes (a wrong hit, a torn entry). This
one, which looks on, stops it if an entry is gone that was there, or if nothing moves any more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store import layout, locks, prune
from nexus_compiler.store.door import OBJECTS
from nexus_compiler.store.local import LocalStore

WINDOW = 24  # keys that the processes fight for at a time
STUCK_SECONDS = 60


def key(number: int) -> Fingerprint:
    return Fingerprint((("content", str(number)),))


def payload(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (1 + number * 7919 % 4000)


def work(root: Path, limit: int, first: int, seed: int) -> None:
    """Ask for one key after the other, and say on stdout which was there or was built."""
    store, chance = LocalStore(root, limit=limit), random.Random(seed)
    while True:
        number = first + chance.randrange(WINDOW)
        data, reused = store.get_or_build(OBJECTS, key(number), lambda n=number: payload(n))
        said = f"{number} {int(reused)} {int(data == payload(number))}\n"
        os.write(1, said.encode())
        first += chance.randrange(4) == 0


class Fault(Exception):
    """A promise of the store was broken."""


class Trial:
    """`processes` on one store; `play` is a round."""

    def __init__(self, root: Path, *, processes: int, limit: int, seed: int) -> None:
        self.store = LocalStore(root, limit=limit)
        self.asked = self.built = self.damaged = self.killed = 0
        self._hit: set[int] = set()  # keys whose entries we damaged
        self._root, self._limit, self._chance = root, limit, random.Random(seed)
        self._newest = 0
        self._there: set[int] = set()
        self._ready = selectors.DefaultSelector()
        self._workers = [self._start() for _ in range(processes)]

    def _start(self) -> subprocess.Popen[bytes]:
        first = max(0, self._newest - WINDOW)
        seed = self._chance.randrange(2**32)
        given = [str(self._root), str(self._limit), str(first), str(seed)]
        worker = subprocess.Popen(
            [sys.executable, __file__, "--work", *given], stdout=subprocess.PIPE
        )
        self._ready.register(worker.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        return worker

    def play(self, *, kill: bool = True) -> None:
        """Listen for a while, damage an entry, kill a process at whatever it does, look."""
        for _ in range(self._chance.randrange(1, 20)):
            self._listen()
        if self._chance.random() < 0.5:
            self._damage()
        if kill:
            victim = self._chance.randrange(len(self._workers))
            self._end(self._workers[victim])
            self._workers[victim] = self._start()
        self._look()

    def _listen(self) -> None:
        events = self._ready.select(STUCK_SECONDS)
        if not events:
            raise Fault(f"nothing has moved for {STUCK_SECONDS} s: is a lock left over?")
        for event, _ in events:
            worker = event.data
            # Lines are shorter than PIPE_BUF, but a read may end within one.
            text = os.read(event.fd, 65536)
            if not text:
                raise Fault(f"a process ended by itself with {worker.wait()}")
            self._hear(text)

    def _hear(self, text: bytes) -> None:
        for line in text.split(b"\n"):
            words = line.split()
            if len(words) != 3 or not text.endswith(b"\n"):
                continue
            number, reused, right = map(int, words)
            if not right:
                raise Fault(f"wrong bytes for key {number}")
            self.asked += 1
            self.built += not reused
            self._there.add(number)
            self._newest = max(self._newest, number)

    def _damage(self) -> None:
        number = self._chance.choice(sorted(self._there)) if self._there else 0
        path = self.store.path(OBJECTS, key(number).digest)
        if not path.exists():
            return
        data = bytearray(path.read_bytes())
        data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        aside = path.with_name(f".damage-{os.getpid()}")
        aside.write_bytes(data if self._chance.random() < 0.5 else data[: len(data) // 2])
        aside.replace(path)
        self._hit.add(number)
        self.damaged += 1

    def _end(self, worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdout is not None
        worker.kill()
        worker.wait()
        self._ready.unregister(worker.stdout)
        worker.stdout.close()
        self.killed += 1

    def _look(self) -> None:
        if self._limit < 10**9:  # pruned entries are rightly gone
            return
        if self.built > len(self._there) + self.damaged:
            raise Fault(f"{self.built} builds of {len(self._there)} keys, {self.damaged} damaged")
        recent = sorted(self._there - self._hit)[-2 * WINDOW :]
        for number in recent:
            if self.store.get(OBJECTS, key(number)) != payload(number):
                raise Fault(f"the entry of key {number} was there and is lost")

    def finish(self) -> dict[str, float]:
        """Kill everybody; then everything must be as if nobody had been there."""
        for worker in self._workers:
            self._end(worker)
        self._ready.close()
        for lock in layout.locks_path(self._root).iterdir():
            with locks.held(lock, wait=False) as mine:
                if not mine:
                    raise Fault(f"the lock {lock.name} is held by nobody, and still held")
        ours = {key(number).digest for number in self._hit}
        for entry in self.store.entries(OBJECTS):
            if not self.store.check(OBJECTS, entry.digest) and entry.digest not in ours:
                raise Fault(f"the entry {entry.digest} is torn")
        for number in self._hit:
            healed, _ = self.store.get_or_build(OBJECTS, key(number), lambda n=number: payload(n))
            if healed != payload(number):
                raise Fault(f"the entry of key {number} is wrong after it was damaged")
        prune.wait(self._root)
        done = prune.prune(self._root, self._limit, now=time.time() + 10**6)
        held = [path.name for path in self._root.rglob("*") if path.is_file()]
        if left := [name for name in held if name.startswith((".", OBJECTS))]:
            raise Fault(f"left over: {left[:3]}")
        if done is None or done.left > self._limit:
            raise Fault(f"the store is larger than its limit: {done}")
        return {
            "asked": self.asked,
            "built": self.built,
            "killed": self.killed,
            "damaged": self.damaged,
            "left_over_temporaries": done.entries,
        }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=1000)
    options.add_argument("--processes", type=int, default=8)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--limit", type=int, default=10**12)
    options.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        root, *numbers = given.work
        work(Path(root), *map(int, numbers))
    with tempfile.TemporaryDirectory() as root:
        begin = time.perf_counter()
        trial = Trial(Path(root), processes=given.processes, limit=given.limit, seed=given.seed)
        for _ in range(given.rounds):
            trial.play()
        said = trial.finish() | {"rounds": given.rounds}
        said["seconds"] = round(time.perf_counter() - begin, 1)
        print(json.dumps(said))


if __name__ == "__main__":
    main()
