"""Spreads cases over processes, and outlives those that crash or hang."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from nexus_compiler.verify.conformance import worker
from nexus_compiler.verify.conformance.worker import Verdict

START_SECONDS = 300.0
"""A process imports TVM and makes all cases before its first; on a busy machine that is long."""

Progress = Callable[[str, int, int], None]


@dataclass
class _Worker:
    process: Any
    pipe: Any
    case: str = ""
    deadline: float = 0.0
    waiting_for: list[str] = field(default_factory=list[str])


@dataclass
class Runner:
    """One run.

    Attributes:
        jobs: processes at once.
        timeout: seconds for one case.
        against: whether ONNX Runtime runs every case, too.
        progress: told how many cases are done.
    """

    jobs: int
    timeout: float
    against: bool
    progress: Progress
    _todo: deque[str] = field(default_factory=deque[str])
    _workers: list[_Worker] = field(default_factory=list[_Worker])
    _found: dict[str, dict[str, Verdict]] = field(default_factory=dict[str, dict[str, Verdict]])

    def run(self, names: Sequence[str]) -> dict[str, dict[str, Verdict]]:
        """Verdicts by case, and by who was judged."""
        self._todo.extend(names)
        self._found = {name: {} for name in names}
        self.progress("conformance", 0, len(names))
        try:
            for _ in range(min(self.jobs, len(names))):
                self._workers.append(self._start())
            while self._workers:
                self._turn()
        finally:
            for one in self._workers:
                one.process.kill()
        return self._found

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork of a process that used TVM hangs
        here, there = context.Pipe()
        process = context.Process(target=worker.main, args=(there, self.against), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here, deadline=time.monotonic() + START_SECONDS)

    def _turn(self) -> None:
        """Wait for the next answer, death or deadline, and deal with it."""
        nearest = min(one.deadline for one in self._workers)
        pipes = [one.pipe for one in self._workers]
        ready = connection.wait(pipes, max(0.0, nearest - time.monotonic()))
        for one in list(self._workers):
            if one.pipe in ready:
                self._receive(one)
            elif time.monotonic() >= one.deadline:
                self._replace(one, f"not done after {self.timeout:g} s")

    def _receive(self, one: _Worker) -> None:
        try:
            answer = one.pipe.recv()
        except (EOFError, ConnectionResetError):
            one.process.join(10)
            self._replace(one, f"the process ended with status {one.process.exitcode}")
            return
        if answer is not None:
            who, verdict = answer
            self._judge(one, who, verdict)
        if not one.waiting_for:
            self._next(one)

    def _judge(self, one: _Worker, who: str, verdict: Verdict) -> None:
        self._found[one.case][who] = verdict
        one.waiting_for.remove(who)
        one.deadline = time.monotonic() + self.timeout
        if not one.waiting_for:
            done = sum(1 for verdicts in self._found.values() if self._complete(verdicts))
            self.progress("conformance", done, len(self._found))

    def _complete(self, verdicts: dict[str, Verdict]) -> bool:
        return len(verdicts) == 1 + self.against

    def _next(self, one: _Worker) -> None:
        if not self._todo:
            one.pipe.send(None)
            self._workers.remove(one)
            one.process.join(10)
            return
        one.case = self._todo.popleft()
        one.waiting_for = [worker.OURS, *([worker.PEER] if self.against else [])]
        one.deadline = time.monotonic() + self.timeout
        one.pipe.send(one.case)

    def _replace(self, one: _Worker, reason: str) -> None:
        if not one.case:
            raise RuntimeError(f"a process of the conformance run cannot start: {reason}")
        one.process.kill()
        one.process.join(10)
        self._workers.remove(one)
        if one.waiting_for:
            # Who was at work is to blame; the other one, if it is still to come, was not seen.
            self._judge(one, one.waiting_for[0], Verdict("crash", reason))
        for who in list(one.waiting_for):
            self._judge(one, who, Verdict("crash", "not run: the process ended before"))
        if self._todo:
            self._workers.append(self._start())
