"""Operators that move, repeat, join or cut tensors as a whole."""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R


@op(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "_reshape_copy",
    "flatten",
    "unsqueeze",
    "squeeze",
    "view_copy",
    "pixel_view",
    "unflatten",
)
def reshape(node: Node) -> Any:
    """A new shape for the same elements; PyTorch has computed it."""
    if "dtype" in node:
        raise node.refuse("it reads the bits as another type")
    return R.reshape(node["self"], node.dims(node.shape))


@op("permute", "transpose", "t", "numpy_T", "permute_copy")
def permute(node: Node) -> Any:
    """Another order of the axes."""
    order = list(range(node.rank()))
    if "dims" in node:
        order = node.axes("dims")
    elif "dim0" in node:
        first, second = node.axis("dim0"), node.axis("dim1")
        if order:
            order[first], order[second] = order[second], order[first]
    else:
        order.reverse()
    return R.permute_dims(node["self"], order) if len(order) > 1 else node["self"]


@op("expand", "expand_as", "broadcast_to")
def expand(node: Node) -> Any:
    """Axes of length 1 repeated."""
    return R.broadcast_to(node["self"], node.dims(node.shape))


@op("cat", "concatenate")
def cat(node: Node) -> Any:
    """Joins tensors on an axis; PyTorch allows empty vectors among them."""
    fakes = [argument.meta["val"] for argument in node.fx.args[0]]  # type: ignore[union-attr]
    rank = len(node.shape)
    kept = [
        node.cast(value, node.dtype)
        for value, fake in zip(node["tensors"], fakes)
        if fake.dim() == rank and not (rank == 1 and sizes.plain(fake.shape[0]) == 0)
    ]
    axis = node.axis(rank=rank)
    if not kept:
        return node.full(node.shape, 0, node.dtype)
    return kept[0] if len(kept) == 1 else R.concat(kept, axis)


@op("stack")
def stack(node: Node) -> Any:
    """Joins tensors on a new axis."""
    axis = node.axis(rank=len(node.shape))
    parts = [node.cast(value, node.dtype) for value in node["tensors"]]
    return R.concat([node.emit(R.expand_dims(part, [axis])) for part in parts], axis)


def cut(node: Node, x: Any, axis: int, begin: Size, end: Size, step: int = 1) -> relax.Var:
    """A part of one axis; the bounds are inside of it."""
    begins, ends = node.dims([begin]), node.dims([end])
    return node.emit(R.strided_slice(x, [axis], begins, ends, [step], assume_inbound=True))


@op("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "tensor_split")
def split(node: Node) -> list[Any]:
    """Parts of an axis, with the sizes that PyTorch has computed."""
    axis, begin = node.axis(), 0
    parts: list[Any] = []
    x = node["self"]
    for index in range(len(node.out)):
        end = begin + node.shapes(index)[axis]
        parts.append(cut(node, x, axis, begin, end) if len(node.out) > 1 else x)
        begin = end
    return parts


@op("unbind")
def unbind(node: Node) -> list[Any]:
    """The elements of an axis."""
    axis = node.axis()
    return [
        node.reshape(cut(node, node["self"], axis, index, index + 1), node.shapes(index))
        for index in range(len(node.out))
    ]


def _from_start(node: Node, place: Size, size: Size) -> Size:
    return place + size if sizes.is_negative(place) else place


@op("slice", "slice_copy")
def slice_(node: Node) -> Any:
    """A part of an axis, as Python's slices."""
    axis, x = node.axis(), node["self"]
    size, length = node.shape_of("self")[axis], node.shape[axis]
    begin, step = slice_start(node, size), node["step"]
    if step == 1 and length == size:
        return x
    if length == 0:
        return node.full(node.shape, 0, node.dtype)
    return cut(node, x, axis, begin, begin + (length - 1) * step + 1, step)


def slice_start(node: Node, size: Size) -> Size:
    """The start of a slice, counted from the front and inside of an axis of `size`."""
    start = node.get("start", 0)
    place = _from_start(node, start, size)
    if isinstance(place, int) and isinstance(size, int):
        return min(max(place, 0), size)
    return 0 if sizes.is_negative(place) else place


@op("narrow")
def narrow(node: Node) -> Any:
    """A part of an axis, by its start and length."""
    axis = node.axis()
    begin = _from_start(node, node["start"], node.shape_of("self")[axis])
    return cut(node, node["self"], axis, begin, begin + node.shape[axis])


@op("select", "select_copy")
def select(node: Node) -> Any:
    """One element of an axis."""
    axis = node.axis()
    place = _from_start(node, node["index"], node.shape_of("self")[axis])
    return node.reshape(cut(node, node["self"], axis, place, place + 1), node.shape)


@op("flip")
def flip(node: Node) -> Any:
    """Axes turned round."""
    x = node["self"]
    for axis in node.axes("dims"):
        x = node.emit(R.flip(x, axis))
    return x


@op("roll")
def roll(node: Node) -> Any:
    """Elements moved along axes; what falls off comes back at the front."""
    x, shape = node["self"], node.shape
    if not node["dims"]:
        x, shape = node.reshape(x, [sizes.product(shape)]), [sizes.product(shape)]
    for given, axis in zip(node["shifts"], node["dims"] or [0]):
        size = shape[axis]
        shift = given % max(size, 1) if isinstance(size, int) else given
        if shift == 0:
            continue
        border = -shift if sizes.is_negative(shift) else size - shift
        place = axis % len(shape)
        parts = [cut(node, x, place, border, size), cut(node, x, place, 0, border)]
        x = node.emit(R.concat(parts, place))
    return node.reshape(x, node.shape)


@op("repeat", "tile")
def repeat(node: Node) -> Any:
    """A tensor repeated along its axes; there may be new ones in front."""
    counts = node["repeats" if "repeats" in node else "dims"]
    shape = node.shape_of("self")
    rank = max(len(counts), len(shape))
    shape = [1] * (rank - len(shape)) + shape
    counts = [1] * (rank - len(counts)) + counts
    doubled = [item for size in shape for item in (1, size)]
    spread = [item for size, count in zip(shape, counts) for item in (count, size)]
    wide = node.broadcast(node.reshape(node["self"], doubled), spread)
    return R.reshape(wide, node.dims(node.shape))


@op("repeat_interleave.self_int")
def repeat_interleave(node: Node) -> Any:
    """Every element of an axis repeated."""
    x, count = node["self"], node["repeats"]
    axis = node.axis() if "dim" in node else 0
    shape = node.shape_of("self") if "dim" in node else [sizes.product(node.shape_of("self"))]
    doubled = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
    spread = [*shape[: axis + 1], count, *shape[axis + 1 :]]
    return R.reshape(node.broadcast(node.reshape(x, doubled), spread), node.dims(node.shape))


@op("slice_scatter", "select_scatter")
def slice_scatter(node: Node) -> Any:
    """A part of an axis replaced by another tensor."""
    axis, x, source = node.axis(), node["self"], node.cast(node["src"], node.dtype)
    size = node.shape[axis]
    shape = list(node.shape)
    if "index" in node:
        begin, length, step = _from_start(node, node["index"], size), 1, 1
        shape[axis] = 1
        source = node.reshape(source, shape)
    else:
        length, step = node.shape_of("src")[axis], node["step"]
        begin = slice_start(node, size)
    if step != 1:
        return _scatter_steps(node, x, source, axis, begin, step)
    end = begin + length
    parts = [] if begin == 0 else [cut(node, x, axis, 0, begin)]
    parts.append(source)
    parts += [] if end == size else [cut(node, x, axis, end, size)]
    return R.concat(parts, axis) if len(parts) > 1 else source


def _scatter_steps(node: Node, x: Any, source: Any, axis: int, begin: Size, step: int) -> Any:
    places = node.emit(R.arange(0, *node.dims([node.shape_of("src")[axis]]), dtype="int64"))
    places = R.add(R.multiply(places, node.scalar(step, "int64")), node.scalar(begin, "int64"))
    line = [1] * node.rank()
    line[axis] = node.shape_of("src")[axis]
    indices = node.broadcast(node.reshape(node.emit(places), line), node.shape_of("src"))
    return R.scatter_elements(x, indices, source, axis)


@op("constant_pad_nd")
def constant_pad(node: Node) -> Any:
    """A border of one value; a negative width cuts."""
    x, widths, rank = node["self"], node["pad"], node.rank()
    pairs = [(0, 0)] * (rank - len(widths) // 2)
    pairs += list(zip(widths[::2], widths[1::2]))[::-1]
    return pad(node, x, pairs, node["value"])


def pad(node: Node, x: Any, pairs: list[tuple[Any, Any]], value: Any = 0) -> relax.Expr:
    """`x` with a border of (before, after) on each axis; a negative width cuts."""
    for axis, (before, after) in enumerate(pairs):
        low = -before if sizes.is_negative(before) else 0
        high = -after if sizes.is_negative(after) else 0
        if low != 0 or high != 0:
            size = x.ty.shape.values[axis]
            ends: Any = [size - high]
            x = node.emit(R.strided_slice(x, [axis], [low], ends, [1], assume_inbound=True))
    grown = [0 if sizes.is_negative(w) else w for pair in pairs for w in pair]
    if not any(grown):
        return x
    if any(map(sizes.is_symbolic, grown)):
        return _pad_by_concat(node, x, pairs, value)
    kind = dtype_of(x)
    if kind == "bool":
        wide = node.emit(R.nn.pad(node.cast(x, "int8"), grown, "constant", float(value)))
        return node.cast(wide, "bool")
    return node.emit(R.nn.pad(x, grown, "constant", float(value)))


def _pad_by_concat(node: Node, x: Any, pairs: list[tuple[Any, Any]], value: Any) -> Any:
    for axis, pair in enumerate(pairs):
        parts: list[Any] = [x]
        for place, width in enumerate(pair):
            if width == 0 or sizes.is_negative(width):
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


@op("tril", "triu")
def triangle(node: Node) -> Any:
    """The lower or upper triangle; the rest is 0."""
    x, k, lower = node["self"], node["diagonal"], node.kind == "tril"
    if sizes.is_symbolic(k):
        rows, columns = (
            node.emit(R.arange(0, *node.dims([size]), dtype="int64")) for size in node.shape[-2:]
        )
        away = R.subtract(columns, node.emit(R.expand_dims(rows, [1])))
        inside = (R.less_equal if lower else R.greater_equal)(away, node.scalar(k, "int64"))
        return R.where(inside, x, node.scalar(0, node.dtype))
    make = R.tril if lower else R.triu
    if node.dtype == "bool":
        return node.cast(node.emit(make(node.cast(x, "int8"), k)), "bool")
    return make(x, k)


@op("unfold")
def unfold(node: Node) -> Any:
    """Windows over an axis, on a new last axis."""
    axis = node.axis("dimension")
    size, step = node["size"], node["step"]
    count = node.shape[axis]
    last = (count - 1) * step
    taps = [cut(node, node["self"], axis, i, i + last + 1, step) for i in range(size)]
    rank = node.rank()
    return R.concat([node.emit(R.expand_dims(tap, [rank])) for tap in taps], rank)


@op("diagonal", "diagonal_copy")
def diagonal(node: Node) -> Any:
    """A diagonal of two axes, as the last axis."""
    first, second = node.axis("dim1"), node.axis("dim2")
    rows, columns = (node.shape_of("self")[axis] for axis in (first, second))
    order = [a for a in range(node.rank()) if a not in {first, second}] + [first, second]
    x = node.emit(R.permute_dims(node["self"], order))
    rest = [node.shape_of("self")[axis] for axis in order[:-2]]
    flat = node.reshape(x, [*rest, rows * columns])
    offset, length = node["offset"], node.shape[-1]
    begin = offset if offset >= 0 else -offset * columns
    end = begin + (length - 1) * (columns + 1) + 1
    return cut(node, flat, len(rest), begin, end, columns + 1)


@op("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(node: Node) -> Any:
    """Channels become pixels, or the other way."""
    x = node["self"]
    *rest, channels, height, width = node.shape_of("self")
    count = len(rest)
    if "upscale_factor" in node:
        f = node["upscale_factor"]
        parts, order = [channels // (f * f), f, f, height, width], [0, 3, 1, 4, 2]
    else:
        f = node["downscale_factor"]
        parts, order = [channels, height // f, f, width // f, f], [0, 2, 4, 1, 3]
    moved = R.permute_dims(
        node.reshape(x, [*rest, *parts]), [*range(count), *(count + axis for axis in order)]
    )
    return R.reshape(moved, node.dims(node.shape))
