"""Who writes operations down, one recorder a thread and a trace.

A recorder keeps operations until a value is asked for. Then the trace is cut: everything that is
still wanted (its array is held by somebody) is computed as one region, and recording goes on with
the results as known values. That only what is held is computed, and that all of it is, makes the
regions of a loop alike: one turn of it asks for the same values as the next.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import nodes
from nexus_compiler.frontend.tracing.nodes import Graph, Node
from nexus_runtime.errors import InternalError

Engine = Callable[["Recorder", Graph, str], list[np.ndarray]]
"""Computes the outputs of a region; told who asks, and why the trace was cut."""

LIMIT = 4096
"""Operations that wait at most: a loop that never asks for a value must not grow without end."""


@dataclass
class Cut:
    """One region that was run while a tape was on: the graph and the known values it became."""

    graph: Graph
    results: tuple[Node, ...]


@dataclass(eq=False)
class Recorder:
    """The operations that wait.

    Attributes:
        session: whose trace this is; None outside of jitted functions.
        tapes: lists that take every region that is run.
        cuts: how often a value was asked for.
        captured: the trace read an array that is neither an argument nor written in the code.
    """

    engine: Engine
    session: Any = None
    pending: list[Node] = field(default_factory=list)
    tapes: list[list[Cut]] = field(default_factory=list)
    cuts: int = 0
    captured: bool = False
    arguments: set[Node] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, node: Node) -> Node:
        """Write one operation down."""
        for source in node.inputs:
            if source.owner is not None and source.owner is not self:
                raise InternalError("an operation reads a value that waits in another trace")
            if self.session is not None and source.op == "leaf" and not self.captured:
                self.captured = source.origin is not self and source not in self.arguments
        node.owner = self
        if len(self.pending) >= LIMIT:
            self.flush(f"{LIMIT} operations wait")
        self.pending.append(node)
        return node

    def flush(self, reason: str) -> None:
        """Compute every value that is still wanted."""
        with self._lock:
            held = [(node, array) for node in self.pending if (array := node.handle) is not None]
            graph = Graph.of([node for node, _ in held], self.pending)
            for node in self.pending:
                node.owner = None
            self.pending = []
            if not held:
                return
            values = self.engine(self, graph, reason)
            known = [nodes.leaf(value) for value in values]
            for (_, array), result in zip(held, known):
                array.become(result)
            for tape in self.tapes:
                tape.append(Cut(graph, tuple(known)))


class _Threads(threading.local):
    def __init__(self) -> None:
        self.stack: list[Recorder] = []


_threads = _Threads()
_engines: list[Engine] = []


def install(engine: Engine) -> None:
    """Set what computes the regions."""
    _engines[:] = [engine]


def current() -> Recorder:
    """The recorder of the innermost trace of this thread."""
    if not _threads.stack:
        if not _engines:
            raise InternalError("no engine is installed", hint="import nexus_compiler.array_api")
        _threads.stack.append(Recorder(_engines[0]))
    return _threads.stack[-1]


@contextmanager
def tracing(session: Any) -> Generator[Recorder]:
    """A new trace, inside of which every array is recorded apart."""
    base = current()
    recorder = Recorder(base.engine, session)
    _threads.stack.append(recorder)
    try:
        yield recorder
    finally:
        _threads.stack.pop()


def place() -> str:
    """Where in the user's code we are, as "file.py:12"."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("nexus_compiler."):
        frame = frame.f_back
    if frame is None:
        return "?"
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


def force(array: Any, reason: str) -> np.ndarray:
    """The value of an array, which cuts the trace where it is not known yet."""
    node: Node = array.node
    while node.op != "leaf":
        if node.op == "const":
            return np.asarray(node.value, node.dtype)
        owner: Recorder | None = node.owner
        if owner is None:
            raise InternalError("the region that makes this value failed before")
        owner.cuts += 1
        owner.flush(f"{reason} at {place()}")
        node = array.node
    return node.value
