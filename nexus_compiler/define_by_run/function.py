"""`jit`: a Python function that is traced, compiled, and replayed where that is safe."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_compiler.define_by_run import tree
from nexus_compiler.define_by_run.engine import Compiled, Session, engine
from nexus_compiler.define_by_run.report import Report
from nexus_compiler.frontend.tracing import nodes, recorder
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.dtypes import known
from nexus_compiler.frontend.tracing.recorder import Recorder
from nexus_runtime import tensors
from nexus_runtime.errors import UserError

PLANS = 256
"""Kinds of calls of one function that are remembered."""


@dataclass(frozen=True)
class Plan:
    """How to answer a call without running Python.

    Attributes:
        sources: for each input of the region the position of the argument, or a value.
        results: for each leaf of the result the position of the output, or a value.
    """

    compiled: Compiled
    sources: tuple[int | np.ndarray, ...]
    structure: tree.Structure
    results: tuple[Any, ...]

    def run(self, arguments: Sequence[np.ndarray]) -> list[Any]:
        """The leaves of the result."""
        values = [arguments[one] if isinstance(one, int) else one for one in self.sources]
        outputs = self.compiled.run(values)
        return [outputs[one.index] if isinstance(one, _Output) else one for one in self.results]


@dataclass(frozen=True)
class _Output:
    index: int


@dataclass(frozen=True)
class _Call:
    """The arguments of one call, taken apart."""

    structure: tree.Structure
    leaves: list[Any]
    arrays: list[np.ndarray]
    key: tuple[Any, ...]
    numpy: bool


class JitFunction:
    """A function that `jit` wrapped. Safe to call from many threads at once."""

    def __init__(self, function: Callable[..., Any], *, dynamic: bool, options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._dynamic, self._options = function, dynamic, options
        self._plans: OrderedDict[tuple[Any, ...], Plan | None] = OrderedDict()
        self._lock = threading.Lock()
        self._report = Report(getattr(function, "__qualname__", "function"))
        engine()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; inside of another trace it is simply a part of it."""
        if recorder.current().session is not None:
            return self._function(*args, **kwargs)
        call = _take_apart(args, kwargs)
        plan = self._plans.get(call.key)
        with self._lock:
            self._report.calls += 1
            self._report.replays += plan is not None
        if plan is not None:
            return _put_together(plan.structure, plan.run(call.arrays), call.numpy)
        return self._trace(call)

    def report(self) -> Report:
        """What happened so far."""
        return self._report

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def _trace(self, call: _Call) -> Any:
        session = Session(self._report, self._reason(call), self._dynamic, self._options)
        with self._lock:
            self._report.traces += 1
        with recorder.tracing(session) as trace:
            arrays = iter([Array(nodes.leaf(value)) for value in call.arrays])
            leaves = [next(arrays) if one is _HOLE else one for one in call.leaves]
            arguments = {one.node: i for i, one in enumerate(_arrays(leaves))}
            trace.arguments = set(arguments)
            args, kwargs = tree.unflatten(call.structure, leaves)
            result = self._function(*args, **kwargs)
            found, structure = tree.flatten(result)
            del args, kwargs, result, leaves, arrays
            waiting = [one.node if isinstance(one, Array) else one for one in found]
            trace.flush("return")
            plan = _plan(trace, session, arguments, waiting, structure)
        with self._lock:
            self._plans[call.key] = plan
            self._report.unreplayed = "" if plan else _why(trace)
            if len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        values = [one.node.value if isinstance(one, Array) else one for one in found]
        return _put_together(structure, values, call.numpy)

    def _reason(self, call: _Call) -> str:
        with self._lock:
            earlier = list(self._plans)
        if not earlier:
            return "first call"
        if call.key in earlier:
            return "new branch"
        structure, statics, specs = call.key
        if all(key[:2] != (structure, statics) for key in earlier):
            return "new static argument"
        kinds = [(dtype, len(shape)) for dtype, shape in specs]
        if all([(dtype, len(shape)) for dtype, shape in key[2]] != kinds for key in earlier):
            return "new dtype" if any(len(key[2]) == len(specs) for key in earlier) else "new input"
        return "new shape"


class _Hole:
    def __repr__(self) -> str:
        return "<array>"


_HOLE = _Hole()


def _take_apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    leaves, structure = tree.flatten((args, kwargs))
    arrays: list[np.ndarray] = []
    numpy = False
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Array):
            arrays.append(recorder.force(leaf, "argument"))
        elif isinstance(leaf, np.ndarray | np.generic) and not isinstance(leaf, float | int):
            arrays.append(_numpy(leaf))
            numpy = True
        elif hasattr(leaf, "__dlpack__"):
            arrays.append(_numpy(tensors.as_numpy(leaf, name=f"argument {index}")))
        else:
            continue
        leaves[index] = _HOLE
    statics = tuple((type(leaf), leaf) for leaf in leaves)
    key = (structure, statics, tuple([(one.dtype.char, one.shape) for one in arrays]))
    try:
        hash(key)
    except TypeError as error:
        raise UserError(
            f"a static argument cannot be part of the key of a trace: {error}",
            hint="pass arrays, numbers, strings, None, or tuples, lists and dicts of them",
        ) from None
    return _Call(structure, leaves, arrays, key, numpy)


def _numpy(value: Any) -> np.ndarray:
    array = np.asarray(value)
    known(array.dtype)
    return array


def _arrays(leaves: Sequence[Any]) -> list[Array]:
    return [one for one in leaves if isinstance(one, Array)]


def _put_together(structure: tree.Structure, values: Sequence[Any], numpy: bool) -> Any:
    if not numpy:
        values = [Array(nodes.leaf(v)) if isinstance(v, np.ndarray) else v for v in values]
    return tree.unflatten(structure, values)


def _why(trace: Recorder) -> str:
    if trace.cuts:
        return "it asks for values"
    return "it reads arrays that are no arguments" if trace.captured else "its result is no array"


def _plan(
    trace: Recorder,
    session: Session,
    arguments: dict[nodes.Node, int],
    waiting: Sequence[Any],
    structure: tree.Structure,
) -> Plan | None:
    """A plan where the trace is one region that follows from the arguments alone."""
    if trace.cuts or trace.captured or session.last is None:
        return None
    compiled, graph = session.last
    sources: list[Any] = []
    sources += [arguments.get(node, node.value) for node in graph.leaves]
    sources += [np.asarray(graph.nodes[position].value) for position in compiled.lifted]
    places = {node: _Output(index) for index, node in enumerate(graph.outputs)}
    results: list[Any] = []
    for one in waiting:
        if not isinstance(one, nodes.Node):
            results.append(one)
        elif one in places:
            results.append(places[one])
        else:
            return None
    if len(set(places)) > len(set(waiting)):
        return None  # an array was put somewhere else too
    return Plan(compiled, tuple(sources), structure, tuple(results))
