"""Resizing of images: every mode is a matrix along each axis, its transpose the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore
from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


def along(node: Node, x: Any, axis: int, matrix: np.ndarray) -> relax.Var:
    """`x` multiplied along `axis` by `matrix` (old length, new length)."""
    rank = len(x.ty.shape.values)
    matrix = matrix.astype(dtype_of(x))
    if axis == rank - 1:
        return node.emit(R.matmul(x, node.constant(matrix)))
    if axis == rank - 2:
        return node.emit(R.matmul(node.constant(np.ascontiguousarray(matrix.T)), x))
    order = [a for a in range(rank) if a != axis] + [axis]
    moved = node.emit(R.matmul(R.permute_dims(x, order), node.constant(matrix)))
    return node.emit(R.permute_dims(moved, [order.index(a) for a in range(rank)]))


_NEAREST = [
    f"{kind}{rank}d"
    for kind in ("upsample_nearest", "_upsample_nearest_exact")
    for rank in (1, 2, 3)
]
_SMOOTH = ["upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"]


@op(*_NEAREST)
def nearest(node: Node) -> Any:
    """The element that is nearest."""
    x, shape = node["input" if "input" in node else "self"], node.shape
    own = node.shape_of("input" if "input" in node else "self")
    for axis in range(2, len(shape)):
        if shape[axis] == own[axis]:
            continue
        ratio = shape[axis] / own[axis]
        if ratio == int(ratio) if not sizes.is_symbolic(ratio) else ratio.is_Integer:
            x = _repeated(node, x, [*shape[:axis], *own[axis:]], axis, int(ratio))
        else:
            indices = _nearest_places(node, own[axis], shape[axis], axis)
            x = node.emit(R.take(x, node.constant(indices), axis, mode="clip"))
    return x


def _repeated(node: Node, x: Any, shape: list[Any], axis: int, count: int) -> relax.Var:
    apart = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
    wide = [*shape[: axis + 1], count, *shape[axis + 1 :]]
    whole = [*shape[:axis], shape[axis] * count, *shape[axis + 1 :]]
    return node.reshape(node.broadcast(node.reshape(x, apart), wide), whole)


def _nearest_places(node: Node, old: Any, new: Any, axis: int) -> np.ndarray:
    return _matrix(node, old, new, axis).argmax(0)


@op(*_SMOOTH)
def smooth(node: Node) -> Any:
    """A mean of the elements that are near."""
    name = "input" if "input" in node else "self"
    x, shape, own = node[name], node.shape, node.shape_of(name)
    for axis in range(2, len(shape)):
        x = along(node, x, axis, _matrix(node, own[axis], shape[axis], axis))
    return x


@op(*(f"{name}_backward" for name in (*_NEAREST, *_SMOOTH)))
def backward(node: Node) -> Any:
    """The gradient of a resize."""
    x, shape, own = node["grad_output"], node.shape_of("grad_output"), node.shape
    for axis in range(2, len(shape)):
        x = along(node, x, axis, _matrix(node, own[axis], shape[axis], axis).T)
    return x


def _matrix(node: Node, old: Any, new: Any, axis: int) -> np.ndarray:
    """What PyTorch makes of the unit vectors of one axis: (old, new)."""
    if sizes.is_symbolic(old) or sizes.is_symbolic(new):
        raise node.refuse(f"it resizes {old} to {new}, and not by a whole number")
    kind = node.kind.removesuffix("_backward")
    scale = _scale(node, axis)
    with _disable_current_modes():  # what traces the model must not see this
        eye = torch.eye(old, dtype=torch.float64)
        aten: Any = torch.ops.aten
        if "nearest" in kind:
            one: Any = getattr(aten, kind[:-2] + "1d")
            return one(eye[None], [new], scale)[0].numpy()
        corners = bool(node["align_corners"])
        if "cubic" in kind:
            # Rows of height 1: the cubic along that axis has the same row under all its weights.
            rows = aten.upsample_bicubic2d(eye[None, :, None], [1, new], corners, None, scale)
            return rows[0, :, 0].numpy()
        return aten.upsample_linear1d(eye[None], [new], corners, scale)[0].numpy()


def _scale(node: Node, axis: int) -> float | None:
    given = node.get("scale_factors")
    if given:
        return given[axis - 2]
    rank = len(node.shape) - 2
    names = ["scales"] if rank == 1 else ["scales_d", "scales_h", "scales_w"][-rank:]
    return node.get(names[axis - 2])
