"""NumPy arrays as tensors of TVM's runtime, and back.

Each way is walked for every array of every call, so that what need not be asked is not asked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from nexus_runtime import tensors

_BFLOAT16, _BFLOAT16_CODE, _UINT16_CODE = "bfloat16", (4, 16), (1, 16)
_CPU = (1, 0)


def importer(ffi: Any, *, anywhere: bool) -> Callable[[np.ndarray], Any]:
    """What turns an array into a tensor in its memory, or in that of a copy where kernels need one.

    Args:
        ffi: the module `tvm_ffi`.
        anywhere: kernels need no alignment beyond that of an element.
    """
    take, alignment = ffi.from_dlpack, 1 if anywhere else tensors.ALIGNMENT

    def tensor_of(array: np.ndarray) -> Any:
        # NumPy's strides of empty arrays are no kernel's.
        if not (array.flags.carray and array.size):
            return _uncommon(take, tensors.aligned(array))
        try:
            tensor = take(array)
        except BufferError:  # NumPy does not export this type
            return _uncommon(take, tensors.aligned(array))
        return tensor if tensor.data_ptr() % alignment == 0 else take(tensors.copied(array))

    return tensor_of


def _uncommon(take: Callable[[Any], Any], array: np.ndarray) -> Any:
    plain = tensors.bits(array)
    if plain.dtype.name == _BFLOAT16:
        return take(_Relabelled(plain.view(np.uint16), *_BFLOAT16_CODE))
    return take(plain)


def reader(dtype: str) -> Callable[[Any], np.ndarray]:
    """What turns a tensor into an array of `dtype`.

    The array is a copy: the memory belongs to the machine's pool and is used again by the next
    call, or it is that of an input or a weight.
    """
    if dtype == _BFLOAT16:
        return _read_bfloat16
    if dtype in tensors.BITS:
        return lambda tensor: tensors.from_bits(_read(tensor), dtype)
    return _read


def _read(tensor: Any) -> np.ndarray:
    return np.array(np.from_dlpack(tensor))


def _read_bfloat16(tensor: Any) -> np.ndarray:
    return _read(_Relabelled(tensor, *_UINT16_CODE)).view(tensors.dtype_of(_BFLOAT16))


class _Relabelled:
    """A tensor whose export by DLPack tells another element type: NumPy's refuses bfloat16."""

    def __init__(self, tensor: Any, code: int, bits: int) -> None:
        self._tensor = tensor
        self._type = bytes([code, bits])

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self._tensor.__dlpack__()
        find = ctypes.pythonapi.PyCapsule_GetPointer
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # DLTensor: data (8 bytes), device (8), ndim (4), and then the type's code and bits.
        ctypes.memmove(find(capsule, b"dltensor") + 20, self._type, 2)
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU
