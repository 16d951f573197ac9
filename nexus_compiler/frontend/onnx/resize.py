"""Resizing of images."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value

_METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
_COORDINATES = {"half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"}


@op("Resize", "Upsample")
def resize(node: Node) -> Value:
    """Resize over the last one to three axes, by sizes or by scales."""
    x = node.tensor(0)
    shape = node.shape(x)
    target = _target(node, shape)
    if all(node.sizes.equal(a, b) for a, b in zip(shape, target)):
        _options(node, 2)
        return x
    if not all(node.sizes.equal(a, b) for a, b in zip(shape[:2], target[:2])):
        raise node.refuse("it resizes the batch or the channels")
    return _spatial(node, x, shape, target)


def _spatial(node: Node, x: relax.Expr, shape: list[Size], target: list[Size]) -> relax.Expr:
    spatial = len(shape) - 2
    options = _options(node, spatial)
    if spatial == 1:
        flat = R.expand_dims(x, [2])
        return R.squeeze(R.image.resize2d(flat, (1, target[2]), **options), [2])
    if spatial == 2:
        return R.image.resize2d(x, tuple(target[2:]), **options)
    if spatial == 3:
        return R.image.resize3d(x, tuple(target[2:]), **options)
    raise node.refuse(f"it has {spatial} spatial axes; 1, 2 and 3 are handled")


def _options(node: Node, spatial: int) -> dict[str, object]:
    method = node.attr("mode")
    coordinates = node.attr("coordinate_transformation_mode", "asymmetric")
    rounding = node.attr("nearest_mode", "floor")
    if node.opset == 10 or node.kind == "Upsample":
        coordinates, rounding = "asymmetric", "floor"
    if method not in _METHODS or (method == "cubic" and spatial != 2):
        raise node.refuse(f"its mode is '{method}' over {spatial} axes")
    if coordinates not in _COORDINATES:
        raise node.refuse(f"its coordinate_transformation_mode is '{coordinates}'")
    if node.attr("antialias", 0):
        raise node.refuse("antialias is not handled")
    if node.has(1) and node.opset >= 11:
        node.value(1)  # roi: only for tf_crop_and_resize, refused above
    node.ignore("extrapolation_value")
    alpha, outside = node.attr("cubic_coeff_a", -0.75), node.attr("exclude_outside", 0)
    if outside and method != "cubic":
        raise node.refuse("exclude_outside is handled for mode 'cubic' only")
    return {
        "method": _METHODS[method],
        "coordinate_transformation_mode": coordinates,
        "rounding_method": _rounding(node, method, rounding),
        "cubic_alpha": alpha,
        "cubic_exclude": outside,
    }


def _rounding(node: Node, method: str, rounding: str) -> str:
    if method != "nearest":
        return ""
    if rounding not in {"floor", "ceil", "round_prefer_ceil", "round_prefer_floor"}:
        raise node.refuse(f"its nearest_mode is '{rounding}'")
    return rounding


def _target(node: Node, shape: Sequence[Size]) -> list[Size]:
    axes = _axes(node, len(shape))
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keep_aspect_ratio_policy is not handled")
    target = list(shape)
    by_size = node.opset >= 11 and node.kind == "Resize" and node.has(3)
    if by_size and node.vector(3):
        if node.has(2):
            node.value(2)
        for axis, size in zip(axes, node.vector(3)):
            target[axis] = size
        return target
    for axis, scale in zip(axes, _scales(node)):
        target[axis] = _scaled(node, shape[axis], scale)
    return target


def _axes(node: Node, rank: int) -> list[int]:
    axes = node.attr("axes")
    return [node.axis(rank, a) for a in axes] if axes else list(range(rank))


def _scales(node: Node) -> list[float]:
    if node.kind == "Upsample" and node.opset < 9:
        return node.attr("scales")
    index = 1 if node.kind == "Upsample" or node.opset == 10 else 2
    if node.has(3):
        node.value(3)
    return node.array(index).astype(np.float64).reshape(-1).tolist()


def _scaled(node: Node, size: Size, scale: float) -> Size:
    ratio = Fraction(scale).limit_denominator(1 << 10)
    if float(ratio) != scale and abs(float(ratio) - scale) > 1e-6 * scale:
        ratio = Fraction(scale)
    if not isinstance(size, int):
        if ratio.denominator == 1:
            return node.sizes.simple(size * ratio.numerator)
        raise node.refuse(
            f"it scales the size {size} by {scale}, which is no whole number",
            "fix that size with `shapes=`",
        )
    result = size * ratio
    if result.denominator != 1:
        # ONNX then steps by the scale, TVM by the quotient of the sizes.
        raise node.refuse(f"{size} times its scale {scale} is no whole number")
    return int(result)
