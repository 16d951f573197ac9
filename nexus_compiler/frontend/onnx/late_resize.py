"""Resizing and cutting where only a run tells the sizes: it computes the places."""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.counting import at
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import late
from nexus_compiler.frontend.onnx.resize import filter_of, named_axes
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import Host, R, Value

_PLACES = {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"}


@late("Split")
def split(node: Node) -> list[Value]:
    """Pieces of an axis; all of it must be used."""
    x = node.emit(node.tensor(0))
    axis = node.axis(node.rank(x))
    count = len(node.proto.output)
    wanted = node.emit(R.astype(node.tensor(1), "int64"))
    if node.sizes.equal(node.shape(wanted)[0], count) is False:
        raise node.refuse(f"it has {node.shape(wanted)[0]} sizes for {count} outputs")
    every = R.concat([wanted, R.sum(wanted, [0], True)], 0)
    sizes = counting.sizes(node, every, count + 1, {count: node.shape(x)[axis]})[:count]
    results: list[Value] = []
    start: Size = 0
    for size in sizes:
        begin = counting.scalar(node, node.sizes.simple(start))
        places = node.emit(R.add(counting.count(node, size), begin))
        results.append(at(node, x, places, axis))
        start = start + size
    return results


@late("Resize")
def resize(node: Node) -> Value:
    """Nearest and linear, with the modes of coordinates that need no region."""
    x = node.emit(node.tensor(0))
    how, dtype, by_size = filter_of(node), node.dtype(x), node.has(3)
    node.ignore("extrapolation_value")
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if (
        how.coordinates not in _PLACES
        or how.mode == "cubic"
        or how.antialias
        or policy != "stretch"
    ):
        open_ = (i for i in (3, 2, 1) if node.has(i) and not isinstance(node.value(i), Host))
        raise node.unknown(
            next(open_, 1),
            f"must be a constant with mode '{how.mode}', coordinates '{how.coordinates}', "
            f"antialias {how.antialias} and keep_aspect_ratio_policy '{policy}'",
        )
    axes = named_axes(node, node.rank(x))
    own = counting.vector(node, [node.shape(x)[axis] for axis in axes])
    given = node.emit(R.astype(node.tensor(3 if by_size else 2), "float32"))
    if node.has(1):
        node.value(1)  # without effect
    if by_size and node.has(2):
        node.value(2)  # it is empty
    wide = node.emit(R.astype(own, "float32"))
    targets = given if by_size else node.emit(R.floor(R.multiply(wide, given)))
    scales = node.emit(R.divide(given, wide)) if by_size else given
    exact = how.mode == "nearest" or dtype in {"float32", "float64"}
    result = x if exact else node.emit(R.astype(x, "float32"))
    # What scales ask for may lie between two sizes; "align_corners" counts with it.
    lengths = given if by_size else node.emit(R.multiply(wide, given))
    for place, size in enumerate(counting.sizes(node, targets, len(axes))):
        scale, length = (
            R.strided_slice(v, [0], [place], [place + 1], [1], assume_inbound=True)
            for v in (scales, lengths)
        )
        own_size = node.shape(x)[axes[place]]
        coordinates = _coordinates(node, how.coordinates, own_size, size, (scale, length))
        result = _along(node, result, axes[place], coordinates, how)
    return result if exact else R.astype(result, dtype)


def _coordinates(
    node: Node, kind: str, own: Size, size: Size, wanted: tuple[Any, Any]
) -> relax.Expr:
    """Where on the old axis each element of the new one lies, float32 `[size]`.

    `wanted` is the scale and the length that is asked for, float32 `[1]` each.
    """
    scale, length = wanted
    places = node.emit(R.astype(counting.count(node, size), "float32"))
    one, half = node.scalar(1, "float32"), node.scalar(0.5, "float32")
    zero = node.scalar(0, "float32")
    if kind == "align_corners":
        whole = R.subtract(counting.scalar(node, own, "float32"), one)
        last = R.subtract(length, one)
        safe = node.emit(R.where(R.equal(last, zero), one, last))
        return node.emit(R.divide(R.multiply(places, whole), safe))
    if kind == "asymmetric":
        return node.emit(R.divide(places, scale))
    found = node.emit(R.subtract(R.divide(R.add(places, half), scale), half))
    if kind == "half_pixel":
        return found
    return node.emit(R.where(R.equal(length, one), R.negative(half), found))


def _along(node: Node, x: relax.Expr, axis: int, places: relax.Expr, how: Any) -> relax.Expr:
    """One axis read at `places`; outside, its ends count."""
    half, zero = node.scalar(0.5, "float32"), node.scalar(0, "float32")
    end = counting.scalar(node, node.sizes.simple(node.shape(x)[axis] - 1), "float32")

    def inside(place: Any) -> relax.Expr:
        return node.emit(R.minimum(R.maximum(place, zero), end))

    def taken(place: relax.Expr) -> relax.Expr:
        return at(node, x, node.emit(R.astype(place, "int64")), axis)

    if how.mode == "nearest":
        rounded = {
            "floor": lambda: R.floor(places),
            "ceil": lambda: R.ceil(places),
            "round_prefer_floor": lambda: R.ceil(R.subtract(places, half)),
            "round_prefer_ceil": lambda: R.floor(R.add(places, half)),
        }[how.rounding]()
        return taken(inside(rounded))
    bounded = inside(places)
    low = node.emit(R.floor(bounded))
    high = inside(R.add(low, node.scalar(1, "float32")))
    others = list(range(1, node.rank(x) - axis))
    share = node.emit(R.astype(R.subtract(bounded, low), node.dtype(x)))
    share = node.emit(R.expand_dims(share, others)) if others else share
    left, right = taken(low), taken(high)
    return node.emit(R.add(left, R.multiply(R.subtract(right, left), share)))
