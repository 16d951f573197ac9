"""Tensors as one stream of bytes: how arguments get into `runner.cc` and results out of it.

    magic  8 bytes "NXTENS01"
    count  uint64
    count times:
        code   uint8    DLPack's type code
        bits   uint8
        lanes  uint16   always 1
        ndim   uint32
        shape  int64[ndim]
        data   the elements in C order, no padding

All numbers are little-endian. safetensors would need a JSON parser in the runner.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from nexus_runtime import tensors
from nexus_runtime.errors import InputError, InternalError, nearest

MAGIC = b"NXTENS01"

# DLPack's type codes (`DLDataTypeCode`) by the names that manifests use.
CODES = {
    "bool": 6,
    "int8": 0,
    "int16": 0,
    "int32": 0,
    "int64": 0,
    "uint8": 1,
    "uint16": 1,
    "uint32": 1,
    "uint64": 1,
    "float16": 2,
    "float32": 2,
    "float64": 2,
    "bfloat16": 4,
    "float8_e4m3fn": 10,
    "float8_e5m2": 12,
}
_DTYPES = {
    (code, tensors.dtype_of(name).itemsize * 8): tensors.dtype_of(name)
    for name, code in CODES.items()
}
_COUNT, _HEAD = struct.Struct("<Q"), struct.Struct("<BBHI")


def write(stream: BinaryIO, arrays: Sequence[np.ndarray]) -> None:
    """Write `arrays` of any shape, strides and byte order to `stream`.

    Raises:
        InputError: the format has no code for a dtype.
    """
    stream.write(MAGIC + _COUNT.pack(len(arrays)))
    for array in arrays:
        name = array.dtype.name
        if name not in CODES:
            raise InputError(f"an array of {name} cannot be passed on", hint=nearest(name, CODES))
        # The name leaves the byte order out, so that this also swaps where it must.
        plain = array.astype(tensors.dtype_of(name), order="C", copy=False)
        stream.write(_HEAD.pack(CODES[name], plain.dtype.itemsize * 8, 1, plain.ndim))
        stream.write(struct.pack(f"<{plain.ndim}q", *plain.shape))
        stream.write(plain.reshape(-1).view(np.uint8).data)


def read(stream: BinaryIO) -> list[np.ndarray]:
    """The arrays in `stream`, which must end after them; aligned as kernels want it.

    Raises:
        InternalError: these are not the bytes that `write` makes.
    """
    if _take(stream, len(MAGIC)) != MAGIC:
        raise InternalError("a tensor file does not begin as one")
    (count,) = _COUNT.unpack(_take(stream, _COUNT.size))
    arrays = [_read_one(stream) for _ in range(count)]
    if stream.read(1):
        raise InternalError("a tensor file goes on after its last tensor")
    return arrays


def _read_one(stream: BinaryIO) -> np.ndarray:
    code, bits, lanes, ndim = _HEAD.unpack(_take(stream, _HEAD.size))
    if (code, bits) not in _DTYPES or lanes != 1:
        raise InternalError(f"a tensor file holds an unknown dtype: {code=}, {bits=}, {lanes=}")
    shape = struct.unpack(f"<{ndim}q", _take(stream, 8 * ndim))
    if any(dim < 0 for dim in shape):
        raise InternalError(f"a tensor file holds the shape {shape}")
    array = tensors.empty_aligned(shape, _DTYPES[code, bits])
    buffer = array.reshape(-1).view(np.uint8).data
    # A buffered stream fills the buffer unless it ends before.
    if len(buffer) and stream.readinto(buffer) != len(buffer):  # pyright: ignore
        raise InternalError("a tensor file ends inside a tensor")
    return array


def _take(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise InternalError("a tensor file ends inside a header")
    return data
