"""Runs functions that are lines (`nexus_runtime/steps.py`) with a loop in C, `line.c`.

A small model takes a few microseconds, of which a virtual machine and Python's checks took half.
Here both are done once for each set of sizes: memory is laid out, and an object made that knows
what its arguments must look like. Where the C part was not built, modules run as ever.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nexus_runtime import tensors
from nexus_runtime.errors import InputError, InternalError
from nexus_runtime.executors import layout
from nexus_runtime.executors.layout import Given, Shapes
from nexus_runtime.steps import Line

# Layouts of one function that are kept: so many, and so many bytes of intermediate results.
_MOST, _MOST_BYTES = 64, 256 << 20


@functools.cache
def find() -> tuple[Any, str]:
    """The C part, or None; and where it is, or why there is none."""
    try:
        found = importlib.import_module("nexus_runtime.executors._line")
    except ImportError as error:
        return None, f"it was not built, or not for this Python: {error}"
    return found, str(found.__file__)


def carry_errors(ffi: ctypes.CDLL) -> None:
    """Take errors of kernels from tvm_ffi, the loaded `libtvm_ffi`."""
    found, _ = find()
    if found is not None:
        names = ("TVMFFIErrorMoveFromRaised", "TVMFFIObjectDecRef")
        hooks = [ctypes.cast(getattr(ffi, name), ctypes.c_void_p).value for name in names]
        found.errors(*hooks, InternalError, InputError)


def describe() -> str:
    """How functions are called here that are lines."""
    found, reason = find()
    return f"by a loop in C ({reason})" if found else f"by TVM's virtual machine ({reason})"


class Straight:
    """One function, for as many sets of sizes as it is called with. Safe for many threads."""

    def __init__(self, line: Line, given: Given) -> None:
        self._line, self._given = line, given
        self._made: dict[Shapes, Any] = {}
        self._held = 0
        # Whether sizes are open, and which were met once.
        self._open = any(isinstance(size, str) for v in line.values for size in v.shape)
        self._met: set[Shapes] = set()

    def at(self, shapes: Shapes, *, at_once: bool = False) -> Any:
        """What runs the function for inputs of `shapes`; None where nothing is laid out for them.

        Sizes that may be others in each call, as of a text that grows, are not worth it before
        they come back, unless it is to be done `at_once`.
        """
        if shapes in self._made:
            return self._made[shapes]
        if self._open and not at_once and shapes not in self._met:
            if len(self._met) >= _MOST:
                self._met.clear()
            self._met.add(shapes)
            return None
        found, size = layout.Layout(self._line, self._given, shapes).made(find()[0])
        if len(self._made) >= _MOST or self._held + size > _MOST_BYTES:
            self._made.clear()
            self._held = 0
        self._held += size
        self._made[shapes] = found
        return found

    def call(self, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray] | None:
        """The outputs for arrays of the right dtypes and ranks; None where there is no line."""
        found = self.at(tuple([array.shape for array in arrays]))
        if found is None:
            return None
        results: Sequence[Any] | None = found.call(*arrays)
        if results is None:
            plain = [
                _plain(array, place in self._given.donated) for place, array in enumerate(arrays)
            ]
            results = found.call(*plain)
            if results is None:
                return None
            kept = {id(p): a for p, a in zip(plain, arrays) if np.may_share_memory(p, a)}
            # What was written over the caller's array is that array.
            results = [kept.get(id(result), result) for result in results]
        wanted = self._given.outputs
        return [_typed(result, dtype) for result, dtype in zip(results, wanted)]

    def made(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """The outputs as aligned arrays, which are made once; None where that cannot be."""
        values = [self._line.values[number] for number in self._line.outputs]
        shapes = [tuple(n for n in v.shape if isinstance(n, int)) for v in values]
        if any(len(shape) != len(v.shape) for shape, v in zip(shapes, values)):
            return None
        found = [
            tensors.empty_aligned(shape, tensors.dtype_of(v.dtype))
            for shape, v in zip(shapes, values)
        ]
        if (run := self.bind(arrays, found)) is None:
            return None
        run()
        return found

    def quick(self, shapes: Shapes) -> Callable[..., Any] | None:
        """The call in C for inputs of `shapes`, where it gives all outputs as they are to be."""
        given = self._given.outputs
        as_is = all(np.dtype(tensors.plain_dtype(dtype)).name == dtype for dtype in given)
        found = self._made.get(shapes) if as_is else None
        return None if found is None else found.call

    def bind(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> Callable[[], object] | None:
        """What computes `outputs` from `inputs` where they lie; None where these do not fit."""
        found = self.at(tuple([array.shape for array in inputs]), at_once=True)
        if found is None:
            return None
        bound = found.bind(*[tensors.plain(array) for array in (*inputs, *outputs)])
        return None if bound is None else bound.run


def _plain(array: np.ndarray, writes: bool) -> np.ndarray:
    """`array` as the C part takes it, copied where it is strided, or must not be written to."""
    plain = tensors.plain(array)
    flags = plain.flags
    fits = flags.c_contiguous and flags.aligned and (flags.writeable or not writes)
    return plain if fits else tensors.copied(plain)


def _typed(array: Any, dtype: str) -> np.ndarray:
    return array if array.dtype.name == dtype else array.view(tensors.dtype_of(dtype))
