"""What two regions have in common, and what may differ between two runs of one compiled region.

A region is looked up by its *skeleton* (operations, dtypes, ranks, which axes are one long) and by
its *numbers* (sizes of leaves, sizes in operations, Python scalars). The first compile fixes all
numbers. When the same skeleton comes with other numbers, those that were seen to differ are left
open: a size of a leaf becomes a symbol, a size in an operation a formula over the symbols that fits
everything seen so far, a scalar an input. A guess at a formula is never trusted: every run first
compares the formulas with the sizes that Python has just computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from nexus_compiler.frontend.tracing.emission.region import Pattern, Size
from nexus_compiler.frontend.tracing.nodes import Graph

SAMPLES = 8
"""Sets of numbers that are remembered for one skeleton."""


@dataclass(frozen=True)
class Numbers:
    """Everything of a region that may be left open, in the graph's order."""

    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    constants: tuple[bytes, ...]

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The sizes of all leaves in a row."""
        return tuple(size for shape in self.shapes for size in shape)


def numbers(graph: Graph) -> Numbers:
    """The numbers of a region."""
    return Numbers(
        tuple(node.shape for node in graph.leaves),
        tuple(node.sizes for node in graph.nodes),
        tuple(node.value.tobytes() if node.op == "const" else b"" for node in graph.nodes),
    )


def skeleton(graph: Graph) -> tuple[Any, ...]:
    """A region without its numbers."""
    place = {node: index for index, node in enumerate((*graph.leaves, *graph.nodes))}
    return (
        tuple((node.dtype.char, _ones(node.shape)) for node in graph.leaves),
        tuple(
            (
                node.op,
                node.attrs,
                tuple([place[one] for one in node.inputs]),
                node.dtype.char,
                _ones(node.shape),
            )
            for node in graph.nodes
        ),
        tuple([place[node] for node in graph.outputs]),
    )


def _ones(shape: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple([size == 1 for size in shape])


def exact(found: Numbers) -> Pattern:
    """The pattern that leaves nothing open."""
    return Pattern(found.shapes, found.sizes)


def fits(pattern: Pattern, found: Numbers, first: Numbers) -> bool:
    """Whether a region that was compiled for `pattern` from `first` computes one with `found`."""
    symbols: dict[int, int] = {}
    for shape, given in zip(pattern.shapes, found.shapes):
        for size, value in zip(shape, given):
            wanted = size if isinstance(size, int) else symbols.setdefault(size.symbols[0], value)
            if wanted != value:
                return False
    values = tuple(symbols[one] for one in sorted(symbols))
    for sizes, given in zip(pattern.sizes, found.sizes):
        for size, value in zip(sizes, given):
            if (size if isinstance(size, int) else size.value(values)) != value:
                return False
    pairs = enumerate(zip(first.constants, found.constants))
    return all(one == other or index in pattern.lifted for index, (one, other) in pairs)


def generalise(samples: Sequence[Numbers], *, dynamic: bool) -> Pattern | None:
    """The narrowest pattern that fits all samples; None where there is none, or none is wanted."""
    columns = list(zip(*(sample.dims for sample in samples)))
    varying = list(dict.fromkeys(column for column in columns if len(set(column)) > 1))
    if varying and not dynamic:
        return None
    symbols = {column: index for index, column in enumerate(varying)}
    flat = iter(columns)
    shapes = tuple(
        tuple(_leaf_size(next(flat), symbols) for _ in shape) for shape in samples[0].shapes
    )
    sizes: list[tuple[int | Size, ...]] = []
    for parts in zip(*(sample.sizes for sample in samples)):
        formulas = [_formula(column, symbols) for column in zip(*parts)]
        found = tuple(formula for formula in formulas if formula is not None)
        if len(found) < len(formulas):
            return None
        sizes.append(found)
    constants = enumerate(zip(*(sample.constants for sample in samples)))
    lifted = frozenset(index for index, column in constants if len(set(column)) > 1)
    return Pattern(shapes, tuple(sizes), lifted)


def _leaf_size(column: tuple[int, ...], symbols: dict[tuple[int, ...], int]) -> int | Size:
    return Size(1, (symbols[column],)) if column in symbols else column[0]


def _formula(column: tuple[int, ...], symbols: dict[tuple[int, ...], int]) -> int | Size | None:
    """The simplest formula for a column of sizes: n, c n + d, or c n m."""
    if len(set(column)) == 1:
        return column[0]
    if column in symbols:
        return Size(1, (symbols[column],))
    for values, symbol in symbols.items():
        if (line := _line(column, values)) is not None:
            return Size(line[0], (symbol,), line[1])
    for count in (2, 3):
        for chosen in combinations(symbols.items(), count):
            products = [1] * len(column)
            for values, _ in chosen:
                products = [one * value for one, value in zip(products, values)]
            line = _line(column, tuple(products))
            if line is not None and not line[1]:
                return Size(line[0], tuple(symbol for _, symbol in chosen))
    return None


def _line(column: Sequence[int], values: Sequence[int]) -> tuple[int, int] | None:
    """Integers c and d with c * value + d = column in every sample."""
    for one, other in combinations(range(len(column)), 2):
        step = values[one] - values[other]
        if step and not (column[one] - column[other]) % step:
            factor = (column[one] - column[other]) // step
            offset = column[one] - factor * values[one]
            if all(factor * value + offset == size for value, size in zip(values, column)):
                return factor, offset
            return None
    return None
