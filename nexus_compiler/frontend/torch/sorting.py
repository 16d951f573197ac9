"""Operators that put elements in order."""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op("topk")
def topk(node: Node) -> list[Any]:
    """The largest or smallest elements of an axis, and where they are."""
    count, axis = node["k"], node.axis()
    if not isinstance(count, int):
        raise node.refuse("its k depends on the input")
    pair = node.emit(
        R.topk(node["self"], count, axis, "both", bool(node["largest"]), dtype="int64")
    )
    return [relax.TupleGetItem(pair, 0), relax.TupleGetItem(pair, 1)]


@op("sort")
def sort(node: Node) -> list[Any]:
    """An axis in order, and where its elements were."""
    axis, x = node.axis(), node["self"]
    places = node.emit(R.argsort(x, axis, bool(node["descending"]), dtype="int64"))
    return [R.gather_elements(x, places, axis), places]


@op("argsort")
def argsort(node: Node) -> Any:
    """Where the elements of an axis are when it is put in order."""
    return R.argsort(node["self"], node.axis(), bool(node["descending"]), dtype="int64")
