"""The table of operations that the families fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax


@dataclass(frozen=True)
class Operation:
    """One operation of a region, ready to become Relax.

    Attributes:
        inputs: Relax variables.
        attrs: the node's.
        sizes: the node's, symbolic where the region is.
        dtype: of the result.
        emit: binds an expression to a variable.
    """

    inputs: Sequence[Any]
    attrs: tuple[Any, ...]
    sizes: Sequence[Any]
    dtype: str
    emit: Callable[[Any], Any]

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    @property
    def kind(self) -> str:
        """NumPy's letter for the kind of the first input's dtype."""
        return np.dtype(self.of).kind

    @property
    def of(self) -> str:
        """The dtype of the first input."""
        return str(self.x.ty.dtype)

    def number(self, value: Any, dtype: str | None = None) -> Any:
        """A constant; of the result's dtype by default."""
        return relax.const(value, dtype or self.dtype)

    def cast(self, value: Any, dtype: str) -> Any:
        """A value in another dtype."""
        return self.emit(relax.op.astype(value, dtype))


Emitter = Callable[[Operation], Any]
EMITTERS: dict[str, Emitter] = {}


def emitter(*names: str) -> Callable[[Emitter], Emitter]:
    """Enter a function into the table under `names`."""

    def enter(function: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(names, function))
        return function

    return enter


def simple(**operators: Callable[..., Any]) -> None:
    """Enter Relax operators that take the inputs and nothing else."""
    for name, operator in operators.items():
        EMITTERS[name] = lambda it, operator=operator: operator(*it.inputs)
