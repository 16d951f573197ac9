"""Operators that add a border."""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op("constant_pad_nd")
def constant_pad(node: Node) -> Any:
    """A border of one value; a negative width cuts."""
    x, widths, rank = node["self"], node["pad"], node.rank()
    pairs = [(0, 0)] * (rank - len(widths) // 2)
    pairs += list(zip(widths[::2], widths[1::2]))[::-1]
    bordered = pad(node, x, pairs, node["value"])
    # Where only the running model knows whether a width cuts, the shape is beyond what TVM proves.
    decided = all(sizes.at_least_zero(width) in {0, width} for width in widths)
    return bordered if decided else node.reshape(bordered, node.shape)


def pad(node: Node, x: Any, pairs: list[tuple[Any, Any]], value: Any = 0) -> relax.Expr:
    """`x` with a border of (before, after) on each axis; a negative width cuts."""
    for axis, pair in enumerate(pairs):
        low, high = (sizes.at_least_zero(-width) for width in pair)
        if low != 0 or high != 0:
            low, high = node.dims([low, high])
            ends: Any = [x.ty.shape.values[axis] - high]
            x = node.emit(R.strided_slice(x, [axis], [low], ends, [1], assume_inbound=True))
    grown = [sizes.at_least_zero(width) for pair in pairs for width in pair]
    if not any(grown):
        return x
    if any(map(sizes.is_symbolic, grown)):
        return _pad_by_concat(node, x, list(zip(grown[::2], grown[1::2])), value)
    kind = dtype_of(x)
    if kind == "bool":
        wide = node.emit(R.nn.pad(node.cast(x, "int8"), grown, "constant", float(value)))
        return node.cast(wide, "bool")
    return node.emit(R.nn.pad(x, grown, "constant", float(value)))


def _pad_by_concat(node: Node, x: Any, pairs: list[tuple[Any, Any]], value: Any) -> Any:
    for axis, pair in enumerate(pairs):
        parts: list[Any] = [x]
        for place, width in enumerate(pair):
            if width == 0:
                continue
            shape: Any = list(x.ty.shape.values)
            shape[axis] = node.dims([width])[0]
            border = node.emit(R.full(shape, node.scalar(value, dtype_of(x)), dtype_of(x)))
            parts = [border, *parts] if place == 0 else [*parts, border]
        x = node.emit(R.concat(parts, axis)) if len(parts) > 1 else x
    return x


@op(
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def mirror_pad(node: Node) -> Any:
    """A border that mirrors the tensor, or repeats its edge."""
    widths, rank = node["padding"], node.rank()
    pairs = list(zip(widths[::2], widths[1::2]))[::-1]
    grown = [0] * (2 * (rank - len(pairs))) + [width for pair in pairs for width in pair]
    if any(sizes.is_symbolic(w) or w < 0 for w in grown):
        raise node.refuse(f"its widths are {grown}")
    mode = "reflect" if node.kind.startswith("reflection") else "replicate"
    return R.nn.pad(node["self"], grown, mode)
