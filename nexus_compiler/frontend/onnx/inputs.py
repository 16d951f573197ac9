"""Settles the shapes of a model's inputs: its own, and what the caller fixes or renames."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx.sizes import Sizes
from nexus_compiler.frontend.onnx.values import Host, element_type, variable_of
from nexus_runtime.errors import CaptureError, ShapeError, nearest
from nexus_runtime.signature import Dim, TensorSpec
from nexus_runtime.tensors import BITS

Shapes = Mapping[str, Sequence[int | str | None]]

_UNKNOWN = {"", "?", "-1", "None"}


def specs(
    values: Sequence[onnx.ValueInfoProto],
    shapes: Shapes,
    constants: Mapping[str, np.ndarray] | None = None,
) -> list[TensorSpec]:
    """The inputs `values`, with `shapes` applied. Every dimension is an int or a name.

    The shapes of `constants` settle dimensions, too, which other inputs may share.

    Raises:
        ShapeError: an entry of `shapes` does not fit the model.
        CaptureError: an input is no tensor.
    """
    dtypes = [_dtype(value) for value in values]
    own = _own_shapes(values)
    names = [value.name for value in values]
    known: dict[str, Sequence[int | str | None]] = {
        name: array.shape for name, array in (constants or {}).items() if array.size
    }
    shapes = {**known, **shapes}
    if strange := [name for name in shapes if name not in names]:
        raise ShapeError(
            f"the model has no input '{strange[0]}' to give a shape to",
            hint=nearest(strange[0], names),
        )
    settled = _settle(own, shapes)
    return [TensorSpec(name, dtype, tuple(settled[name])) for name, dtype in zip(names, dtypes)]


def freeze(
    specs: Sequence[TensorSpec], constants: Mapping[str, np.ndarray]
) -> tuple[list[TensorSpec], dict[str, Host]]:
    """The inputs that remain, and the values of those that `constants` makes constants.

    Raises:
        ShapeError: a constant has another type or shape than its input.
    """
    known = {spec.name: spec for spec in specs}
    frozen: dict[str, Host] = {}
    for name, array in constants.items():
        if name not in known:
            raise ShapeError(
                f"the model has no input '{name}' to freeze", hint=nearest(name, known)
            )
        spec = known[name]
        fits = len(spec.shape) == array.ndim and all(
            isinstance(dim, str) or dim == size for dim, size in zip(spec.shape, array.shape)
        )
        if not fits or array.dtype.name != spec.dtype:
            shown = f"{array.dtype.name}{_shown(array.shape)}"
            raise ShapeError(f"input {spec} cannot be frozen to a value that is {shown}")
        frozen[name] = Host(array, spec.dtype, name)
    return [spec for spec in specs if spec.name not in frozen], frozen


def variables(inputs: Sequence[TensorSpec], sizes: Sizes) -> list[relax.Var]:
    """The Relax parameters for `inputs`; a dimension name is one variable wherever it occurs."""
    names = dict.fromkeys(dim for spec in inputs for dim in spec.shape if isinstance(dim, str))
    known = {name: sizes.variable(name) for name in names}
    return [
        variable_of(
            s.name,
            [known[d] if isinstance(d, str) else d for d in s.shape],
            "uint8" if s.dtype in BITS else s.dtype,
        )
        for s in inputs
    ]


def _dtype(value: onnx.ValueInfoProto) -> str:
    if value.type.WhichOneof("value") != "tensor_type":
        raise CaptureError(
            f"input '{value.name}' is no tensor but {value.type.WhichOneof('value') or 'untyped'}",
            hint="Nexus takes models whose inputs are dense tensors",
        )
    return element_type(value.type.tensor_type.elem_type, f"input '{value.name}'")


def _own_shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[Dim] | None]:
    raw = {value.name: _raw(value) for value in values}
    taken: dict[str, str] = {}  # sanitised name -> the name in the model
    result: dict[str, list[Dim] | None] = {}
    for dims in raw.values():
        for dim in dims or ():
            if isinstance(dim, str) and dim:
                _claim(dim, taken)
    known = {original: clean for clean, original in taken.items()}
    for name, dims in raw.items():
        if dims is None:
            result[name] = None
            continue
        result[name] = [
            dim if isinstance(dim, int) else known.get(dim) or _fresh(name, axis, taken)
            for axis, dim in enumerate(dims)
        ]
    return result


def _raw(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Sizes, names, or "" where the model does not say."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value
        if dim.HasField("dim_value") and dim.dim_value >= 0
        else ("" if dim.dim_param in _UNKNOWN else dim.dim_param)
        for dim in value.type.tensor_type.shape.dim
    ]


def _claim(name: str, taken: dict[str, str]) -> str:
    """A Python identifier for `name` that no other name has."""
    if name in taken.values():
        return next(clean for clean, original in taken.items() if original == name)
    clean = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "dim"
    clean = f"dim_{clean}" if clean[0].isdigit() else clean
    while clean in taken:
        clean += "_"
    taken[clean] = name
    return clean


def _fresh(name: str, axis: int, taken: dict[str, str]) -> str:
    if axis == 0 and "batch" not in taken:
        return _claim("batch", taken)
    return _claim(f"{name}_{axis}", taken)


def _settle(own: Mapping[str, list[Dim] | None], shapes: Shapes) -> dict[str, list[Dim]]:
    fixed: dict[str, Dim] = {}  # what became of a symbolic dimension
    result: dict[str, list[Dim]] = {}
    for name, dims in own.items():
        wanted = shapes.get(name)
        if dims is None:
            if wanted is None or any(dim is None for dim in wanted):
                raise ShapeError(
                    f"the model does not say how many dimensions input '{name}' has",
                    hint=f'give its whole shape: shapes={{"{name}": (1, "length")}}',
                )
            result[name] = [dim for dim in wanted if dim is not None]
            continue
        for axis, change in enumerate(_fitting(name, dims, wanted)):
            _fix(name, dims, axis, change, fixed)
        result[name] = dims
    return {
        name: [fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in dims]
        for name, dims in result.items()
    }


def _fitting(
    name: str, dims: Sequence[Dim], wanted: Sequence[int | str | None] | None
) -> Sequence[int | str | None]:
    if wanted is not None and len(wanted) != len(dims):
        raise ShapeError(
            f"input '{name}' has {len(dims)} dimensions, but the given shape "
            f"{_shown(wanted)} has {len(wanted)}",
            hint=f"the model's own shape is {_shown(dims)}",
        )
    return wanted or ()


def _fix(
    name: str, dims: Sequence[Dim], axis: int, change: int | str | None, fixed: dict[str, Dim]
) -> None:
    dim = dims[axis]
    if change is None or change == dim:
        return
    hint = f"the model's own shape of '{name}' is {_shown(dims)}"
    if isinstance(change, int) and change < 1:
        raise ShapeError(f"input '{name}' cannot be {change} long on axis {axis}", hint=hint)
    if isinstance(dim, int):
        raise ShapeError(
            f"input '{name}' is {dim} long on axis {axis} and cannot become {change!r}", hint=hint
        )
    if isinstance(change, str) and not change.isidentifier():
        raise ShapeError(f"'{change}' cannot name a dimension", hint="use letters, digits and _")
    if fixed.setdefault(dim, change) != change:
        raise ShapeError(f"dimension '{dim}' cannot be both {fixed[dim]} and {change}", hint=hint)


def _shown(dims: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
