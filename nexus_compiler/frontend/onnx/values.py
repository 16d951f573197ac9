"""What flows along the edges of an ONNX graph while it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx import external
from nexus_compiler.frontend.onnx.sizes import Size, expression
from nexus_runtime.errors import CaptureError, UnsupportedOperator
from nexus_runtime.tensors import BITS, dtype_of

R: Any = relax.op
"""Relax's operators. Untyped: TVM's annotations ask for what it does not take (`axes: Expr`)."""

CODE_ELEMENTS = 16
"""Up to so many elements a constant goes into the code; above, it is a parameter."""

ELEMENT_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.UINT32: "uint32",
    onnx.TensorProto.UINT64: "uint64",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    onnx.TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    onnx.TensorProto.FLOAT8E5M2: "float8_e5m2",
    onnx.TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    onnx.TensorProto.FLOAT8E8M0: "float8_e8m0fnu",
    onnx.TensorProto.FLOAT4E2M1: "float4_e2m1fn",
    onnx.TensorProto.UINT4: "uint4",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT2: "uint2",
    onnx.TensorProto.INT2: "int2",
}


@dataclass(frozen=True)
class Host:
    """A value that is known while importing.

    Attributes:
        array: its elements; of dtype object where some are symbolic sizes.
        dtype: its element type in ONNX, by NumPy's name.
        name: what it is called if it becomes a parameter.
        weight: it is a weight: a parameter wherever a tensor is needed, and never folded away.
    """

    array: np.ndarray
    dtype: str
    name: str = ""
    weight: bool = False

    @property
    def symbolic(self) -> bool:
        """Whether it holds sizes that depend on the inputs."""
        return self.array.dtype == object

    def named(self, name: str) -> Host:
        """The same value with a name, unless it has one already."""
        return self if self.name else replace(self, name=name)


Value = relax.Expr | Host


def host(array: Any, dtype: str = "") -> Host:
    """A host value; an object array of nothing but numbers becomes a plain one."""
    array = np.asarray(array)
    dtype = dtype or array.dtype.name
    if array.dtype == object and all(_is_number(item) for item in array.flat):
        array = array.astype(numpy_dtype(dtype))
    return Host(array, dtype)


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float | bool | np.number | np.bool_)


def check_tensor(value: Value) -> None:
    """Check that `value` is a tensor, no sequence (a Relax tuple) and no empty optional.

    Raises:
        UnsupportedOperator: it is none.
    """
    if isinstance(value, Host):
        if value.dtype == "nothing":
            raise UnsupportedOperator("an empty optional stands where a tensor is needed")
    elif isinstance(value.ty, relax.TupleType):
        raise UnsupportedOperator(
            "a sequence stands where a tensor is needed, or is an output of the model",
            hint="make tensors of it: SequenceAt, ConcatFromSequence",
        )


def is_tensor(value: Value) -> bool:
    """Whether `value` is a tensor, no sequence and no empty optional."""
    if isinstance(value, Host):
        return value.dtype != "nothing"
    return not isinstance(value.ty, relax.TupleType)


def tensor_type(tensor: relax.Expr) -> Any:
    """The Relax type of a tensor: its `shape`, `ndim` and `dtype`, which the base class lacks."""
    return tensor.ty


def variable_of(name: str, shape: Sequence[Size], dtype: str) -> relax.Var:
    """A Relax variable for a tensor."""
    dims: Any = [expression(size) for size in shape]
    return relax.Var(name, relax.TensorType(dims, dtype))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype, `ml_dtypes`' where NumPy has none."""
    return dtype_of(name)


def element_type(number: int, what: str) -> str:
    """The name of an ONNX element type.

    Raises:
        CaptureError: we do not carry such elements.
    """
    if number not in ELEMENT_TYPES:
        names = {code: name for name, code in onnx.TensorProto.DataType.items()}
        kind = names.get(number, f"unknown (type {number})")
        raise CaptureError(
            f"{what} holds {kind} elements, which Nexus cannot compile",
            hint="convert it to one of: " + ", ".join(ELEMENT_TYPES.values()),
        )
    return ELEMENT_TYPES[number]


def read_tensor(tensor: onnx.TensorProto) -> np.ndarray:
    """The array of a stored tensor.

    Raises:
        CaptureError: its element type or its bytes cannot be read.
    """
    dtype = element_type(tensor.data_type, f"tensor '{tensor.name}'")
    if external.is_external(tensor):
        if BITS.get(dtype, 8) == 8:
            return external.elements(tensor, numpy_dtype(dtype))
        whole = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, name=tensor.name)
        whole.raw_data = external.mapped(tensor).tobytes()  # several elements a byte
        tensor = whole
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise CaptureError(
            f"tensor '{tensor.name}' is damaged: {error}", hint="export the model again"
        ) from error
    return np.ascontiguousarray(array, numpy_dtype(dtype)).reshape(tuple(tensor.dims))


def is_float(dtype: str) -> bool:
    """Whether `dtype` (a name) is a floating-point type."""
    return "float" in dtype
