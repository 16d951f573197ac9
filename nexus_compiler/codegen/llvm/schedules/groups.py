"""Products in groups: convolutions whose filters see some of the channels only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel


@dataclass(frozen=True)
class Groups:
    """`axis` as `size` columns of each `group`: what a convolution in groups computes."""

    axis: tirx.IterVar
    group: tirx.IterVar
    column: tirx.IterVar

    def value(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """That of `axis` where those of the two others are known."""
        if self.column.var not in values:
            return {}
        first = values[self.group.var] * self.column.dom.extent
        return {self.axis.var: first + values[self.column.var]}


def grouped(
    factors: tuple[Any, Any], order: Sequence[tirx.IterVar]
) -> tuple[Groups, Any, Any] | None:
    """The last axis in groups, and the operands in their terms; None where no operand has any.

    The left operand is the one that knows `axis // size` and nothing else of the axis.
    """
    axis = order[-1]
    extent = build.known(axis.dom.extent)
    for left, right in (factors, factors[::-1]):
        size = _group_size(left, axis.var)
        if not size or not extent or extent % size or extent == size:
            continue
        group, column = _axis("group", extent // size), _axis("column", size)
        found = Groups(axis, group, column)
        whole = {axis.var: group.var * size + column.var}
        return found, _by_group(left, axis.var, group.var), kernel.substitute(right, whole)
    return None


def _axis(name: str, extent: int) -> tirx.IterVar:
    turns = (build.number(0), build.number(extent))
    return tirx.IterVar(turns, tirx.Var(name, "int64"), tirx.IterVar.DataPar)


def _group_size(value: Any, variable: tirx.Var) -> int:
    """The `size` of `variable // size`, if `value` uses `variable` in no other way; or 0."""
    found: set[int] = set()

    def visit(node: tirx.FloorDiv) -> None:
        if variable.same_as(node.a):
            found.add(build.known(node.b) or 0)

    tvm_ffi.structural_walk(value, (tirx.FloorDiv, visit))
    rest = kernel.variables(_by_group(value, variable, build.number(0)))
    return found.pop() if len(found) == 1 and variable not in rest else 0


def _by_group(value: Any, variable: tirx.Var, group: Any) -> Any:
    """`value` with `variable // size` replaced."""

    def divided(node: tirx.FloorDiv) -> Any:
        return group if variable.same_as(node.a) else node

    return tvm_ffi.structural_map(value, (tirx.FloorDiv, divided))
