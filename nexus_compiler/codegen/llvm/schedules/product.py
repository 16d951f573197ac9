"""Recognises sums of products: matmul in all layouts, batched or not, and 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.placement import Placement, place

_REUSE = 4  # rows from which on it pays to copy the right operand into the order of the tiles


@dataclass(frozen=True)
class Product:
    """A recognised kernel: out[outer, rows, columns] = epilogue(sum over steps of left * right).

    The left operand does not depend on the columns, the right one not on the rows. Several axes
    that follow each other count as one. `ordered`: neighbouring columns are neighbours in memory.
    """

    placement: Placement
    left: Any
    right: Any
    outer: tuple[tirx.IterVar, ...]
    rows: tuple[tirx.IterVar, ...]
    columns: tuple[tirx.IterVar, ...]
    ordered: bool

    @property
    def stage(self) -> Stage:
        """The sum."""
        return self.placement.stage


def recognise(kernel_: Kernel) -> Product | None:
    """Find operands and axes; None where the form is another, or there is nothing to gain."""
    stages = kernel_.stages
    if not 0 < len(stages) <= 2 or not stages[0].reduced:
        return None
    operands, placement = _operands(stages[0]), place(stages)
    if operands is None or placement is None or not placement.order:
        return None
    left, right = operands
    if placement.order[-1].var in kernel.variables(left):
        left, right = right, left
    only_left = kernel.variables(left) - kernel.variables(right)
    only_right = kernel.variables(right) - kernel.variables(left)
    columns = _tail(placement.order, lambda axis: axis.var in only_right)
    if not columns:
        return None
    rest = placement.order[: -len(columns)]
    rows = _tail(rest, lambda axis: axis.var in only_left)
    rows = rows or tuple(axis for axis in rest if axis.var in only_left)[-1:]
    outer = tuple(axis for axis in rest if not any(axis is row for row in rows))
    ordered = _ordered(right, columns)
    count = build.known(build.product(build.extents(rows)))
    if not ordered and count is not None and count < _REUSE:
        return None
    return Product(placement, left, right, outer, rows, columns, ordered)


def _operands(stage: Stage) -> tuple[Any, Any] | None:
    value = stage.store.value
    if not isinstance(value, tirx.Add) or stage.init is None:
        return None
    for total, term in ((value.a, value.b), (value.b, value.a)):
        if isinstance(total, TensorLoad) and total.source.same_as(stage.store.buffer):
            return (term.a, term.b) if isinstance(term, tirx.Mul) else None
    return None


def _tail(
    axes: Sequence[tirx.IterVar], belongs: Callable[[tirx.IterVar], bool]
) -> tuple[tirx.IterVar, ...]:
    """The longest tail of `axes` of which each `belongs`."""
    count = 0
    while count < len(axes) and belongs(axes[-1 - count]):
        count += 1
    return tuple(axes[len(axes) - count :])


def _ordered(value: Any, columns: Sequence[tirx.IterVar]) -> bool:
    if not isinstance(value, TensorLoad):
        return False
    count = len(columns)
    names = [axis.var for axis in columns]
    if not all(index.same_as(name) for index, name in zip(value.indices[-count:], names)):
        return False
    if kernel.variables(list(value.indices[:-count])) & set(names):
        return False
    inner = zip(value.source.shape[-count + 1 :], build.extents(columns)[1:])
    return count == 1 or all(kernel.same(size, turns) for size, turns in inner)
