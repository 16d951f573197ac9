"""What was made of equal functions, which many regions of a graph have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import tvm_ffi
from tvm import tirx

T = TypeVar("T")


class Remembered(Generic[T]):
    """Results by a setting and a function, whatever that calls things; the oldest are forgotten.

    Args:
        most: results that are remembered.
    """

    def __init__(self, most: int = 2048) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._made: dict[tuple[Hashable, int], list[tuple[tirx.PrimFunc, T]]] = {}

    def get(self, place: tuple[Hashable, tirx.PrimFunc], make: Callable[[], T]) -> T:
        """What was made in this setting of an equal function, or what `make` makes now."""
        setting, function = place
        key = (setting, int(tvm_ffi.structural_hash(function)))
        # TVM's hash has 64 bits, and is no proof.
        for known, made in self._made.get(key, ()):
            if tvm_ffi.structural_equal(known, function):
                return made
        made = make()
        with self._lock:  # not while making: kernels compile on many threads
            if len(self._made) >= self._most:
                del self._made[next(iter(self._made))]
            self._made.setdefault(key, []).append((function, made))
        return made
