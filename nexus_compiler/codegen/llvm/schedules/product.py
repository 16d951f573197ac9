"""Recognises sums of products: matmul in all layouts, batched or not, and 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.groups import Groups, grouped
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.merging import joint
from nexus_compiler.codegen.llvm.schedules.placement import Placement, place
from nexus_compiler.codegen.llvm.schedules.reduce import in_order

_SHORT = 8  # rows that leave registers unused
_REUSE = 4  # rows from which on it pays to copy the right operand into the order of the tiles


@dataclass(frozen=True)
class Product:
    """A recognised kernel: out[outer, rows, columns] = epilogue(sum over steps of left * right).

    The left operand does not depend on the columns, the right one not on the rows. Several axes
    that follow each other count as one, rows only where the left operand lies in their order.

    Attributes:
        before: elementwise stages that make an operand, pads for example.
        ordered: neighbouring columns are neighbours in memory.
        line: tiles are of whole lines of so many rows; 1: of any rows.
        groups: the axis that the first of `outer` and the last of `columns` stand for, where the
            left operand knows its groups only.
        packed: columns of one tile, where the right operand is in tiles already; else 0.
    """

    before: tuple[Stage, ...]
    placement: Placement
    left: Any
    right: Any
    outer: tuple[tirx.IterVar, ...]
    rows: tuple[tirx.IterVar, ...]
    line: int
    columns: tuple[tirx.IterVar, ...]
    ordered: bool
    packed: int
    groups: Groups | None

    def settled(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """`values` of axes, with that of the axis which stands in groups."""
        return values if self.groups is None else values | self.groups.value(values)

    @property
    def stage(self) -> Stage:
        """The sum."""
        return self.placement.stage

    @property
    def pitch(self) -> int:
        """Bytes from one row of the left operand to the next; 0 where that is not one number."""
        if not isinstance(self.left, TensorLoad) or not self.rows:
            return 0
        place: Any = build.number(0)
        for index, size in zip(self.left.indices, self.left.source.shape):
            place = place * size + index
        row = self.rows[-1].var
        step = kernel.substitute(place, {row: row + 1}) - place
        return (build.known(Analyzer().simplify(step)) or 0) * _bytes(self.left)


def _bytes(value: Any) -> int:
    return tvm.DataType(str(value.ty)).bits // 8


def recognise(kernel_: Kernel, machine: Machine) -> Product | None:
    """Find operands and axes; None where the form is another, or there is nothing to gain."""
    before, stages = _split(kernel_.stages)
    if not stages:
        return None
    factors, placement = operands(stages[0]), place(stages)
    if factors is None or placement is None or not placement.order:
        return None
    (left, right), order, groups = factors, placement.order, None
    if (found := grouped(factors, placement.order)) is not None:
        groups, left, right = found
        order = (groups.group, *placement.order[:-1], groups.column)
    elif placement.order[-1].var in kernel.variables(left):
        left, right = right, left
    only_left = kernel.variables(left) - kernel.variables(right)
    only_right = kernel.variables(right) - kernel.variables(left)
    columns = _tail(order, lambda axis: axis.var in only_right)
    if not columns:
        return None
    rest = order[: -len(columns)]
    rows = _tail(rest, lambda axis: axis.var in only_left)
    rows, line = _lines(left, rows)
    rows = rows or tuple(axis for axis in rest if axis.var in only_left)[-1:]
    outer = tuple(axis for axis in rest if not any(axis is row for row in rows))
    packed = _packed(right, columns, machine.lanes(str(stages[0].store.buffer.dtype)))
    ordered = bool(packed) or _ordered(right, columns)
    count = build.known(build.product(build.extents(rows)))
    if not ordered and count is not None and count < _REUSE:
        return None
    return Product(
        before, placement, left, right, outer, rows, line, columns, ordered, packed, groups
    )


def _split(stages: Sequence[Stage]) -> tuple[tuple[Stage, ...], Sequence[Stage]]:
    """The stages before the first reduction, and those from it on."""
    place = next((i for i, stage in enumerate(stages) if stage.reduced), len(stages))
    return tuple(stages[:place]), stages[place:]


def _lines(left: Any, rows: Sequence[tirx.IterVar]) -> tuple[tuple[tirx.IterVar, ...], int]:
    """Those of `rows` that count as one axis, and how many of them only stand together in a tile.

    Windows jump at the end of a line of pixels. In tiles of whole lines the jumps are constants;
    that is worth it where one line is too short to fill a tile.
    """
    found = _joined(left, rows)
    size = build.known(build.product(build.extents(found)))
    if len(found) == len(rows) or not size or size > _SHORT:
        return found, 1
    before = rows[-len(found) - 1]
    return ((before, *found), size) if build.known(before.dom.extent) else (found, 1)


def _joined(left: Any, rows: Sequence[tirx.IterVar]) -> tuple[tirx.IterVar, ...]:
    """The longest tail of `rows` that `left` walks through as through one axis."""
    found = tuple(rows[-1:])
    for axis in reversed(rows[:-1]):
        pairs = [(load.source, list(load.indices)) for load in kernel.loads(left)]
        if not all(joint(buffer, indices, axis, found[0]) for buffer, indices in pairs):
            break
        found = (axis, *found)
    return found


def _packed(right: Any, columns: Sequence[tirx.IterVar], lanes: int) -> int:
    """The width of the tiles that `right` is in; 0 where it is in none.

    Tiles are read in whole vectors: what lies in others, heads of an attention for one, is no tile.
    """
    if not isinstance(right, TensorLoad) or len(columns) != 1 or len(right.indices) < 2:
        return 0
    width, own = build.known(right.source.shape[-1]), columns[0].var
    first, *steps, last = right.indices
    if not width or width % lanes or own in kernel.variables(steps):
        return 0
    tiled = kernel.same(first, tirx.floordiv(own, width))
    return width if tiled and kernel.same(last, tirx.floormod(own, width)) else 0


def operands(stage: Stage) -> tuple[Any, Any] | None:
    """The two factors whose products `stage` sums up; None where it does not."""
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
    if count == 1 and in_order(value.indices[-1], names[0]):
        return names[0] not in kernel.variables(list(value.indices[:-1]))
    if not all(index.same_as(name) for index, name in zip(value.indices[-count:], names)):
        return False
    if kernel.variables(list(value.indices[:-count])) & set(names):
        return False
    inner = zip(value.source.shape[-count + 1 :], build.extents(columns)[1:])
    return count == 1 or all(kernel.same(size, turns) for size, turns in inner)
