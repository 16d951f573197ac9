"""Spreads cases over processes, and outlives those that crash or hang."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Protocol

from nexus_compiler.verify.conformance import worker
from nexus_compiler.verify.conformance.worker import Task, Verdict

START_SECONDS = 300.0
"""A process imports TVM and makes all cases before its first; on a busy machine that is long."""

Progress = Callable[[str, int, int], None]


class Process(Protocol):
    """A process that judges tasks; `worker.main` is what runs in it."""

    def send(self, task: Task | None) -> None:
        """Give it a task; None ends it."""
        ...

    def receive(self) -> Verdict | None:
        """What it says: None that it is ready, else a verdict; EOFError where it is gone."""
        ...

    def end(self, *, kill: bool) -> int | None:
        """Wait for its end, or make it end; its exit status."""
        ...


class Pool(Protocol):
    """Where processes and time come from."""

    def start(self) -> Process:
        """A new process."""
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def wait(self, processes: Sequence[Process], seconds: float) -> list[Process]:
        """Those that have something to say, as soon as one has; none after so many seconds."""
        ...


class _Spawned:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process that used TVM hangs
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=worker.main, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def send(self, task: Task | None) -> None:
        self.pipe.send(task)

    def receive(self) -> Verdict | None:
        try:
            return self.pipe.recv()
        except ConnectionResetError as error:
            raise EOFError from error

    def end(self, *, kill: bool) -> int | None:
        if kill:
            self._process.kill()
        self._process.join(10)
        return self._process.exitcode


class Processes:
    """Processes of this machine, and its clock."""

    def start(self) -> Process:
        """A new process."""
        return _Spawned()

    def now(self) -> float:
        """Seconds of a clock that is never set back."""
        return time.monotonic()

    def wait(self, processes: Sequence[Any], seconds: float) -> list[Process]:
        """Those with something to read, or that are gone."""
        ready = connection.wait([process.pipe for process in processes], seconds)
        return [process for process in processes if process.pipe in ready]


@dataclass
class _Place:
    process: Process
    deadline: float
    task: Task | None = None


@dataclass
class Runner:
    """One run.

    Attributes:
        jobs: processes at once.
        timeout: seconds for one task.
        progress: told how many tasks are done.
        pool: where processes and time come from.
    """

    jobs: int
    timeout: float
    progress: Progress
    pool: Pool = field(default_factory=Processes)
    _todo: deque[Task] = field(default_factory=deque[Task])
    _places: list[_Place] = field(default_factory=list[_Place])
    _found: dict[Task, Verdict] = field(default_factory=dict[Task, Verdict])

    def run(self, names: Sequence[str], who: Sequence[str]) -> dict[str, dict[str, Verdict]]:
        """Verdicts on every one of `who`, by case and by who was judged.

        A process that dies or takes too long costs the task that it was at, and no other.
        """
        tasks = [(name, one) for name in names for one in who]
        self._todo.extend(tasks)
        self.progress("conformance", 0, len(tasks))
        try:
            for _ in range(min(self.jobs, len(tasks))):
                self._start()
            while self._places:
                self._turn(len(tasks))
        finally:
            for place in self._places:
                place.process.end(kill=True)
        return {name: {one: self._found[name, one] for one in who} for name in names}

    def _start(self) -> None:
        self._places.append(_Place(self.pool.start(), self.pool.now() + START_SECONDS))

    def _turn(self, total: int) -> None:
        """Wait for the next answer, death or deadline, and deal with it."""
        nearest = min(place.deadline for place in self._places)
        processes = [place.process for place in self._places]
        ready = self.pool.wait(processes, max(0.0, nearest - self.pool.now()))
        for place in list(self._places):
            if place.process in ready:
                self._receive(place)
            elif self.pool.now() >= place.deadline:
                self._replace(place, f"not done after {self.timeout:g} s", kill=True)
        self.progress("conformance", len(self._found), total)

    def _receive(self, place: _Place) -> None:
        try:
            verdict = place.process.receive()
        except EOFError:
            self._replace(place, "the process ended with status {status}", kill=False)
            return
        if verdict is not None and place.task is not None:
            self._found[place.task] = verdict
        self._next(place)

    def _next(self, place: _Place) -> None:
        if not self._todo:
            self._places.remove(place)
            place.process.send(None)
            place.process.end(kill=False)
            return
        place.task = self._todo.popleft()
        place.deadline = self.pool.now() + self.timeout
        place.process.send(place.task)

    def _replace(self, place: _Place, reason: str, *, kill: bool) -> None:
        status = place.process.end(kill=kill)
        reason = reason.format(status=status)
        self._places.remove(place)
        if place.task is None:
            raise RuntimeError(f"a process of the conformance run cannot start: {reason}")
        self._found[place.task] = Verdict("crash", reason)
        if self._todo:
            self._start()
