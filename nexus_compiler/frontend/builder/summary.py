"""The table that `GraphBuilder.summary` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nexus_compiler.frontend.builder.chain import Chain, Step
from nexus_compiler.frontend.builder.layers.base import text
from nexus_runtime.errors import ShapeError


def table(network: Chain) -> str:
    """Layers, what they take (where it is not the line above), shapes, parameters and FLOPs."""
    rows = [("layer", "from", "output", "parameters", "FLOPs")]
    before = ""
    for source in network.sources:
        shape = text(source.shape) + ("" if source.dtype == "float32" else f" {source.dtype}")
        rows.append((source.name, "", shape, "0", "0"))
        before = source.name
    counted: set[str] = set()
    total, work = 0, list[int | None]()
    for step in network.steps:
        count = _count(step, counted)
        flops = _flops(step)
        total, before = total + count, _row(rows, step, count, flops, before)
        work.append(flops)
    rows.append(("total", "", "", f"{total:,}", _number(_sum(work))))
    return _aligned(rows)


def _row(
    rows: list[tuple[str, ...]], step: Step, count: int, flops: int | None, before: str
) -> str:
    taken = "" if step.inputs == (before,) else ", ".join(step.inputs)
    shared = f"{count:,}" if step.owner == step.name else f"of {step.owner}"
    rows.append((step.name, taken, text(step.output.shape), shared, _number(flops)))
    return step.name


def _count(step: Step, counted: set[str]) -> int:
    found = 0
    for name, parameter in step.parameters().items():
        if name not in counted:
            found += math.prod(parameter.shape)
        counted.add(name)
    return found


def _flops(step: Step) -> int | None:
    try:
        return step.layer.flops(step.shapes)
    except ShapeError:
        return None  # depends on a dimension that is open


def _sum(work: Sequence[int | None]) -> int | None:
    known = [flops for flops in work if flops is not None]
    return sum(known) if len(known) == len(work) else None


def _number(flops: int | None) -> str:
    return "open" if flops is None else f"{flops:,}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    if not any(row[1] for row in rows[1:]):
        rows = [(row[0], *row[2:]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = len(rows[0]) - 2  # the last two columns
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if column >= numbers else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
