"""Where an affine transformation reads each pixel of an image."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import Host, R, Value


@op("AffineGrid")
def affine_grid(node: Node) -> Value:
    """Per image theta times the places of its pixels, in [-1, 1]: `[N, *spatial, axes]`."""
    theta = node.emit(node.tensor(0))
    batch, axes, _ = node.shape(theta)
    spatial = _spatial(node, batch)
    if node.sizes.equal(axes, len(spatial)) is not True:
        raise node.refuse(f"theta has {axes} rows for {len(spatial)} spatial axes")
    corners, dtype = bool(node.attr("align_corners")), node.dtype(theta)
    # Columns of theta go with the last axis first.
    columns = [
        node.emit(R.broadcast_to(_line(node, spatial, axis, corners, dtype), [*spatial, 1]))
        for axis in reversed(range(len(spatial)))
    ]
    ones = node.emit(R.full([*spatial, 1], node.scalar(1, dtype), dtype))
    base = node.emit(R.concat([*columns, ones], len(spatial)))
    pixels = node.sizes.product(spatial)
    flat = node.emit(R.reshape(base, [1, pixels, len(spatial) + 1]))
    found = node.emit(R.matmul(flat, R.permute_dims(theta, [0, 2, 1])))
    return R.reshape(found, [batch, *spatial, len(spatial)])


def _spatial(node: Node, batch: Size) -> list[Size]:
    """The spatial sizes: constants, or what a run tells."""
    (rank,) = node.shape(1)
    if rank not in (4, 5):
        raise node.refuse(f"its size has {rank} elements; 4 and 5 are handled")
    if isinstance(node.value(1), Host):
        return node.vector(1)[2:]
    return counting.sizes(node, node.tensor(1), rank, {0: batch})[2:]


def _line(node: Node, spatial: list[Size], axis: int, corners: bool, dtype: str) -> relax.Expr:
    """The places of the pixels along an axis: from -1 to 1, or the middles of as many parts."""
    size = spatial[axis]
    count = node.emit(R.astype(counting.count(node, size), dtype))
    whole, one, two = (
        counting.scalar(node, size, dtype),
        node.scalar(1, dtype),
        node.scalar(2, dtype),
    )
    if corners:
        steps = R.maximum(R.subtract(whole, one), one)
        places = R.divide(R.multiply(two, count), steps)
    else:
        places = R.divide(R.add(R.multiply(two, count), one), whole)
    shape = [size if i == axis else 1 for i in range(len(spatial))]
    return node.emit(R.reshape(R.subtract(places, one), [*shape, 1]))
