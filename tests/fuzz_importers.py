"""Feeds broken models to the compiler: it may refuse them, but never crash, hang or eat the memory.

`python tests/fuzz_importers.py --seconds 600` goes through mutants of small models, of ONNX's own
test cases (`--cases`) and of the zoo (`--zoo`), in processes with limits of time and memory. What
comes out other than an artifact or a `NexusError` is printed once for each place, and its model
kept in `--keep`. `--from` begins where an earlier campaign ended; a mutant's name always means the
same, and `--only NAME:NUMBER` repeats it in this process.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).parent))

import onnx_mutants
import onnx_seeds
import zoo

START_SECONDS = 300.0
_EVERY = 4
"""Of so many captured mutants one is compiled: that takes a hundred times as long."""


def seeds(cases: bool, real: bool) -> dict[str, onnx.ModelProto]:
    """The models that mutants are made of, by name."""
    found = onnx_seeds.seeds()
    if cases:
        from nexus_compiler.verify.conformance import cases as conformance

        found |= {case.name: case.model for case in conformance.load()}
    if real:
        found |= {name: onnx.load(zoo.fetch(name)) for name in zoo.models()}
    return found


def judge(data: bytes, folder: Path, *, build: bool) -> str:
    """What becomes of a model: "artifact", the class of a `NexusError`, or a finding after "!"."""
    from nexus_compiler.frontend import capture
    from nexus_compiler.pipeline import CompileOptions, compile
    from nexus_compiler.store.local import LocalStore
    from nexus_runtime.errors import InternalError, NexusError

    path = folder / "mutant.onnx"
    path.write_bytes(data)
    try:
        graph = capture(path)
        if not build:
            return "captured"
        compile(graph, options=CompileOptions(store=LocalStore(folder), jobs=1))
    except InternalError as error:
        return f"! InternalError: {error.message[:300]}"
    except NexusError as error:
        return type(error).__name__ if error.message.strip() else "! an error without a message"
    except Exception as error:  # these are what the campaign looks for
        return f"! {type(error).__name__} at {_place(error)}: {str(error).strip()[-200:]}"
    return "artifact"


def _place(error: Exception) -> str:
    """The last line of our own that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "nexus_" in f.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _work(pipe: Any, cases: bool, real: bool, megabytes: int) -> None:
    """Answer each (seed, number) from `pipe` with a verdict."""
    warnings.simplefilter("ignore")
    known = seeds(cases, real)
    import nexus_compiler.pipeline  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        pipe.send(sorted(known))
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        while True:
            name, number = pipe.recv()
            data = onnx_mutants.mutant(known[name], number)
            pipe.send(judge(data, Path(folder), build=number % _EVERY == 0))


@dataclass
class Worker:
    """A process that judges mutants, replaced when one ends it."""

    arguments: tuple[bool, bool, int]
    process: Any = None
    pipe: Any = None

    def start(self) -> list[str]:
        """Start it; the names of its seeds."""
        context = multiprocessing.get_context("spawn")  # a fork of a process that used TVM hangs
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, *self.arguments), daemon=True)
        self.process.start()
        there.close()
        if not self.pipe.poll(START_SECONDS):
            raise SystemExit("the process that judges does not start")
        return self.pipe.recv()

    def judge(self, name: str, number: int, limit: float) -> str:
        """The verdict on one mutant; a crash and a hang are findings, too."""
        self.pipe.send((name, number))
        try:
            if self.pipe.poll(limit):
                return self.pipe.recv()
            reason = f"! not done after {limit:g} s"
        except (EOFError, ConnectionResetError):
            self.process.join(10)
            reason = f"! the process ended with status {self.process.exitcode}"
        self.stop()
        self.start()
        return reason

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join(10)


class Campaign:
    """What came out so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._counts: collections.Counter[str] = collections.Counter()

    def note(self, name: str, number: int, verdict: str) -> None:
        """Count a verdict; show and keep the first of each kind that is a finding."""
        kind = verdict.split(": ", maxsplit=1)[0]
        self._counts[kind] += 1
        if verdict.startswith("!") and self._counts[kind] <= 3:
            print(f"{name}:{number} {verdict}", flush=True)
            if self._options.keep:
                self._options.keep.mkdir(parents=True, exist_ok=True)
                seed = seeds(self._options.cases, self._options.zoo)[name]
                path = self._options.keep / f"{name}-{number}.onnx"
                path.write_bytes(onnx_mutants.mutant(seed, number))

    def report(self) -> int:
        """Print the counts; 1 where something was found, else 0."""
        for kind, count in self._counts.most_common():
            print(f"{count:7} {kind}")
        return int(any(kind.startswith("!") for kind in self._counts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on (600)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first one")
    parser.add_argument("--cases", action="store_true", help="mutate ONNX's own test cases, too")
    parser.add_argument("--zoo", action="store_true", help="mutate the models of the zoo, too")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one mutant (60)")
    parser.add_argument("--megabytes", type=int, default=8192, help="address space (8192)")
    parser.add_argument("--keep", type=Path, help="folder for the models that were found")
    parser.add_argument("--only", help="judge one mutant, NAME:NUMBER, in this process")
    return parser.parse_args()


def main() -> int:
    """Run a campaign; status 1 where something was found."""
    options = _options()
    if options.only:
        name, _, number = options.only.rpartition(":")
        data = onnx_mutants.mutant(seeds(options.cases, options.zoo)[name], int(number))
        with tempfile.TemporaryDirectory() as folder:
            print(judge(data, Path(folder), build=int(number) % _EVERY == 0))
        return 0
    worker, campaign = Worker((options.cases, options.zoo, options.megabytes)), Campaign(options)
    names = worker.start()
    end, number = time.monotonic() + options.seconds, options.first
    while time.monotonic() < end:
        name = names[number % len(names)]
        campaign.note(name, number, worker.judge(name, number, options.limit))
        number += 1
    worker.stop()
    print(f"{number - options.first} mutants, the next is number {number}")
    return campaign.report()


if __name__ == "__main__":
    sys.exit(main())
