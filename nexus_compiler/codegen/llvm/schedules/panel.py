"""Copies the part of the right operand that a group of tiles shares, in the order of their reading.

After Goto & van de Geijn (2008): where many tiles of rows read the same columns, these lie in a
panel of their own, which stays in the second cache whatever the pitch of the operand is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from nexus_compiler.codegen.llvm.schedules import build, kernel, turn
from nexus_compiler.codegen.llvm.schedules.product import Product
from nexus_compiler.codegen.llvm.schedules.tiles import Tiling, cells


def fill(
    panel: tirx.Buffer,
    form: Product,
    tiling: Tiling,
    values: dict[Any, Any],
    tile: Any,
    turns: Sequence[Any],
    places: Callable[[Sequence[Any]], list[Any]],
) -> tirx.Stmt:
    """Copy tile number `tile` of the columns to `panel`[steps, column].

    Args:
        panel: where to.
        form: whose right operand.
        tiling: of the product.
        values: of the outer axes.
        tile: number of the tile.
        turns: how many steps, axis by axis of the panel.
        places: the values of the axes of steps for a place in the panel.
    """
    steps, columns = form.stage.reduced, build.product(build.extents(form.columns))

    def copy(at: Sequence[Any], offset: Any) -> tirx.Stmt:
        own = values | build.split(form.columns, tile * tiling.columns + offset)
        element = kernel.substitute(form.right, own | build.bind(steps, places(at)))
        return tirx.BufferStore(panel, element, [*at, offset])

    def write(width: int) -> tirx.Stmt:
        if form.ordered:
            line = lambda at: cells(1, width, tiling.lanes, lambda _, j: copy(at, j))  # noqa: E731
            return build.nest(turns, line)
        if len(turns) == 1 and (many := build.known(turns[0])) and _walks(form):
            return _in_squares(panel, tiling.lanes, many, width, copy)
        return build.loop(width, lambda j: build.nest(turns, lambda at: copy(at, j)), name="column")

    extent = build.known(columns)
    if extent is None:
        left = tirx.min(build.number(tiling.columns), columns - tile * tiling.columns)
        return build.loop(left, lambda j: build.nest(turns, lambda at: copy(at, j)), name="column")
    whole, rest = divmod(extent, tiling.columns)
    if not rest:
        return write(tiling.columns)
    if not whole:
        return write(rest)
    return build.branch(tile < whole, write(tiling.columns), write(rest))


def _walks(form: Product) -> bool:
    """Whether neighbouring steps are neighbours in the right operand's memory."""
    right, (*_, last) = form.right, form.stage.reduced
    if not isinstance(right, TensorLoad) or not turn.moves(str(right.ty)):
        return False
    if not right.indices[-1].same_as(last.var):
        return False
    return last.var not in kernel.variables(list(right.indices[:-1]))


def _in_squares(panel: tirx.Buffer, lanes: int, steps: int, width: int, copy: Any) -> tirx.Stmt:
    """Steps and columns exchanged in registers, as far as whole squares go."""
    while lanes > 1 and lanes > min(steps, width):
        lanes //= 2
    down, across = steps // lanes, width // lanes

    def square(at: list[Any]) -> tirx.Stmt:
        first, column = at[1] * lanes, at[0] * lanes

        def row(i: int) -> Any:
            load = copy([first], column + i).value
            return tirx.BufferLoad(load.source, turn.along(load.indices, lanes))

        def put(j: int, values: Any) -> tirx.Stmt:
            return tirx.BufferStore(panel, values, turn.along([first + j, column], lanes))

        return turn.square(lanes, row, put)

    parts = [build.nest([across, down], square)]
    if rest := steps % lanes:
        below = lambda k: build.loop(  # noqa: E731
            across * lanes, lambda j: copy([down * lanes + k], j), name="column"
        )
        parts.append(build.loop(rest, below, name="step"))
    if rest := width % lanes:
        narrow = lambda j: build.loop(steps, lambda k: copy([k], across * lanes + j))  # noqa: E731
        parts.append(build.loop(rest, narrow, name="column"))
    return build.sequence(parts)
