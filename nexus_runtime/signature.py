"""What goes into and comes out of a compiled model.

A dimension is an integer, a name ("batch": any size, but the same wherever the name occurs in one
call), or an expression over such names ("2*batch + 1", outputs only). Everything here is plain
data: it is stored in the manifest of an artifact and needs neither TVM nor the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from nexus_runtime import guards as conditions
from nexus_runtime.errors import InputError, nearest

Dim = int | str


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype (NumPy's or ml_dtypes' name) and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class FunctionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a module, called as `function(*inputs, *parameters) -> outputs`.

    `updates` maps outputs to the parameters that they are the next values of: mutable state, such
    as the running statistics of a batch norm, which the caller keeps. `guards` are conditions on
    the sizes of symbolic dimensions (see `nexus_runtime/guards.py`): what the model was captured
    for, and what its kernels rely on.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: tuple[str, ...] = ()
    updates: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    guards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse guards that could not be checked: with ValueError, as msgspec expects it."""
        if not self.guards:
            return
        known = {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str)}
        for guard in self.guards:
            for name in conditions.dimensions(guard):
                if name not in known:
                    raise ValueError(f"guard '{guard}': no input has a dimension '{name}'")

    @property
    def donated(self) -> tuple[int, ...]:
        """For each output, the position of the input whose memory it may take; -1 for none."""
        places = {spec.name: place for place, spec in enumerate(self.inputs)}
        return tuple(places.get(self.updates.get(spec.name, ""), -1) for spec in self.outputs)

    def check(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Check `arrays` (by input name) against the inputs; return the size of every symbolic dim.

        Raises:
            InputError: a name, a dtype, a rank or a dimension does not fit, or a guard is not met.
        """
        names = [spec.name for spec in self.inputs]
        if unknown := [name for name in arrays if name not in names]:
            raise InputError(
                f"'{self.name}' has no input '{unknown[0]}'", hint=nearest(unknown[0], names)
            )
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            if spec.name not in arrays:
                raise InputError(f"input '{spec.name}' is missing", hint=f"it is {spec}")
            _check_one(spec, arrays[spec.name], sizes)
        for guard in self.guards:
            if not conditions.holds(guard, sizes):
                raise self._unmet(guard, sizes)
        return sizes

    def _unmet(self, guard: str, sizes: Mapping[str, int]) -> InputError:
        """The error for sizes that break `guard`, with the first place of each dimension."""
        told: list[str] = []
        for name in conditions.dimensions(guard):
            spec, axis = next((s, s.shape.index(name)) for s in self.inputs if name in s.shape)
            told.append(
                f"input '{spec.name}' is {sizes[name]} long on axis {axis} (dimension '{name}')"
            )
        return InputError(
            f"{' and '.join(told)}, but '{self.name}' needs {guard}",
            hint="the model was captured for such sizes only: capture it again for others",
        )


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All entries of a module and the parameters (weights) that they share."""

    functions: tuple[FunctionSpec, ...]
    parameters: tuple[TensorSpec, ...] = ()

    def function(self, name: str) -> FunctionSpec:
        """The entry called `name`.

        Raises:
            InputError: there is none.
        """
        for function in self.functions:
            if function.name == name:
                return function
        raise InputError(
            f"there is no function '{name}'", hint=nearest(name, [f.name for f in self.functions])
        )


def _check_one(spec: TensorSpec, array: np.ndarray, sizes: dict[str, int]) -> None:
    if array.dtype.name != spec.dtype:
        raise InputError(
            f"input '{spec.name}' is {array.dtype.name}, but the model takes {spec.dtype}",
            hint=f"convert it: array.astype('{spec.dtype}')",
        )
    if array.ndim != len(spec.shape):
        raise InputError(
            f"input '{spec.name}' has {array.ndim} dimensions {list(array.shape)}, "
            f"but the model takes {spec}"
        )
    for axis, (dim, size) in enumerate(zip(spec.shape, array.shape)):
        wanted = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if size != wanted:
            name = f" (dimension '{dim}')" if isinstance(dim, str) else ""
            raise InputError(
                f"input '{spec.name}' is {size} long on axis {axis}, but must be {wanted}{name}",
                hint=f"the model takes {spec}",
            )
