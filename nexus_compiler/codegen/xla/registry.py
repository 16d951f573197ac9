"""The table of translations: the name of a Relax operator to the function that does it with JAX.

One file of `operators/` per family fills it. Those files import JAX, so they are only loaded by
`handlers()`, when a module is really built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_runtime.errors import UnsupportedOperator

FAMILIES = (
    "activation",
    "attention",
    "conv",
    "create",
    "elementwise",
    "gradients",
    "image",
    "index",
    "join",
    "loss",
    "matmul",
    "normalize",
    "pool",
    "quantize",
    "reduce",
    "scatter",
    "shape",
    "sort",
)


@dataclass(frozen=True)
class Node:
    """One call of an operator, as a handler sees it.

    Attributes:
        operator: the name of the operator ("relax.add").
        function: the Relax function that holds the call, for messages.
        inputs: the evaluated arguments: a JAX array for a tensor, a tuple of dimensions for a
            shape, a tuple for a tuple, and an int, a float or a symbolic dimension for a scalar.
        attrs: TVM's attributes, or None.
        type: the Relax type of the result.
        dimension: turns a dimension of a Relax type into an int or a JAX dimension.
    """

    operator: str
    function: str
    inputs: tuple[Any, ...]
    attrs: Any
    type: Any
    dimension: Callable[[Any], Any]

    def __getitem__(self, position: int) -> Any:
        return self.inputs[position]

    @property
    def dtype(self) -> Any:
        """The dtype of the result as NumPy's (or ml_dtypes')."""
        import jax.numpy as jnp

        return jnp.dtype(str(self.type.dtype))

    @property
    def shape(self) -> tuple[Any, ...]:
        """The dimensions of the result."""
        return tuple(self.dimension(dim) for dim in self.type.shape.values)

    def array(self, position: int, dtype: Any) -> Any:
        """The argument as an array; a scalar or a dimension becomes one of `dtype`."""
        import jax.numpy as jnp

        value = self.inputs[position]
        return value if hasattr(value, "dtype") else jnp.asarray(value, dtype)

    def refuse(self, reason: str, *, hint: str = "") -> UnsupportedOperator:
        """The error to raise where this call cannot be translated."""
        return UnsupportedOperator(
            f"{self.operator} in function '{self.function}': {reason}",
            hint=hint or "rewrite this part of the model, or build it for a target of kind 'llvm'",
        )


Handler = Callable[[Node], Any]
"""Returns a JAX array, or a tuple of them where the operator has several results."""

_HANDLERS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Make the decorated function the handler of the Relax operators `names`."""

    def enter(handler: Handler) -> Handler:
        for name in names:
            _HANDLERS["relax." + name] = handler
        return handler

    return enter


def table(entries: Mapping[str, Callable[..., Any]], adapt: Callable[..., Handler]) -> None:
    """Enter `adapt(function)` as the handler of each operator of `entries`."""
    for name, function in entries.items():
        operator(name)(adapt(function))


def handlers() -> Mapping[str, Handler]:
    """All handlers by operator name; imports JAX."""
    for family in FAMILIES:
        importlib.import_module(f"nexus_compiler.codegen.xla.operators.{family}")
    return _HANDLERS


def axes_of(axis: Any, rank: int) -> tuple[int, ...]:
    """An `axis` attribute (None, an int or a list of ints) as non-negative axes; None is all."""
    if axis is None:
        return tuple(range(rank))
    listed: Sequence[Any] = axis if hasattr(axis, "__len__") else (axis,)
    return tuple(int(item) % rank for item in listed)


def ints(values: Any) -> list[int]:
    """An array attribute as Python ints."""
    return [int(value) for value in values]
