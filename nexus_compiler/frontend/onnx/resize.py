"""Resizing of images, and of any other axes.

Where sizes depend on the input, by TVM's operator, which knows fewer modes; else axis by axis, with
places and weights that are worked out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx import interpolation
from nexus_compiler.frontend.onnx.interpolation import Axis, Filter
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host, is_float

_METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
_DYNAMIC = {"half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"}
_IMAGE = 4  # axes of a batch of images
FEW = 4
"""With more taps than these, a product with a matrix is less work than picking them."""


@op("Resize", "Upsample")
def resize(node: Node) -> Value:
    """Resize any axes, by sizes or by scales."""
    x = node.tensor(0)
    how, shape = filter_of(node), node.shape(x)
    regions = _regions(node, len(shape))
    targets, scales = _targets(node, shape)
    if all(isinstance(size, int) for size in [*shape, *targets]):
        return _static(node, x, how, _axes(shape, targets, scales, regions))
    changed = [i for i, pair in enumerate(zip(shape, targets)) if not node.sizes.equal(*pair)]
    if how.coordinates == "tf_crop_and_resize":
        raise node.refuse("with a region of interest all sizes must be fixed", "give `shapes=`")
    if all(isinstance(shape[i], int) and isinstance(targets[i], int) for i in changed):
        return _static(node, x, how, _axes(shape, targets, scales, regions, changed))
    return _dynamic(node, x, how, targets, changed)


def filter_of(node: Node) -> Filter:
    """How pixels become others."""
    places = node.attr("coordinate_transformation_mode", "asymmetric")
    rounding = node.attr("nearest_mode", "floor")
    mode = {"bilinear": "linear"}.get(node.attr("mode"), node.attr("mode"))
    if node.opset == 10 or node.kind == "Upsample":
        places, rounding = "asymmetric", "floor"
    if mode not in _METHODS or places not in interpolation.COORDINATES:
        raise node.refuse(f"its mode is '{mode}' and its coordinates are '{places}'")
    if mode == "nearest" and rounding not in interpolation.ROUNDINGS:
        raise node.refuse(f"its nearest_mode is '{rounding}'")
    return Filter(
        mode=mode,
        coordinates=places,
        rounding=rounding,
        cubic=node.attr("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.attr("exclude_outside", 0)),
        antialias=bool(node.attr("antialias", 0)) and mode != "nearest",
    )


def named_axes(node: Node, rank: int) -> list[int]:
    """The axes that sizes and scales are for."""
    axes = node.attr("axes")
    return [node.axis(rank, a) for a in axes] if axes else list(range(rank))


def _regions(node: Node, rank: int) -> dict[int, tuple[float, float]]:
    """The part of every axis that "tf_crop_and_resize" takes."""
    if node.opset < 11 or node.kind == "Upsample" or not node.has(1):
        return {}
    if node.attr("coordinate_transformation_mode") != "tf_crop_and_resize":
        node.value(1)  # without effect
        return {}
    axes = named_axes(node, rank)
    ends = node.array(1).astype(np.float64).reshape(2, len(axes)).T
    return {axis: (float(a), float(b)) for axis, (a, b) in zip(axes, ends)}


def _targets(node: Node, shape: Sequence[Size]) -> tuple[list[Size], list[float | None]]:
    """The new sizes, and the scales where they are given; None is the quotient of the sizes."""
    axes, targets = named_axes(node, len(shape)), list(shape)
    scales: list[float | None] = [None] * len(shape)
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    by_size = node.opset >= 11 and node.kind == "Resize" and node.has(3)
    if by_size and (wanted := node.vector(3)):
        if node.has(2):
            node.value(2)  # it is empty
        for axis, size in zip(axes, wanted):
            targets[axis] = size
        return (
            _kept(node, shape, targets, axes, policy) if policy != "stretch" else (targets, scales)
        )
    for axis, scale in zip(axes, _scales(node)):
        targets[axis], scales[axis] = _scaled(node, shape[axis], scale), scale
    return targets, scales


def _kept(
    node: Node, shape: Sequence[Size], targets: list[Size], axes: Sequence[int], policy: str
) -> tuple[list[Size], list[float | None]]:
    """One scale for all axes: the largest that fits, or the smallest that covers."""
    if policy not in {"not_larger", "not_smaller"}:
        raise node.refuse(f"its keep_aspect_ratio_policy is '{policy}'")
    if any(not isinstance(size, int) for i in axes for size in (shape[i], targets[i])):
        raise node.refuse("with keep_aspect_ratio_policy sizes must be fixed", "give `shapes=`")
    ratios = [targets[i] / shape[i] for i in axes]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    scales: list[float | None] = [None] * len(shape)
    for axis in axes:
        targets[axis], scales[axis] = int(np.floor(scale * shape[axis] + 0.5)), scale
    return targets, scales


def _scales(node: Node) -> list[float]:
    if node.kind == "Upsample" and node.opset < 9:
        return node.attr("scales")
    index = 1 if node.kind == "Upsample" or node.opset == 10 else 2
    if node.has(3):
        node.value(3)
    return node.array(index).astype(np.float64).reshape(-1).tolist()


def _scaled(node: Node, size: Size, scale: float) -> Size:
    if isinstance(size, int):
        # In float32, as ONNX infers shapes.
        return int(np.floor(np.float32(size) * np.float32(scale)))
    ratio = Fraction(scale).limit_denominator(1 << 10)
    if ratio.denominator == 1 and float(ratio) == scale:
        return node.sizes.simple(size * ratio.numerator)
    raise node.refuse(
        f"it scales the size {size} by {scale}, which is no whole number",
        "fix that size with `shapes=`",
    )


def _axes(
    shape: Sequence[Size],
    targets: Sequence[Size],
    scales: Sequence[float | None],
    regions: dict[int, tuple[float, float]],
    which: Sequence[int] | None = None,
) -> dict[int, Axis]:
    """What happens on the axes that do not stay as they are."""
    found: dict[int, Axis] = {}
    for i in range(len(shape)) if which is None else which:
        scale = targets[i] / shape[i] if (given := scales[i]) is None else given
        region = regions.get(i, (0.0, 1.0))
        if targets[i] != shape[i] or scale != 1 or region != (0, 1):
            found[i] = Axis(size=shape[i], target=targets[i], scale=scale, region=region)
    return found


def _static(node: Node, x: relax.Expr, how: Filter, axes: dict[int, Axis]) -> relax.Expr:
    dtype = node.dtype(x)
    if _doubles(node, how, axes):
        sizes = tuple(axes[i].target if i in axes else node.shape(x)[i] for i in (2, 3))
        options = {"method": "nearest_neighbor", "rounding_method": "floor"}
        return R.image.resize2d(x, sizes, coordinate_transformation_mode="asymmetric", **options)
    extra = node.attr("extrapolation_value", 0.0)
    exact = how.mode == "nearest" or dtype in {"float32", "float64"}
    if not exact and not is_float(dtype) and how.mode == "cubic":
        raise node.refuse(f"mode 'cubic' may leave the range of {dtype}")
    result = x if exact else node.emit(R.astype(x, "float32"))
    for i, axis in axes.items():
        at = interpolation.coordinates(axis, how.coordinates)
        result = node.emit(_along(node, result, i, axis, how, at))
        outside = (at < 0) | (at > axis.size - 1)
        if how.coordinates == "tf_crop_and_resize" and outside.any():
            shape = [1] * (node.rank(x) - i - 1)
            mask = node.importer.tensor(host(outside.reshape(-1, *shape)))
            result = node.emit(R.where(mask, node.scalar(extra, node.dtype(result)), result))
    return result if exact else R.astype(result, dtype)


def _doubles(node: Node, how: Filter, axes: dict[int, Axis]) -> bool:
    """Whether every pixel of an image is written two, four, ... times in a row.

    TVM's operator is exact then, and can be moved to another order of axes with its neighbours.
    """
    if how.mode != "nearest" or node.rank(node.tensor(0)) != _IMAGE or not set(axes) <= {2, 3}:
        return False
    for axis in axes.values():
        times, rest = divmod(axis.target, axis.size)
        at = interpolation.coordinates(axis, how.coordinates)
        found = interpolation.nearest(at, how.rounding, axis.size)
        wanted = np.arange(axis.target) // max(times, 1)
        if rest or times & (times - 1) or not np.array_equal(found, wanted):
            return False
    return bool(axes)


def _along(
    node: Node, x: relax.Expr, place: int, axis: Axis, how: Filter, at: np.ndarray
) -> relax.Expr:
    """One axis resized."""
    dtype, rank = node.dtype(x), node.rank(x)

    def constant(array: np.ndarray) -> relax.Expr:
        return node.importer.tensor(host(np.ascontiguousarray(array)))

    if how.mode == "nearest":
        found = interpolation.nearest(at, how.rounding, axis.size)
        return R.take(x, constant(found), place, mode="clip")
    places, weights = interpolation.taps(at, axis, how)
    if places.shape[1] > FEW:
        table = interpolation.matrix(places, weights, axis.size).T.astype(dtype)
        order = [*(i for i in range(rank) if i != place), place]
        product = R.matmul(R.permute_dims(x, order), constant(table))
        return R.permute_dims(product, np.argsort(order).tolist())
    total: relax.Expr | None = None
    for tap in range(places.shape[1]):
        share = constant(weights[:, tap].astype(dtype).reshape(-1, *[1] * (rank - place - 1)))
        part = R.multiply(R.take(x, constant(places[:, tap]), place, mode="clip"), share)
        total = part if total is None else R.add(total, part)
    assert total is not None
    return total


def _dynamic(
    node: Node, x: relax.Expr, how: Filter, targets: Sequence[Size], changed: Sequence[int]
) -> relax.Expr:
    """The last one to three axes resized by TVM's operator."""
    spatial = node.rank(x) - 2
    if how.coordinates not in _DYNAMIC or how.antialias or spatial not in {1, 2, 3}:
        raise node.refuse(
            f"with coordinates '{how.coordinates}', antialias {how.antialias} and {spatial} "
            "spatial axes its sizes must be fixed",
            "give `shapes=`",
        )
    if (how.mode == "cubic" and spatial != 2) or (how.exclude_outside and how.mode != "cubic"):
        raise node.refuse(f"mode '{how.mode}' needs fixed sizes here", "give `shapes=`")
    if min(changed) < 2:
        raise node.refuse("it resizes the batch or the channels", "give `shapes=`")
    node.ignore("extrapolation_value")
    options = {
        "method": _METHODS[how.mode],
        "coordinate_transformation_mode": how.coordinates,
        "rounding_method": how.rounding if how.mode == "nearest" else "",
        "cubic_alpha": how.cubic,
        "cubic_exclude": int(how.exclude_outside),
    }
    if spatial == 1:
        flat = R.expand_dims(x, [2])
        return R.squeeze(R.image.resize2d(flat, (1, targets[2]), **options), [2])
    make = R.image.resize2d if spatial == 2 else R.image.resize3d
    return make(x, tuple(targets[2:]), **options)
