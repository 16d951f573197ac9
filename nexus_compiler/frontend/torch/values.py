"""Relax and NumPy values for PyTorch's tensors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from tvm import relax

from nexus_runtime.errors import CaptureError

R: Any = relax.op
"""Relax's operators. Untyped: TVM's annotations ask for what it does not take (`axes: Expr`)."""

DTYPES: dict[torch.dtype, str] = {
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def dtype_name(dtype: torch.dtype) -> str:
    """The name of `dtype` in NumPy, or ml_dtypes.

    Raises:
        CaptureError: we do not carry such elements.
    """
    if dtype not in DTYPES:
        raise CaptureError(
            f"{dtype} tensors cannot be compiled",
            hint="convert them to one of: " + ", ".join(DTYPES.values()),
        )
    return DTYPES[dtype]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype, `ml_dtypes`' where NumPy has none."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def is_float(dtype: str) -> bool:
    """Whether `dtype` (a name) is a floating-point type."""
    return "float" in dtype


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The elements of a tensor on the CPU; without a copy where its memory has no gaps."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if plain.dtype == torch.bfloat16:
        return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    dtype_name(plain.dtype)
    return plain.numpy()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """The inverse of `as_array`: a tensor over the same memory."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def tensor_constant(value: Any, dtype: str) -> relax.Expr:
    """A number or an array as a Relax constant."""
    return relax.const(np.asarray(value).astype(numpy_dtype(dtype)), dtype)
