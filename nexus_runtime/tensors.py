"""Arrays on their way in and out: any NumPy or DLPack array, aligned memory, named tensors."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from nexus_runtime.errors import ArtifactError, InputError

ALIGNMENT = 64
"""Bytes. Compiled kernels load whole vectors and end the process on memory that is less aligned."""

BITS = {
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
}
"""Types, by ml_dtypes' names, that models carry as bits, one uint8 an element, and how many."""


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype called `name`, ml_dtypes' (bfloat16, float8_…) included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-contiguous array that starts at a multiple of `ALIGNMENT`."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    # A quarter of the time that buffer.ctypes takes.
    start = -ctypes.addressof(ctypes.c_char.from_buffer(buffer.data)) % ALIGNMENT
    if size:
        return np.ndarray(shape, dtype, buffer, start)
    # NumPy makes up strides for empty arrays, which kernels take for gaps.
    counts = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    strides = [count * dtype.itemsize for count in counts]
    return np.ndarray(shape, dtype, buffer, start, strides)


def aligned(array: np.ndarray) -> np.ndarray:
    """`array` itself where kernels can take it as it is, else an aligned copy."""
    flags = array.flags
    fits = flags.c_contiguous and flags.writeable and array.size > 0
    if fits and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def bits(array: np.ndarray) -> np.ndarray:
    """`array`, with the elements of one of the types in `BITS` as uint8."""
    return array.view(np.uint8) if array.dtype.name in BITS else array


def from_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    """`array`, whose elements are the bits of `dtype` if that is one of `BITS`."""
    return array.view(dtype_of(dtype)) if dtype in BITS else array


def plain_dtype(name: str) -> np.dtype:
    """The dtype that NumPy itself has for elements as wide as those of the dtype called `name`."""
    if name in BITS:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if name == "bfloat16" else np.dtype(name)


def plain(array: np.ndarray) -> np.ndarray:
    """`array` with elements of `plain_dtype`, in the same memory."""
    dtype = plain_dtype(array.dtype.name)
    return array if array.dtype == dtype else array.view(dtype)


def as_numpy(value: Any, *, name: str) -> np.ndarray:
    """`value` (NumPy, DLPack on the CPU, lists) as a NumPy array, without a copy where that can be.

    Raises:
        InputError: it is no array, or is on another device.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__"):
        # bfloat16 and gradients that are tracked cannot be exported; the next way may still do it.
        with contextlib.suppress(BufferError, RuntimeError, TypeError, AttributeError):
            return np.from_dlpack(value)
    try:
        array = np.asarray(value)
    except Exception as error:
        # Whoever made the object chooses the class: torch says that a gradient is tracked here.
        raise InputError(
            f"input '{name}' cannot be read as an array: {error}",
            hint="pass a NumPy array or anything with __dlpack__ on the CPU",
        ) from error
    if array.dtype.hasobject or array.dtype.kind in "USV":
        raise InputError(
            f"input '{name}' is a {type(value).__name__}, which is no array of numbers",
            hint="pass a NumPy array or anything with __dlpack__ on the CPU",
        )
    return array


_RESERVED = "__metadata__"


def copied(array: np.ndarray) -> np.ndarray:
    """An aligned copy of `array`."""
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named tensors as safetensors bytes."""
    return b"".join(pieces(arrays))


def pieces(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of `encode` one after the other, without a copy of arrays that are contiguous.

    The order is that of the safetensors library: wide elements first, so that all are aligned, then
    by name.

    Raises:
        ArtifactError: a name is one that the format keeps for itself.
    """
    if _RESERVED in arrays:
        raise ArtifactError(f"a tensor cannot be called '{_RESERVED}'", hint="give it another name")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    start = 0
    for name in order:
        array, stop = arrays[name], start + arrays[name].nbytes
        dtype = _NAMES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        # Not ascontiguousarray, which turns scalars into vectors.
        flat = np.asarray(arrays[name], order="C").reshape(-1)
        yield flat.view(np.uint8).data


def decode(data: bytes, *, origin: str) -> dict[str, np.ndarray]:
    """Read safetensors bytes into aligned arrays.

    Raises:
        ArtifactError: the bytes are damaged.
    """
    try:
        views = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{origin}: the weights are damaged: {error}") from error
    found: dict[str, np.ndarray] = {}
    for name, view in views:
        array = empty_aligned(tuple(view["shape"]), dtype_of(_DTYPES[view["dtype"]]))
        array.reshape(-1).view(np.uint8)[...] = np.frombuffer(view["data"], np.uint8)
        found[name] = array
    return found


# safetensors' names of dtypes
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
