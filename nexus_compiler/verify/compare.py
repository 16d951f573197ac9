"""How far two results are apart, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from nexus_runtime.errors import InputError


class Difference(msgspec.Struct, frozen=True):
    """One output against its reference.

    Attributes:
        max_abs: the largest absolute difference.
        max_rel: `max_abs` over the largest magnitude of the reference.
        bound: what `max_rel` may be for this dtype.
    """

    output: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    bound: float
    passed: bool


# Rounding errors of a deep network add up to some hundred units in the last place; they are taken
# relative to the largest value, since small ones are differences of large ones.
_BOUND_IN_EPS = 1000.0
# The share of values that lie so near to the middle that the order of a sum decides.
_RARE = 0.02


def bound_for(dtype: np.dtype) -> float:
    """The largest relative difference that rounding explains; 0 for whole numbers."""
    if dtype.kind in "iub":
        return 0.0
    if dtype.itemsize <= 2:
        # Half formats have 8 or 11 bits: here the same count would allow anything.
        return 16 * float(_eps(dtype))
    return _BOUND_IN_EPS * float(_eps(dtype))


def _eps(dtype: np.dtype) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def is_telling(expected: np.ndarray) -> bool:
    """Whether agreement with `expected` says anything: not where all of it is NaN or infinite."""
    if expected.dtype.kind in "iub" or expected.size == 0:
        return True
    return bool(np.isfinite(expected.astype(np.float64)).any())


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, rounded: bool = False
) -> list[Difference]:
    """Compare outputs by name, in the order of `found`.

    With `rounded`, whole numbers were rounded from floats just before: where one float lies near
    the middle of two, they may be a step apart, which must be rare.

    Raises:
        InputError: an output is missing on one side.
    """
    if set(found) != set(expected):
        odd = sorted(set(found) ^ set(expected))
        raise InputError(
            f"output '{odd[0]}' exists on one side only",
            hint="is this the model that the artifact was compiled from?",
        )
    return [_one(name, found[name], expected[name], rounded) for name in found]


def _one(name: str, found: np.ndarray, expected: np.ndarray, rounded: bool) -> Difference:
    bound = bound_for(found.dtype)
    fits = found.shape == expected.shape and found.dtype == expected.dtype
    absolute, relative = _distance(found, expected) if fits else (float("inf"), float("inf"))
    if fits and rounded and absolute == 1 and found.dtype.kind in "iu":
        rare = np.count_nonzero(found != expected) <= max(1, _RARE * found.size)
        bound = relative if rare else bound
    return Difference(
        output=name,
        dtype=found.dtype.name,
        shape=found.shape,
        max_abs=absolute,
        max_rel=relative,
        bound=bound,
        passed=fits and relative <= bound,
    )


def _distance(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    if found.size == 0:
        return 0.0, 0.0
    wide_found, wide_expected = found.astype(np.float64), expected.astype(np.float64)
    # Equal infinities and NaN on both sides agree; on one side only they are infinitely far apart.
    same = (wide_found == wide_expected) | (np.isnan(wide_found) & np.isnan(wide_expected))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(wide_found - wide_expected))
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    finite = np.abs(wide_expected[np.isfinite(wide_expected)])
    scale = float(finite.max()) if finite.size else 0.0
    largest = float(gaps.max())
    return largest, largest / scale if scale else (0.0 if largest == 0 else float("inf"))
