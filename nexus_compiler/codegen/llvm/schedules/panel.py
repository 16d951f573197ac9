"""Copies the part of the right operand that a group of tiles shares, in the order of their reading.

After Goto & van de Geijn (2008): where many tiles of rows read the same columns, these lie in a
panel of their own, which stays in the second cache whatever the pitch of the operand is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from nexus_compiler.codegen.llvm.schedules import build, kernel
from nexus_compiler.codegen.llvm.schedules.product import Product
from nexus_compiler.codegen.llvm.schedules.tiles import Tiling, cells

_SQUARE = 8  # LLVM turns such squares in registers


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
        if len(turns) == 1 and build.known(turns[0]) and int(turns[0]) % _SQUARE == 0:
            return _in_squares(int(turns[0]), width, copy)
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


def _in_squares(steps: int, width: int, copy: Any) -> tirx.Stmt:
    whole = width // _SQUARE

    def square(at: list[Any]) -> tirx.Stmt:
        across, down = at[0] * _SQUARE, at[1] * _SQUARE
        return build.loop(
            _SQUARE, lambda k: build.loop(_SQUARE, lambda j: copy([down + k], across + j))
        )

    parts = [build.nest([whole, steps // _SQUARE], square)] if whole else []
    if rest := width % _SQUARE:
        first = whole * _SQUARE
        narrow = lambda j: build.loop(steps, lambda k: copy([k], first + j))  # noqa: E731
        parts.append(build.loop(rest, narrow, name="column"))
    return build.sequence(parts)
