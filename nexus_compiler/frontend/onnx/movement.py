"""Operators that move, repeat, join or cut tensors as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.broadcast import agree
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value
from nexus_runtime.errors import ShapeError


@op("Reshape")
def reshape(node: Node) -> Value:
    """A new shape for the same elements; 0 copies a size, -1 is what remains."""
    x = node.tensor(0)
    own = node.shape(x)
    wanted = node.vector(1) if node.opset >= 5 else list(node.attr("shape"))
    keep_zero = bool(node.attr("allowzero", 0))
    target = [
        own[i] if isinstance(size, int) and size == 0 and not keep_zero else size
        for i, size in enumerate(wanted)
    ]
    open_ = [i for i, size in enumerate(target) if isinstance(size, int) and size == -1]
    for i in open_:
        target[i] = node.sizes.quotient(own, [*target[:i], *target[i + 1 :]])
    if any(isinstance(size, int) and size == 0 for size in target):
        # There are no elements; in a new shape, TVM would take a 0 for "copy the old size".
        return R.full(target, node.scalar(0, node.dtype(x)), node.dtype(x))
    whole, parts = node.sizes.product(own), node.sizes.product(target)
    if node.sizes.equal(whole, parts) is False:
        raise ShapeError(
            f"{node} cannot make {[str(s) for s in wanted]} of {[str(s) for s in own]}",
            hint="if you gave `shapes=`, the model may have fixed this size elsewhere",
        )
    return R.reshape(x, target)


@op("Flatten")
def flatten(node: Node) -> Value:
    """Two dimensions: all axes before `axis`, and all from it on."""
    x = node.tensor(0)
    shape = node.shape(x)
    axis = node.attr("axis")
    axis = axis + len(shape) if axis < 0 else axis
    product = node.sizes.product
    return R.reshape(x, [product(shape[:axis]), product(shape[axis:])])


@op("Transpose")
def transpose(node: Node) -> Value:
    """Another order of the axes; by default the reverse."""
    x = node.tensor(0)
    return R.permute_dims(x, node.attr("perm"))


@op("Squeeze")
def squeeze(node: Node) -> Value:
    """Drops axes that are 1 long."""
    x = node.tensor(0)
    shape = node.shape(x)
    axes = node.axes(1, len(shape))
    if axes is None:
        axes = [i for i, size in enumerate(shape) if isinstance(size, int) and size == 1]
    for axis in axes:
        if node.sizes.equal(shape[axis], 1) is False:
            raise ShapeError(f"{node} drops axis {axis}, which is {shape[axis]} long and not 1")
    # What may be 1 long is checked when the model runs.
    shape = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return R.squeeze(node.importer.match(x, shape), axes)


@op("Unsqueeze")
def unsqueeze(node: Node) -> Value:
    """New axes of length 1, counted in the result."""
    x = node.tensor(0)
    names = node.array(1).reshape(-1) if node.has(1) else node.attr("axes")
    rank = node.rank(x) + len(names)
    return R.expand_dims(x, sorted(node.axis(rank, int(axis)) for axis in names))


@op("Concat")
def concat(node: Node) -> Value:
    """Joins tensors on an axis."""
    tensors = node.tensors()
    axis = node.axis(node.rank(tensors[0]))
    return R.concat(agree(node, tensors, axis), axis)


@op("Split")
def split(node: Node) -> list[Value]:
    """Cuts a tensor on an axis, into given sizes or equal parts."""
    x = node.tensor(0)
    axis = node.axis(node.rank(x))
    count = node.attr("num_outputs") or len(node.proto.output)
    sizes = _parts(node, node.shape(x)[axis], count)
    results: list[Value] = []
    begin: Size = 0
    for size in sizes:
        end = node.sizes.simple(begin + size)
        results.append(R.strided_slice(x, [axis], [begin], [end], [1], assume_inbound=True))
        begin = end
    if len(sizes) == 1:
        return [x]
    if all(isinstance(size, int) and size > 0 for size in sizes):
        ends = [int(end) for end in np.cumsum(sizes)[:-1]]
        pieces = node.emit(R.split(x, ends, axis))
        return [relax.TupleGetItem(pieces, i) for i in range(len(sizes))]
    return results


def _parts(node: Node, size: Size, count: int) -> Sequence[Size]:
    if node.has(1):
        return node.vector(1)
    if given := node.attr("split"):
        return list(given)
    part = node.sizes.floordiv(size + count - 1, count)
    return [part] * (count - 1) + [node.sizes.simple(size - part * (count - 1))]


@op("Expand")
def expand(node: Node) -> Value:
    """Broadcasts a tensor against a shape; either may be the larger one."""
    x = node.tensor(0)
    own, wanted = node.shape(x), node.vector(1)
    rank = max(len(own), len(wanted))
    own = [1] * (rank - len(own)) + own
    wanted = [1] * (rank - len(wanted)) + wanted
    target = [_wider(node, a, b) for a, b in zip(own, wanted)]
    if rank == node.rank(x) and all(node.sizes.equal(a, b) for a, b in zip(own, target)):
        return x
    return R.broadcast_to(x, target)


def _wider(node: Node, a: Size, b: Size) -> Size:
    if isinstance(b, int) and b == 1:
        return a
    if node.sizes.equal(a, b) is False and not (isinstance(a, int) and a == 1):
        raise ShapeError(f"{node} cannot broadcast a size of {a} to {b}")
    return b


@op("Tile")
def tile(node: Node) -> Value:
    """Repeats a tensor along its axes."""
    x = node.tensor(0)
    shape, repeats = node.shape(x), node.vector(1)
    if all(isinstance(count, int) for count in repeats):
        return R.tile(x, [int(count) for count in repeats])
    doubled = [item for size in shape for item in (1, size)]
    spread = [item for size, count in zip(shape, repeats) for item in (count, size)]
    repeated = R.broadcast_to(R.reshape(x, doubled), spread)
    return R.reshape(repeated, [node.sizes.simple(s * c) for s, c in zip(shape, repeats)])


@op("Pad")
def pad(node: Node) -> Value:
    """Adds a border: a constant, mirrored, the edge, or the other side. Negative pads cut."""
    x = node.tensor(0)
    rank = node.rank(x)
    mode = node.attr("mode")
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        raise node.refuse(f"its mode is '{mode}'")
    given = node.attr("pads") if node.opset < 11 else [int(p) for p in node.array(1)]
    axes = node.axes(3, rank) or list(range(rank))
    widths = [[0, 0] for _ in range(rank)]
    for place, axis in enumerate(axes):
        widths[axis] = [given[place], given[place + len(axes)]]
    fill = _fill(node) if mode == "constant" else 0.0
    x = _cut(node, x, widths)
    grown = [max(width, 0) for pair in widths for width in pair]
    return R.nn.pad(x, grown, names[mode], fill) if any(grown) else x


def _fill(node: Node) -> float:
    if node.opset < 11:
        return float(node.attr("value"))
    return node.array(2).reshape(-1)[0].item() if node.has(2) else 0.0


def _cut(node: Node, x: relax.Expr, widths: Sequence[Sequence[int]]) -> relax.Expr:
    shape = node.shape(x)
    axes = [axis for axis, pair in enumerate(widths) if min(pair) < 0]
    if not axes:
        return x
    begins = [max(-widths[a][0], 0) for a in axes]
    ends = [node.sizes.simple(shape[a] + min(widths[a][1], 0)) for a in axes]
    return node.emit(R.strided_slice(x, axes, begins, ends, [1] * len(axes), assume_inbound=True))


@op("DepthToSpace")
def depth_to_space(node: Node) -> Value:
    """Channels become pixels."""
    x = node.tensor(0)
    batch, channels, height, width = node.shape(x)
    block = node.attr("blocksize")
    rest = node.sizes.floordiv(channels, block * block)
    if node.attr("mode", "DCR") == "DCR":
        parts, order = [batch, block, block, rest, height, width], [0, 3, 4, 1, 5, 2]
    else:
        parts, order = [batch, rest, block, block, height, width], [0, 1, 4, 2, 5, 3]
    moved = R.permute_dims(R.reshape(x, parts), order)
    return R.reshape(moved, [batch, rest, height * block, width * block])


@op("SpaceToDepth")
def space_to_depth(node: Node) -> Value:
    """Pixels become channels."""
    x = node.tensor(0)
    batch, channels, height, width = node.shape(x)
    block = node.attr("blocksize")
    high, wide = node.sizes.floordiv(height, block), node.sizes.floordiv(width, block)
    order = [0, 3, 5, 1, 2, 4] if node.attr("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    parts = R.permute_dims(R.reshape(x, [batch, channels, high, block, wide, block]), order)
    return R.reshape(parts, [batch, channels * block * block, high, wide])


@op("Trilu")
def trilu(node: Node) -> Value:
    """The upper or lower triangle; the rest is 0."""
    x = node.tensor(0)
    k = int(node.array(1).reshape(-1)[0]) if node.has(1) else 0
    make = R.triu if node.attr("upper") else R.tril
    if node.dtype(x) == "bool":
        return R.astype(make(R.astype(x, "int8"), k), "bool")
    return make(x, k)
