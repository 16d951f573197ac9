"""Data type functions, constants, and what the namespace says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import dtypes
from nexus_compiler.frontend.tracing.array import CPU, Array, Scalar
from nexus_compiler.frontend.tracing.recording import node_of, record

e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None
bool = dtypes.BOOL
int8, int16, int32, int64 = dtypes.SIGNED
uint8, uint16, uint32, uint64 = dtypes.UNSIGNED
float32, float64 = dtypes.FLOATS


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a floating-point dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype


@dataclass(frozen=True)
class IntInfo:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: np.dtype


def _dtype(value: Any) -> np.dtype:
    return value.dtype if isinstance(value, Array) else dtypes.known(value)


def astype(x: Array, dtype: Any, /, *, copy: Any = True, device: str | None = None) -> Array:
    """`x` in another dtype; floats are cut towards zero, what does not fit is undefined."""
    if device not in (None, CPU):
        raise ValueError(f"there is no device {device!r}, only 'cpu'")
    wanted = dtypes.known(dtype)
    if wanted == x.dtype and not copy:
        return x
    name = "identity" if wanted == x.dtype else "astype"
    return record(name, (node_of(x),), x.shape, wanted)


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether `from_` promotes to `to`."""
    try:
        return dtypes.promote(_dtype(from_), _dtype(to)) == _dtype(to)
    except TypeError:
        return False


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype that all promote to; Python scalars take that of the others.

    Raises:
        TypeError: the standard leaves the mix undefined.
    """
    scalars = [one for one in arrays_and_dtypes if isinstance(one, Scalar)]
    typed = [_dtype(one) for one in arrays_and_dtypes if not isinstance(one, Scalar)]
    if not typed:
        raise TypeError("result_type needs an array or a dtype")
    found = typed[0]
    for one in typed[1:]:
        found = dtypes.promote(found, one)
    for scalar in scalars:
        dtypes.of_scalar(scalar, found)
    return found


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether `dtype` is of a kind ("integral", "real floating", ...), or is a dtype, or any."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str):
        if kind not in dtypes.KINDS:
            raise ValueError(f"there is no kind {kind!r}, only {', '.join(dtypes.KINDS)}")
        return np.dtype(dtype) in dtypes.KINDS[kind]
    return np.dtype(dtype) == np.dtype(kind)


def finfo(type: Any, /) -> FloatInfo:
    """The limits of a floating-point dtype."""
    dtype = _dtype(type)
    if dtype not in dtypes.FLOATS:
        raise TypeError(f"finfo takes floating-point dtypes, not {dtype}")
    found = np.finfo(dtype)
    eps, normal = float(found.eps), float(found.smallest_normal)
    return FloatInfo(found.bits, eps, float(found.max), float(found.min), normal, dtype)


def iinfo(type: Any, /) -> IntInfo:
    """The limits of an integer dtype."""
    dtype = _dtype(type)
    if dtype.kind not in "iu":
        raise TypeError(f"iinfo takes integer dtypes, not {dtype}")
    found = np.iinfo(dtype)
    return IntInfo(found.bits, int(found.max), int(found.min), dtype)


class _Info:
    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> str:
        return CPU

    def devices(self) -> list[str]:
        return [CPU]

    def default_dtypes(self, *, device: str | None = None) -> dict[str, np.dtype]:
        kinds = {"real floating": dtypes.DEFAULT_FLOAT, "integral": dtypes.DEFAULT_INT}
        return {**kinds, "indexing": dtypes.DEFAULT_INT}

    def dtypes(self, *, device: str | None = None, kind: Any = None) -> dict[str, np.dtype]:
        found = {dtype.name: dtype for dtype in dtypes.ALL}
        return {
            name: dtype for name, dtype in found.items() if kind is None or isdtype(dtype, kind)
        }


def __array_namespace_info__() -> _Info:
    """What the namespace can do; see the standard."""
    return _Info()
