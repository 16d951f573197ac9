"""Runs modules of the llvm room: shared libraries that hold a program for TVM's virtual machine.

One virtual machine must not be called from two threads at once, so that each call takes one of a
pool. Functions that are lines need none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus_runtime import threads
from nexus_runtime.executors import tvm_tensors
from nexus_runtime.executors.base import CallTime, Quick, Shapes
from nexus_runtime.executors.layout import Given
from nexus_runtime.executors.line import Straight
from nexus_runtime.executors.tvm_library import load_runtime, unpack
from nexus_runtime.signature import Signature
from nexus_runtime.steps import Steps

_CPU, _POOLED_ALLOCATOR = 1, 2
# A function `f` may come in two halves: `f__prepare(weights)`, `f__run(inputs, weights, prepared)`.
_PREPARE, _RUN = "__prepare", "__run"
_BUILTIN = "vm."


def open_module(
    data: bytes,
    signature: Signature,
    *,
    num_threads: int | None,
    affinity: Sequence[int] | None = None,
    steps: Steps | None = None,
) -> TvmExecutor:
    """Open a shared library; see `executors.base.open_module`."""
    setting = threads.settle(num_threads, affinity)
    load_runtime()
    return TvmExecutor(load_library(unpack(data, setting.label), setting), signature, steps)


def load_library(path: Path, setting: threads.Threads) -> Any:
    """The shared library at `path` with its launcher; nothing else may have loaded it before."""
    ffi = load_runtime()
    library = ffi.load_module(str(path))
    threads.install(path, setting, ffi.LIB)
    return library


@dataclass(frozen=True)
class _Kept:
    """What to call, the tensors that stand behind the inputs, and the same as a line."""

    entry: str
    tensors: tuple[Any, ...]
    line: Straight | None


class TvmExecutor:
    """A pool of virtual machines over one program: each call takes one out and puts it back.

    Args:
        library: the program, as a library that was loaded or was made in this process.
        signature: what it offers.
        steps: those of its functions that are lines.
    """

    def __init__(self, library: Any, signature: Signature, steps: Steps | None = None) -> None:
        self._ffi = load_runtime()
        self._steps = steps or Steps({})
        self._signature = signature
        self._tensor = tvm_tensors.importer(self._ffi, anywhere=self._steps.anywhere)
        self._item = self._ffi.get_global_func("ffi.ArrayGetItem")
        self._results = {
            f.name: [tvm_tensors.reader(output.dtype) for output in f.outputs]
            for f in signature.functions
        }
        self._donated = {f.name: f.donated for f in signature.functions}
        self._library = library
        # Several threads take from and add to the list at once, which lists are made for.
        self._idle: list[_Machine] = []
        self._weights: Mapping[str, Sequence[np.ndarray]] = {}
        self._kept: dict[str, _Kept] = {}
        self._whole: dict[str, Straight | None] = {}

    def run(self, function: str, arguments: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Run `function`; as `executors.base.Executor.run`."""
        if function not in self._whole:
            self._whole[function] = self._straight(function, function, ())
        line = self._whole[function]
        results = None if line is None else line.call(arguments)
        return self._call(function, function, arguments, ()) if results is None else results

    def keep(self, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Keep parameters; as `executors.base.Executor.keep`."""
        self._weights = weights

    def run_kept(self, function: str, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Run `function` with the kept parameters; as `executors.base.Executor.run_kept`."""
        kept = self._prepared(function)
        results = None if kept.line is None else kept.line.call(inputs)
        if results is not None:
            return results
        return self._call(function, kept.entry, inputs, kept.tensors)

    def quick(self, function: str, shapes: Shapes) -> Quick | None:
        """The call of a line in C; as `executors.base.Executor.quick`."""
        line = self._prepared(function).line
        return None if line is None else line.quick(shapes)

    def bind(
        self, function: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> Callable[[], object] | None:
        """A line in C with its places; as `executors.base.Executor.bind`."""
        line = self._prepared(function).line
        return None if line is None else line.bind(inputs, outputs)

    def trace(
        self, function: str, inputs: Sequence[np.ndarray], *, rounds: int
    ) -> list[list[CallTime]]:
        """Time every call of a kernel; as `executors.base.Executor.trace`."""
        kept = self._prepared(function)
        # A machine of its own, which is thrown away: an instrument cannot be taken out again.
        machine, watch = self._new_machine(), _Watch()
        machine["set_instrument"](self._ffi.convert(watch))
        found: list[list[CallTime]] = []
        for _ in range(rounds):
            machine[kept.entry](*map(self._tensor, inputs), *kept.tensors)
            found.append(watch.take())
        return found

    def _prepared(self, function: str) -> _Kept:
        if (kept := self._kept.get(function)) is None:
            # Two threads may both come here: they compute the same.
            kept = self._kept[function] = self._prepare(function)
        return kept

    def _prepare(self, function: str) -> _Kept:
        """The kept parameters as tensors, and what the module computes from them alone."""
        weights = self._weights.get(function, ())
        fixed = tuple(map(self._tensor, weights))
        prepared = self._made_once(function, weights)
        if prepared is None:
            machine = self._take()
            try:
                if not machine.has(function + _PREPARE):
                    return _Kept(function, fixed, self._straight(function, function, fixed))
                prepared = machine[function + _PREPARE](*fixed)
            finally:
                self._idle.append(machine)
        fixed, entry = (*fixed, *prepared), function + _RUN
        return _Kept(entry, fixed, self._straight(function, entry, fixed))

    def _made_once(self, function: str, weights: Sequence[np.ndarray]) -> list[Any] | None:
        """What is computed from weights alone, if that is a line: in memory of its own.

        The machine's would be in its pool, which keeps whatever it ever had.
        """
        line = self._steps.lines.get(function + _PREPARE)
        if line is None:
            return None
        dtypes = tuple(line.values[number].dtype for number in line.outputs)
        given = tuple(array.dtype.name for array in weights)
        alone = (-1,) * len(dtypes)
        made = Straight(line, Given(given, (), dtypes, alone, self._kernel, ())).made(weights)
        return None if made is None else list(map(self._tensor, made))

    def _straight(self, function: str, entry: str, fixed: Sequence[Any]) -> Straight | None:
        """The line of `entry` with `fixed` tensors behind the inputs, if it is one."""
        line = self._steps.lines.get(entry)
        if line is None:
            return None
        spec = self._signature.function(function)
        weights = {weight.name: weight.dtype for weight in self._signature.parameters}
        given = [s.dtype for s in spec.inputs]
        if not fixed:
            given += [weights[name] for name in spec.parameters]
        return Straight(
            line,
            Given(
                tuple(given),
                tuple((tensor.data_ptr(), _shape(tensor)) for tensor in fixed),
                tuple(output.dtype for output in spec.outputs),
                spec.donated,
                self._kernel,
                (*fixed, self._library),
            ),
        )

    def _kernel(self, name: str) -> tuple[Any, int]:
        found = self._library.get_function(name, query_imports=True)
        return found, found.__chandle__()

    def _call(
        self, function: str, entry: str, arguments: Sequence[np.ndarray], more: Sequence[Any]
    ) -> list[np.ndarray]:
        given = (*map(self._tensor, arguments), *more)
        machine = self._take()
        try:
            results = machine[entry](*given)
        finally:
            self._idle.append(machine)
        item, donated = self._item, self._donated[function]
        found: list[np.ndarray] = []
        for index, read in enumerate(self._results[function]):
            tensor, place = item(results, index), donated[index]
            # What was written over the caller's array is that array.
            own = place >= 0 and tensor.data_ptr() == _address(arguments[place])
            found.append(arguments[place] if own else read(tensor))
        return found

    def _take(self) -> _Machine:
        try:
            return self._idle.pop()
        except IndexError:
            return _Machine(self._new_machine())

    def _new_machine(self) -> Any:
        machine = self._library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        return machine


class _Machine(dict[str, Any]):
    """The functions of one virtual machine by name, which are slow to find, as found before."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self._machine = machine

    def has(self, entry: str) -> bool:
        return self._machine.implements_function(entry)

    def __missing__(self, entry: str) -> Any:
        function = self[entry] = self._machine[entry]
        return function


class _Watch:
    """What a virtual machine calls before and after each of its calls.

    The shortest interval of all, that of a call that does nothing, is what watching itself takes.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[tuple[Any, ...], float]] = []
        self._calls: list[CallTime] = []

    def __call__(self, _: Any, name: str, before: bool, __: Any, *arguments: Any) -> int:
        now = time.perf_counter()
        if before:
            sizes = tuple(a if isinstance(a, int) else _shape(a) for a in arguments)
            self._begun.append((sizes, time.perf_counter()))
        else:
            sizes, begin = self._begun.pop()
            self._calls.append(CallTime(str(name), now - begin, sizes))
        return 0

    def take(self) -> list[CallTime]:
        calls, self._calls = self._calls, []
        least = min((call.seconds for call in calls), default=0.0)
        return [
            CallTime(call.name, call.seconds - least, call.arguments)
            for call in calls
            if not call.name.startswith(_BUILTIN)
        ]


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _shape(argument: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in getattr(argument, "shape", ()))
