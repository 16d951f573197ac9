"""Sizes that follow from data: what they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.sizes import Size, expression
from nexus_compiler.frontend.onnx.values import R, host


def sizes(
    node: Node, tensor: relax.Expr, number: int, known: Mapping[int, Size] | None = None
) -> list[Size]:
    """The elements of an int tensor, so many, as new symbolic sizes.

    A run stops where an element is negative, or is not what `known` says of it (by position).
    """
    if not number:
        return []
    flat = node.emit(R.reshape(R.astype(tensor, "int64"), [number]))
    negative = R.astype(R.less(flat, node.scalar(0, "int64")), "int64")
    # One number more, which must be zero: how many are negative.
    checked = node.emit(R.concat([flat, R.sum(node.emit(negative), [0], True)], 0))
    found: list[Any] = [
        known[i] if known and i in known else node.importer.unknown(f"{node.kind.lower()}_{i}")
        for i in range(number)
    ]
    # What TVM makes of `tensor_to_shape` in its time; it adds variables that these would equal.
    shape = relax.op.call_pure_packed(
        "vm.builtin.tensor_to_shape", checked, ty_args=relax.ShapeType(ndim=number + 1)
    )
    wanted: Any = [expression(size) for size in (*found, 0)]
    node.importer.builder.match_cast(node.emit(shape), relax.ShapeType(wanted))
    return found


def scalar(node: Node, size: Size, dtype: str = "int64") -> relax.Expr:
    """A size as a tensor without dimensions."""
    array = np.empty((), object)
    array[()] = size
    return node.emit(node.importer.tensor(host(array, dtype)))


def vector(node: Node, shape: Sequence[Size]) -> relax.Expr:
    """Sizes as an int64 tensor of one dimension."""
    array = np.empty(len(shape), object)
    array[:] = shape
    return node.emit(node.importer.tensor(host(array, "int64")))


def count(node: Node, size: Size) -> relax.Expr:
    """0, 1, ... below `size`, as int64."""
    return node.emit(R.arange(0, expression(size), 1, "int64"))


def positions(node: Node, flags: relax.Expr) -> tuple[relax.Expr, Size]:
    """Where `flags` (bools of one dimension) are true, in order, and how many are.

    Each place goes where the running number of true flags says; all others go to one spare slot.
    """
    numbers = node.emit(R.astype(flags, "int64"))
    total = node.emit(R.sum(numbers))
    (found,) = sizes(node, total, 1)
    one = node.scalar(1, "int64")
    running = node.emit(R.cumsum(numbers, 0, "int64", False))
    slots = node.emit(R.where(flags, R.subtract(running, one), total))
    table = R.zeros([expression(found + 1)], "int64")
    places = count(node, node.shape(flags)[0])
    filled = node.emit(R.scatter_elements(node.emit(table), slots, places, 0, "update"))
    return at(node, filled, count(node, found)), found


def at(node: Node, x: relax.Expr, places: relax.Expr, axis: int = 0) -> relax.Expr:
    """Slices of an axis; places are inside of it."""
    return node.emit(R.take(x, places, axis, mode="clip"))
