"""What a gradient rule is given, and what it can say in few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax


@dataclass(frozen=True)
class Site:
    """One call on the way back.

    Attributes:
        block: where to emit to.
        call: the call.
        result: the variable that holds its result.
        adjoint: the gradient of the loss by the result.
    """

    block: relax.BlockBuilder
    call: relax.Call
    result: relax.Var
    adjoint: relax.Expr

    @property
    def args(self) -> list[Any]:
        """The operands."""
        return list(self.call.args)

    @property
    def attrs(self) -> Any:
        """The operator's attributes."""
        return self.call.attrs

    def put(self, expression: relax.Expr) -> relax.Var:
        """Bind `expression`."""
        return self.block.emit(expression)

    def number(self, value: float) -> relax.Expr:
        """A constant of the dtype of the adjoint."""
        return relax.const(value, dtype(self.adjoint))

    def mul(self, a: relax.Expr, b: relax.Expr | float) -> relax.Var:
        """a * b."""
        return self.put(relax.op.multiply(a, self._operand(b)))

    def add(self, a: relax.Expr, b: relax.Expr | float) -> relax.Var:
        """a + b."""
        return self.put(relax.op.add(a, self._operand(b)))

    def sub(self, a: relax.Expr, b: relax.Expr | float) -> relax.Var:
        """a - b."""
        return self.put(relax.op.subtract(a, self._operand(b)))

    def div(self, a: relax.Expr, b: relax.Expr | float) -> relax.Var:
        """a / b."""
        return self.put(relax.op.divide(a, self._operand(b)))

    def reshape(self, value: relax.Expr, dims: Sequence[Any]) -> relax.Var:
        """`value` in other dimensions."""
        return self.put(relax.op.reshape(value, list(dims)))

    def like(self, adjoint: relax.Expr, operand: relax.Expr) -> relax.Var:
        """`adjoint` in the shape of `operand`."""
        return self.reshape(adjoint, dims(operand))

    def tvm(self) -> Sequence[relax.Expr | None]:
        """The parts that TVM's own rule gives."""
        rule = self.call.op.get_attr("FPrimalGradient")
        return list(rule(self.result, self.call, self.adjoint, self.block))

    def _operand(self, value: relax.Expr | float) -> relax.Expr:
        return self.number(value) if isinstance(value, int | float) else value


Rule = Callable[[Site], Sequence[relax.Expr | None]]
"""Gives the adjoint of each operand; None for one that nothing flows back to."""


def dims(value: relax.Expr) -> list[Any]:
    """The dimensions of `value`: integers where they are fixed."""
    found: list[Any] = []
    for dim in value.ty.shape.values:
        found.append(int(dim) if hasattr(dim, "value") else dim)
    return found


def dtype(value: relax.Expr) -> str:
    """The dtype of `value`, as NumPy calls it."""
    return str(value.ty.dtype.dtype)


def positive(axes: Any, rank: int) -> list[int]:
    """`axes` counted from 0, ascending; None is all."""
    if axes is None:
        return list(range(rank))
    listed = [axes] if isinstance(axes, int) else list(axes)
    return sorted(int(axis) % rank for axis in listed)


def nothing(site: Site) -> Sequence[relax.Expr | None]:
    """For functions that are flat wherever they are smooth."""
    return [None] * len(site.args)
