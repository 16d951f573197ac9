"""What a call of one function has to check, worked out when the module is loaded.

A call of a small model takes a few microseconds, of which no check of every dimension and of every
guard may take its share. So shapes that were accepted once are remembered: whatever is asked of
them follows from the shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nexus_runtime import tensors
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec

_REMEMBERED = 1024
"""So many sets of shapes: more than a server's buckets, few enough to weigh nothing."""


class CallPlan:
    """How one function is called. Safe to use from many threads.

    Attributes:
        spec: the function, as the signature has it.
        outputs: the names of its outputs.
    """

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self.outputs = tuple(output.name for output in spec.outputs)
        self._names = tuple(given.name for given in spec.inputs)
        self._dtypes = tuple(tensors.dtype_of(given.dtype) for given in spec.inputs)
        self._accepted: set[tuple[tuple[int, ...], ...]] = set()

    def in_order(self, values: Sequence[Any]) -> Sequence[np.ndarray]:
        """Arguments that were given by position, as arrays.

        Raises:
            InputError: an array is missing or does not fit the signature, or there are too many.
        """
        if len(values) > len(self._names):
            raise InputError(
                f"'{self.spec.name}' takes {len(self._names)} inputs, not {len(values)}"
            )
        if len(values) == len(self._names) and self._fit(values):
            return values
        return self._checked(dict(zip(self._names, values)))

    def ordered(self, values: Mapping[str, Any]) -> list[Any] | None:
        """`values` in the signature's order, not checked; None where the names are others."""
        try:
            found = [values[name] for name in self._names]
        except KeyError:
            return None
        return found if len(found) == len(values) else None

    def by_name(self, values: Mapping[str, Any]) -> Sequence[np.ndarray]:
        """Arguments that were given by name, as arrays in the signature's order.

        Raises:
            InputError: an array is missing, unknown, or does not fit the signature.
        """
        if len(values) == len(self._names):
            found = [values[name] for name in self._names if name in values]
            if len(found) == len(values) and self._fit(found):
                return found
        return self._checked(values)

    def mixed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[np.ndarray]:
        """Arguments of which the first were given by position, as arrays in the signature's order.

        Raises:
            InputError: as for the others; or an input is given twice.
        """
        if not kwargs or len(args) > len(self._names):
            return self.in_order(args)
        given = dict(zip(self._names, args))
        if twice := sorted(set(given) & set(kwargs)):
            raise InputError(f"input '{twice[0]}' is given twice, by position and by name")
        return self.by_name({**given, **kwargs})

    def _fit(self, values: Sequence[Any]) -> bool:
        """Whether these are NumPy arrays of the right dtypes, with shapes that were accepted."""
        for value, dtype in zip(values, self._dtypes):
            if type(value) is not np.ndarray or value.dtype != dtype:
                return False
        # Not a generator: that costs more than the rest.
        return tuple([value.shape for value in values]) in self._accepted

    def _checked(self, values: Mapping[str, Any]) -> list[np.ndarray]:
        arrays = {name: tensors.as_numpy(value, name=name) for name, value in values.items()}
        self.spec.check(arrays)
        found = [_native(arrays[name]) for name in self._names]
        if len(self._accepted) >= _REMEMBERED:
            self._accepted.clear()
        self._accepted.add(tuple([array.shape for array in found]))
        return found


def _native(array: np.ndarray) -> np.ndarray:
    """`array` in this machine's byte order, which a dtype's name does not tell."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
