"""Functions that ask for values: their result has a shape that depends on data, or no kernel.

NumPy computes them; the trace goes on with their results as known values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nexus_compiler.frontend.tracing import recorder
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions.operands import check, operands
from nexus_compiler.frontend.tracing.recording import array_of, known


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Array
    inverse_indices: Array


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """The positions of elements that are not zero, one array for each axis."""
    if not x.ndim:
        raise ValueError("nonzero of an array without axes")
    return tuple(known(one) for one in np.nonzero(recorder.force(x, "nonzero")))


def unique_all(x: Array, /) -> UniqueAll:
    """The different values, where each is first, which each element is, and how often each is."""
    value = recorder.force(x, "unique_all")
    found = np.unique(
        value, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    values, indices, inverse, counts = found
    return UniqueAll(*map(known, (values, indices, inverse.reshape(value.shape), counts)))


def unique_counts(x: Array, /) -> UniqueCounts:
    """The different values and how often each is."""
    value = recorder.force(x, "unique_counts")
    return UniqueCounts(*map(known, np.unique(value, return_counts=True, equal_nan=False)))


def unique_inverse(x: Array, /) -> UniqueInverse:
    """The different values and which of them each element is."""
    value = recorder.force(x, "unique_inverse")
    values, inverse = np.unique(value, return_inverse=True, equal_nan=False)
    return UniqueInverse(known(values), known(inverse.reshape(value.shape)))


def unique_values(x: Array, /) -> Array:
    """The different values."""
    return known(np.unique(recorder.force(x, "unique_values"), equal_nan=False))


def nextafter(x1: Array, x2: Array, /) -> Array:
    """The next floating-point number after `x1` towards `x2`: NumPy's, as Relax sees no bits."""
    left, right = (array_of(one) for one in operands("nextafter", x1, x2))
    check("nextafter", left.dtype, ("real floating",))
    return known(np.nextafter(recorder.force(left, "nextafter"), np.asarray(right)))
