"""Where everything lies that a line (`nexus_runtime/steps.py`) works on, as `frame.h` has it."""

from __future__ import annotations

import itertools
import math
from array import array as numbers_of
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_runtime import guards, tensors
from nexus_runtime.steps import CONSTANT, PARAMETER, STORAGE, Line, Size, Value

Shapes = tuple[tuple[int, ...], ...]
_FROM_ARENA, _FIXED = -1, -2
_FRESH, _COPIED, _GIVEN = 0, 1, 2
# The codes of DLPack; bfloat16 and the like are told by name.
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}


@dataclass(frozen=True)
class Given:
    """What a line's caller brings, and gets.

    Attributes:
        inputs: dtypes of the parameters that are given in each call, the first ones.
        fixed: address and shape of each of the others.
        outputs: dtypes.
        donated: by output, the input that it may be written over; -1 for none.
        kernel: finds a kernel by name: what keeps it, and the address of the object.
        keep: what must live as long as anybody calls: what is at the fixed addresses, the library.
    """

    inputs: tuple[str, ...]
    fixed: tuple[tuple[int, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    donated: tuple[int, ...]
    kernel: Callable[[str], tuple[Any, int]]
    keep: tuple[Any, ...]


class Layout:
    """Where everything lies, for one set of sizes."""

    def __init__(self, line: Line, given: Given, shapes: Shapes) -> None:
        self._line, self._given = line, given
        every = [*shapes, *(shape for _, shape in given.fixed)]
        self._sizes = {f"p{i}_{axis}": n for i, s in enumerate(every) for axis, n in enumerate(s)}
        self._known: dict[str, int] = {}
        self._shapes = [tuple(map(self._size, value.shape)) for value in line.values]
        self._begins = [0, *itertools.accumulate(map(len, self._shapes))]
        self._bytes = [_bytes(v.dtype, shape) for v, shape in zip(line.values, self._shapes)]
        self._results = [self._result(place) for place in range(len(line.outputs))]
        self._inputs = shapes

    def made(self, library: Any) -> tuple[Any, int]:
        """The object of the C part `library`, and how much memory it takes.

        None where there is no such part, an array is empty, or sizes are not equal that must be.
        """
        equal = all(self._size(a) == self._size(b) for a, b in self._line.equal)
        if library is None or not all(self._bytes) or not equal:
            return None, 0
        starts, arena = self._arena()
        kernels = [self._given.kernel(step.kernel) for step in self._line.steps]
        constants = [np.frombuffer(data, np.uint8) for data in self._line.constants]
        constants = [tensors.copied(data) for data in constants]
        made = library.make(
            _words(self._tensor(i, starts, constants) for i in range(len(self._bytes))),
            _words(self._calls([address for _, address in kernels])),
            _words(self._arguments()),
            _words((kind, at, size) for kind, at, size in self._results),
            _words(self._shapes),
            _inputs(self._inputs, {at for kind, at, _ in self._results if kind == _GIVEN}),
            tuple(_format(dtype) for dtype in self._given.inputs),
            np.empty,
            tuple(
                (self._shapes[number], tensors.plain_dtype(dtype))
                for number, dtype in zip(self._line.outputs, self._given.outputs)
            ),
            (*[keeper for keeper, _ in kernels], *constants, *self._given.keep),
            arena,
        )
        return made, arena

    def _size(self, size: Size) -> int:
        if isinstance(size, int):
            return size
        if (found := self._known.get(size)) is None:
            found = self._known[size] = guards.value(size, self._sizes)
        return found

    def _result(self, place: int) -> tuple[int, int, int]:
        """Kind, origin and bytes of a result (`frame.h`)."""
        number = self._line.outputs[place]
        value, size = self._line.values[number], self._bytes[number]
        donated = self._given.donated[place]
        if value.place == PARAMETER and value.index == donated and value.offset == 0:
            return _GIVEN, donated, size
        return (_FRESH if self._owns(place) else _COPIED), number, size

    def _owns(self, place: int) -> bool:
        """Whether a result's storage can be the array that is returned."""
        values, number = self._line.values, self._line.outputs[place]
        own = values[number]
        if own.place != STORAGE or self._size(own.offset) != 0:
            return False
        mates = [i for i, v in enumerate(values) if (v.place, v.index) == (own.place, own.index)]
        taken = [values[i] for i in self._line.outputs[:place]]
        first = all((v.place, v.index) != (own.place, own.index) for v in taken)
        ends = (self._size(values[i].offset) + self._bytes[i] for i in mates)
        return first and max(ends) <= self._bytes[number]

    def _arena(self) -> tuple[dict[int, int], int]:
        """Begin of each storage that is no result, and the size of all of them together."""
        fresh = {self._line.outputs[i] for i, r in enumerate(self._results) if r[0] == _FRESH}
        apart = {self._line.values[number].index for number in fresh}
        spans: dict[int, list[int]] = {}
        for turn, step in enumerate(self._line.steps):
            numbers = [argument for argument in step.arguments if isinstance(argument, int)]
            for value in (self._line.values[number] for number in numbers):
                if value.place == STORAGE and value.index not in apart:
                    spans.setdefault(value.index, [turn, turn])[1] = turn
        for kind, number, _ in self._results:
            if kind == _GIVEN:
                continue
            own = self._line.values[number]
            if kind == _COPIED and own.place == STORAGE and own.index in spans:
                spans[own.index][1] = len(self._line.steps)
        return _packed(spans, [self._size(size) for size in self._line.storages])

    def _tensor(
        self, number: int, starts: dict[int, int], constants: Sequence[np.ndarray]
    ) -> tuple[int, ...]:
        """The note of a tensor (`frame.h`)."""
        value = self._line.values[number]
        source, offset = self._source(value, starts, constants)
        code, bits = _code(value.dtype)
        rank = len(self._shapes[number])
        return source, offset, code, bits, rank, self._begins[number]

    def _source(
        self, value: Value, starts: dict[int, int], constants: Sequence[np.ndarray]
    ) -> tuple[int, int]:
        offset, inputs = self._size(value.offset), len(self._given.inputs)
        if value.place == CONSTANT:
            return _FIXED, constants[value.index].ctypes.data + offset
        if value.place == PARAMETER:
            if value.index < inputs:
                return value.index, offset
            return _FIXED, self._given.fixed[value.index - inputs][0] + offset
        for place, (kind, number, _) in enumerate(self._results):
            if kind == _FRESH and self._line.values[number].index == value.index:
                return inputs + place, offset
        return _FROM_ARENA, starts.get(value.index, 0) + offset

    def _calls(self, addresses: Sequence[int]) -> Iterable[tuple[int, int, int]]:
        first = 0
        for step, address in zip(self._line.steps, addresses):
            yield address, first, len(step.arguments)
            first += len(step.arguments)

    def _arguments(self) -> Iterable[tuple[int, int]]:
        for step in self._line.steps:
            for one in step.arguments:
                yield (1, one) if isinstance(one, int) else (0, self._size(one))


def _packed(spans: dict[int, list[int]], sizes: Sequence[int]) -> tuple[dict[int, int], int]:
    """Places for storages that live from one step to another: the largest first, each as low as
    those leave room that live at the same time (greedy by size; Pisarchyk & Lee 2020)."""
    starts: dict[int, int] = {}
    for index in sorted(spans, key=lambda i: (-sizes[i], i)):
        begin, end = spans[index]
        busy = sorted(
            (starts[i], starts[i] + sizes[i])
            for i in starts
            if spans[i][0] <= end and begin <= spans[i][1]
        )
        start = 0
        for low, high in busy:
            if start + sizes[index] <= low:
                break
            start = max(start, -(-high // tensors.ALIGNMENT) * tensors.ALIGNMENT)
        starts[index] = start
    return starts, max((starts[i] + sizes[i] for i in starts), default=0)


def _words(rows: Iterable[Iterable[int]]) -> bytes:
    return numbers_of("q", [word for row in rows for word in row]).tobytes()


def _inputs(shapes: Shapes, written: set[int]) -> bytes:
    """The notes of the inputs, behind where each begins."""
    notes = [(len(shape), place in written, *shape) for place, shape in enumerate(shapes)]
    begins = [len(notes) + sum(map(len, notes[:place])) for place in range(len(notes))]
    return _words([begins, *notes])


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return max(_code(dtype)[1] // 8, 1) * math.prod(shape)


def _code(dtype: str) -> tuple[int, int]:
    """DLPack's code and bits of a dtype."""
    if dtype == "bool":
        return _CODES[dtype], 8
    name = dtype.rstrip("0123456789")
    return _CODES[name], int(dtype.removeprefix(name))


def _format(dtype: str) -> bytes:
    return np.empty((), tensors.plain_dtype(dtype)).data.format.encode()
