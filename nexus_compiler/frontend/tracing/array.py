"""The array that user code computes with: a handle on a node of the trace."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import recorder, shapes
from nexus_compiler.frontend.tracing.nodes import Node, Shape

Scalar = bool | int | float
CPU = "cpu"


class Array:
    """An array of the Python array API standard whose values are computed when they are asked for.

    What asks: `bool`, `int`, `float`, `complex`, `item`, `tolist`, printing, NumPy and DLPack, and
    the functions whose result has a shape that depends on data.

    Attributes:
        node: what the array stands for in the trace.
    """

    __slots__ = ("__weakref__", "node")
    __array_ufunc__ = None  # NumPy arrays leave mixed operations to us, and we refuse them
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, node: Node) -> None:
        self.become(node)

    def become(self, node: Node) -> None:
        """Stand for another node from now on."""
        self.node = node
        if node.op != "leaf":
            node.hold(self)

    @property
    def shape(self) -> Shape:
        """The sizes of all axes."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype, as NumPy's object for it."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.node.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return shapes.count(self.node.shape)

    @property
    def device(self) -> str:
        """Where the values are: "cpu"."""
        return CPU

    @property
    def T(self) -> Array:
        """The transpose of a matrix."""
        if self.ndim != 2:
            raise ValueError(f"T is for matrices, not for shape {self.shape}; use mT")
        return self.mT

    @property
    def mT(self) -> Array:
        """The transpose of the last two axes."""
        return _f().matrix_transpose(self)

    def item(self) -> Scalar:
        """The only element as a Python scalar."""
        return self._scalar("item()").item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return recorder.force(self, "tolist()").tolist()

    def to_device(self, device: str, /, *, stream: Any = None) -> Array:
        """The array itself: there is one device."""
        if device != CPU or stream is not None:
            raise ValueError(f"there is no device {device!r} with stream {stream!r}, only 'cpu'")
        return self

    def _scalar(self, reason: str) -> np.ndarray:
        if self.shape != ():
            raise TypeError(f"{reason} needs an array without axes, not one of shape {self.shape}")
        return recorder.force(self, reason)

    def __bool__(self) -> bool:
        return bool(self._scalar("bool()"))

    def __int__(self) -> int:
        return int(self._scalar("int()"))

    def __float__(self) -> float:
        return float(self._scalar("float()"))

    def __complex__(self) -> complex:
        return complex(self._scalar("complex()"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"an array of {self.dtype} is no index")
        return int(self._scalar("index"))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(recorder.force(self, "__array__()"), dtype=dtype, copy=copy)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        value = recorder.force(self, "__dlpack__()")
        return value.__dlpack__(
            stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
            raise ValueError(f"version {api_version} of the array API standard is not supported")
        from nexus_compiler import array_api

        return array_api

    def __repr__(self) -> str:
        return f"nexus.{np.array_repr(recorder.force(self, 'repr()'))}"

    def __getitem__(self, key: Any) -> Array:
        return _f().getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _f().setitem(self, key, value)

    def __neg__(self) -> Array:
        return _f().negative(self)

    def __pos__(self) -> Array:
        return _f().positive(self)

    def __abs__(self) -> Array:
        return _f().abs(self)

    def __invert__(self) -> Array:
        return _f().bitwise_invert(self)

    def __add__(self, other: Any) -> Array:
        return _operator("add", self, other)

    def __radd__(self, other: Any) -> Array:
        return _operator("add", other, self)

    def __sub__(self, other: Any) -> Array:
        return _operator("subtract", self, other)

    def __rsub__(self, other: Any) -> Array:
        return _operator("subtract", other, self)

    def __mul__(self, other: Any) -> Array:
        return _operator("multiply", self, other)

    def __rmul__(self, other: Any) -> Array:
        return _operator("multiply", other, self)

    def __truediv__(self, other: Any) -> Array:
        return _operator("divide", self, other)

    def __rtruediv__(self, other: Any) -> Array:
        return _operator("divide", other, self)

    def __floordiv__(self, other: Any) -> Array:
        return _operator("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Array:
        return _operator("floor_divide", other, self)

    def __mod__(self, other: Any) -> Array:
        return _operator("remainder", self, other)

    def __rmod__(self, other: Any) -> Array:
        return _operator("remainder", other, self)

    def __pow__(self, other: Any) -> Array:
        return _operator("pow", self, other)

    def __rpow__(self, other: Any) -> Array:
        return _operator("pow", other, self)

    def __matmul__(self, other: Any) -> Array:
        return _f().matmul(self, other) if isinstance(other, Array) else NotImplemented

    def __and__(self, other: Any) -> Array:
        return _operator("bitwise_and", self, other)

    def __rand__(self, other: Any) -> Array:
        return _operator("bitwise_and", other, self)

    def __or__(self, other: Any) -> Array:
        return _operator("bitwise_or", self, other)

    def __ror__(self, other: Any) -> Array:
        return _operator("bitwise_or", other, self)

    def __xor__(self, other: Any) -> Array:
        return _operator("bitwise_xor", self, other)

    def __rxor__(self, other: Any) -> Array:
        return _operator("bitwise_xor", other, self)

    def __lshift__(self, other: Any) -> Array:
        return _operator("bitwise_left_shift", self, other)

    def __rlshift__(self, other: Any) -> Array:
        return _operator("bitwise_left_shift", other, self)

    def __rshift__(self, other: Any) -> Array:
        return _operator("bitwise_right_shift", self, other)

    def __rrshift__(self, other: Any) -> Array:
        return _operator("bitwise_right_shift", other, self)

    def __lt__(self, other: Any) -> Array:
        return _operator("less", self, other)

    def __le__(self, other: Any) -> Array:
        return _operator("less_equal", self, other)

    def __gt__(self, other: Any) -> Array:
        return _operator("greater", self, other)

    def __ge__(self, other: Any) -> Array:
        return _operator("greater_equal", self, other)

    def __eq__(self, other: Any) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _operator("equal", self, other)

    def __ne__(self, other: Any) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _operator("not_equal", self, other)


@functools.cache
def _f() -> Any:
    from nexus_compiler.frontend.tracing import functions

    return functions


def _operator(name: str, left: Any, right: Any) -> Array:
    other = right if isinstance(left, Array) else left
    if not isinstance(other, Array | bool | int | float | complex):
        return NotImplemented
    return getattr(_f(), name)(left, right)
