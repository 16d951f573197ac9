"""Creation functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import dtypes, nodes
from nexus_compiler.frontend.tracing.array import CPU, Array, Scalar
from nexus_compiler.frontend.tracing.functions.operands import convert
from nexus_compiler.frontend.tracing.recording import array_of, known, literal, node_of, record
from nexus_runtime import tensors

Size = int | Sequence[int]


def _shape(shape: Size) -> tuple[int, ...]:
    found = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if any(size < 0 for size in found):
        raise ValueError(f"shape {found} has a negative size")
    return found


def _device(device: str | None) -> None:
    if device not in (None, CPU):
        raise ValueError(f"there is no device {device!r}, only 'cpu'")


def asarray(
    obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None
) -> Array:
    """An array of a Python scalar, nested sequences, a NumPy or DLPack array, or an array.

    Python floats become float32 and integers int64. Memory is shared only where `copy` is not True.

    Raises:
        TypeError: the dtype is not of the standard's, or complex.
        ValueError: `copy` is False, and a copy is needed.
    """
    _device(device)
    wanted = None if dtype is None else dtypes.known(dtype)
    if isinstance(obj, Array):
        if wanted in (None, obj.dtype):
            return record("identity", (node_of(obj),), obj.shape, obj.dtype) if copy else obj
        if copy is False:
            raise ValueError(f"from {obj.dtype} to {wanted} needs a copy")
        return array_of(convert(node_of(obj), dtypes.known(wanted)))
    if isinstance(obj, np.ndarray) or hasattr(obj, "__dlpack__"):
        return _adopt(tensors.as_numpy(obj, name="obj"), wanted, copy)
    if copy is False:
        raise ValueError(f"a {type(obj).__name__} cannot be an array without a copy")
    return literal(_from_python(obj, wanted))


def _adopt(value: np.ndarray, wanted: np.dtype | None, copy: bool | None) -> Array:
    dtype = wanted or dtypes.known(value.dtype)
    if copy is False and dtype != value.dtype:
        raise ValueError(f"from {value.dtype} to {dtype} needs a copy")
    # A copy unless forbidden: what is recorded is computed later, and must not see later changes.
    return known(np.array(value, dtype, copy=copy is not False, order="C"))


def _from_python(obj: Any, wanted: np.dtype | None) -> np.ndarray:
    value = np.asarray(_concrete(obj))
    if wanted is None:
        natural = {"f": dtypes.DEFAULT_FLOAT, "i": dtypes.DEFAULT_INT}
        typed = isinstance(obj, np.generic)
        wanted = value.dtype if typed else natural.get(value.dtype.kind, value.dtype)
        if value.size == 0 and not typed:
            wanted = dtypes.DEFAULT_FLOAT
    return value.astype(dtypes.known(wanted))


def _concrete(obj: Any) -> Any:
    if isinstance(obj, list | tuple):
        return [_concrete(one) for one in obj]
    return np.asarray(obj) if isinstance(obj, Array) else obj


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Array:
    """An array of anything with `__dlpack__` on the CPU."""
    _device(device)
    return _adopt(np.from_dlpack(x), None, copy)


def full(
    shape: Size, fill_value: Scalar | Array, *, dtype: Any = None, device: str | None = None
) -> Array:
    """An array of one value."""
    _device(device)
    sizes = _shape(shape)
    if isinstance(fill_value, Array):
        fill = node_of(fill_value) if dtype is None else convert(fill_value.node, np.dtype(dtype))
    else:
        natural = _from_python(fill_value, None).dtype
        fill = nodes.constant(fill_value, natural if dtype is None else dtypes.known(dtype))
    return record("full", (fill,), sizes, fill.dtype, sizes=sizes)


def zeros(shape: Size, *, dtype: Any = None, device: str | None = None) -> Array:
    """An array of zeros; float32 unless told otherwise."""
    return full(shape, 0, dtype=dtype or dtypes.DEFAULT_FLOAT, device=device)


def ones(shape: Size, *, dtype: Any = None, device: str | None = None) -> Array:
    """An array of ones; float32 unless told otherwise."""
    return full(shape, 1, dtype=dtype or dtypes.DEFAULT_FLOAT, device=device)


empty = zeros


def full_like(
    x: Array, /, fill_value: Scalar, *, dtype: Any = None, device: str | None = None
) -> Array:
    """An array of one value, of the shape and dtype of `x`."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device)


def zeros_like(x: Array, /, *, dtype: Any = None, device: str | None = None) -> Array:
    """Zeros of the shape and dtype of `x`."""
    return full(x.shape, 0, dtype=dtype or x.dtype, device=device)


def ones_like(x: Array, /, *, dtype: Any = None, device: str | None = None) -> Array:
    """Ones of the shape and dtype of `x`."""
    return full(x.shape, 1, dtype=dtype or x.dtype, device=device)


empty_like = zeros_like


def arange(
    start: Scalar,
    /,
    stop: Scalar | None = None,
    step: Scalar = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Array:
    """start, start + step, ... below `stop`."""
    _device(device)
    begin, end = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise ValueError("the step of arange is 0")
    floats = any(isinstance(one, float) for one in (begin, end, step))
    wanted = dtypes.known(dtype or (dtypes.DEFAULT_FLOAT if floats else dtypes.DEFAULT_INT))
    count = max(0, math.ceil((end - begin) / step))
    if wanted.kind == "f" or any(not isinstance(one, int) for one in (begin, step)):
        values = np.arange(count) * np.float64(step) + begin
        return literal(values.astype(wanted))
    return record("arange", (), (count,), wanted, attrs=(begin, step), sizes=(count,))


def linspace(
    start: Scalar,
    stop: Scalar,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Array:
    """`num` values at equal distances."""
    _device(device)
    values = np.linspace(start, stop, num, endpoint=endpoint)
    return literal(values.astype(dtypes.known(dtype or dtypes.DEFAULT_FLOAT)))


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    device: str | None = None,
) -> Array:
    """Ones on the diagonal `k`, zeros elsewhere."""
    _device(device)
    wanted = dtypes.known(dtype or dtypes.DEFAULT_FLOAT)
    return literal(np.eye(n_rows, n_cols, k, wanted))


def meshgrid(*arrays: Array, indexing: str = "xy") -> list[Array]:
    """Coordinates on the grid of one-dimensional arrays."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"indexing is 'xy' or 'ij', not {indexing!r}")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[0], order[1] = 1, 0
    shape = tuple(arrays[index].size for index in order)
    found: list[Array] = []
    for index, array in enumerate(arrays):
        lined = [1] * len(arrays)
        lined[order.index(index)] = array.size
        flat = record("reshape", (node_of(array),), tuple(lined), array.dtype, sizes=tuple(lined))
        found.append(record("broadcast_to", (flat.node,), shape, array.dtype, sizes=shape))
    return found


def tril(x: Array, /, *, k: int = 0) -> Array:
    """The lower triangle of each matrix, zeros above the diagonal `k`."""
    return _triangle("tril", x, k)


def triu(x: Array, /, *, k: int = 0) -> Array:
    """The upper triangle of each matrix, zeros below the diagonal `k`."""
    return _triangle("triu", x, k)


def _triangle(name: str, x: Array, k: int) -> Array:
    if x.ndim < 2:
        raise ValueError(f"{name} takes matrices, not shape {x.shape}")
    return record(name, (node_of(x),), x.shape, x.dtype, attrs=(k,))
