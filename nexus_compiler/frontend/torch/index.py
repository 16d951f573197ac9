"""Operators that pick or change elements by indices; negative ones count from the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import counting, sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R


def from_start(node: Node, indices: Any, size: Size) -> relax.Var:
    """int64 indices of an axis of `size`, with negative ones counted from the end."""
    indices = node.cast(indices, "int64")
    negative = R.less(indices, node.scalar(0, "int64"))
    return node.emit(R.where(negative, R.add(indices, node.scalar(size, "int64")), indices))


@op("embedding")
def embedding(node: Node) -> Any:
    """Rows of a table; an index that is out of bounds reads the nearest row."""
    indices = node.cast(node["indices"], "int64")
    return R.take(node["weight"], indices, 0, mode="clip")


@op("embedding_dense_backward")
def embedding_backward(node: Node) -> Any:
    """The gradients of all places that read a row, added up."""
    width, count = node.shape[-1], sizes.product(node.shape_of("indices"))
    indices = node.reshape(node.cast(node["indices"], "int64"), [count, 1])
    grad = node.reshape(node["grad_output"], [count, width])
    if node["scale_grad_by_freq"]:
        raise node.refuse("scale_grad_by_freq is not handled")
    if (padding := node["padding_idx"]) >= 0:
        keep = R.not_equal(indices, node.scalar(padding, "int64"))
        grad = node.emit(R.where(keep, grad, node.scalar(0, node.dtype)))
    zeros = node.full(node.shape, 0, node.dtype)
    return R.scatter_nd(zeros, indices, grad, "add")


@op("index_select")
def index_select(node: Node) -> Any:
    """Elements of one axis."""
    axis = node.axis()
    size = node.shape_of("self")[axis] if node.rank() else 1
    index = node.reshape(node["index"], [sizes.product(node.shape_of("index"))])
    if node.rank() == 0:
        return node.broadcast(node["self"], node.shape)
    return R.take(node["self"], from_start(node, index, size), axis, mode="clip")


@op("gather")
def gather(node: Node) -> Any:
    """Single elements along an axis."""
    if node.rank() == 0:
        return node.broadcast(node["self"], node.shape)
    axis = node.axis()
    shape = node.shape_of("self")
    x = _front(node, node["self"], shape, node.shape_of("index"), axis)
    return R.gather_elements(x, from_start(node, node["index"], shape[axis]), axis)


def _front(node: Node, x: Any, own: Sequence[Size], other: Sequence[Size], axis: int) -> Any:
    """The part of `x` at the front of all axes but one that `other` is as long as."""
    axes = [a for a in range(len(own)) if a != axis and own[a] != other[a]]
    if not axes:
        return x
    ends = node.dims([other[a] for a in axes])
    zeros, ones = [0] * len(axes), [1] * len(axes)
    return node.emit(R.strided_slice(x, axes, zeros, ends, ones, assume_inbound=True))


_REDUCE = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max",
           "amin": "min"}  # fmt: skip


@op("scatter", "scatter_add", "scatter_reduce")
def scatter(node: Node) -> Any:
    """Single elements along an axis replaced, added to, ..."""
    axis, kind = node.axis(), node.get("reduce")
    mode = "add" if node.kind == "scatter_add" else _REDUCE.get(kind, "") if kind else "update"
    include = node.get("include_self", True)
    if not mode or not (include or mode == "add"):
        raise node.refuse(f"it reduces by '{kind}' with include_self={include}")
    x, shape = node.tensor("self"), node.shape_of("index")
    indices = from_start(node, node["index"], node.shape[axis] if node.shape else 1)
    if "src" in node:
        source = _front(node, node.tensor("src"), node.shape_of("src"), shape, -1)
    else:
        source = node.broadcast(node.tensor("value"), shape)
    if not include:
        zeros = node.full(shape, 0, node.dtype)
        x = node.emit(R.scatter_elements(x, indices, zeros, axis, "update"))
    if node.rank() == 0:
        raise node.refuse("it scatters into a scalar")
    if node.dtype == "bool":
        x, source = node.cast(x, "int8"), node.cast(source, "int8")
        return node.cast(node.emit(R.scatter_elements(x, indices, source, axis, mode)), "bool")
    return R.scatter_elements(x, indices, source, axis, mode)


@op("index_add")
def index_add(node: Node) -> Any:
    """Slices added to places of an axis."""
    axis, source = node.axis(), node.tensor("source")
    if (alpha := node["alpha"]) != 1:
        source = node.emit(R.multiply(source, node.scalar(alpha, node.dtype)))
    order = [axis, *(a for a in range(node.rank()) if a != axis)]
    count = node.shape_of("source")[axis]
    index = from_start(node, node["index"], node.shape[axis])
    moved = [node.emit(R.permute_dims(t, order)) for t in (node["self"], source)]
    summed = R.scatter_nd(moved[0], node.reshape(index, [count, 1]), moved[1], "add")
    return R.permute_dims(node.emit(summed), [order.index(a) for a in range(node.rank())])


class Places:
    """A list of index tensors, as `x[a, :, b]` has them, as one flat index.

    The indexed axes come first (`order`), and are one axis of `extent` elements; `flat` has the
    shape `shape`, that of all index tensors broadcast together.
    """

    def __init__(self, node: Node, indices: Sequence[Any]) -> None:
        self.node = node
        indices, shapes = _without_masks(node, indices)
        self.axes = [axis for axis, index in enumerate(indices) if index is not None]
        own = node.shape_of("self")
        self.shape = _broadcast(shapes)
        rest = [axis for axis in range(len(own)) if axis not in self.axes]
        self.order = [*self.axes, *rest]
        self.rest = [own[axis] for axis in rest]
        self.extent = sizes.product(own[axis] for axis in self.axes)
        flat: Any = None
        for axis in self.axes:
            part = node.broadcast(from_start(node, indices[axis], own[axis]), self.shape)
            flat = (
                part
                if flat is None
                else node.emit(R.add(R.multiply(flat, node.scalar(own[axis], "int64")), part))
            )
        self.flat = flat

    def front(self, x: Any) -> relax.Var:
        """`x` with the indexed axes as one in front."""
        moved = self.node.emit(R.permute_dims(x, self.order)) if len(self.order) > 1 else x
        return self.node.reshape(moved, [self.extent, *self.rest])

    @property
    def result_order(self) -> list[int]:
        """How (*shape, *rest) must be permuted: PyTorch leaves adjacent indices in their place."""
        count, before = len(self.shape), self.axes[0]
        total = count + len(self.rest)
        if self.axes != list(range(before, before + len(self.axes))):
            return list(range(total))
        kept = range(count, count + before)
        return [*kept, *range(count), *range(count + before, total)]


def _without_masks(node: Node, indices: Sequence[Any]) -> tuple[list[Any], list[list[Size]]]:
    """The index tensors with the places of masks instead of these, and the shapes of all."""
    listed, shapes = list[Any](), list[list[Size]]()
    given: Any = node.fx.args[1]
    for index, fx in zip(indices, given):
        if index is None:
            listed.append(None)
            continue
        shape = [sizes.plain(size) for size in fx.meta["val"].shape]
        if dtype_of(index) not in {"bool", "uint8"}:
            listed.append(index)
            shapes.append(shape)
            continue
        count = _count(node)
        listed += counting.places(node, index, shape, count)
        shapes += [[count]] * len(shape)
    return listed, shapes


def _count(node: Node) -> Size:
    """How many elements of a mask are set: the size of the result that no input has."""
    found = [s for s in node.shape if sizes.is_symbolic(s) and s not in node.shape_of("self")]
    if node.kind not in {"index", "_unsafe_index"} or not found:
        raise node.refuse("its mask has a size that depends on data", "use torch.where")
    return found[0]


def _masked_put(node: Node) -> Any:
    """x[mask] = values, without a size that depends on data; None where that is not the case."""
    given, x = node["indices"], node["self"]
    if len([one for one in given if one is not None]) != 1 or given[0] is None:
        return None
    mask = given[0]
    if dtype_of(mask) != "bool":
        return None
    nodes: Any = node.fx.args[1]
    shape = [sizes.plain(s) for s in nodes[0].meta["val"].shape]
    rest, values = node.shape[len(shape) :], node.tensor("values")
    flags = node.reshape(mask, [*shape, *([1] * len(rest))])
    own = node.shape_of("values")
    if len(own) > len(rest) and own[0] != 1:  # one value for each place, in order
        numbers = node.cast(node.reshape(mask, [sizes.product(shape)]), "int64")
        running = node.emit(R.subtract(node.emit(R.cumsum(numbers, 0)), node.scalar(1, "int64")))
        first = node.emit(R.maximum(running, node.scalar(0, "int64")))
        wide = node.broadcast(values, [own[0], *rest])
        values = node.reshape(node.emit(R.take(wide, first, 0, mode="clip")), [*shape, *rest])
    elif len(own) > len(rest):
        values = node.reshape(values, own[1:])
    if node["accumulate"]:
        values = node.emit(R.add(x, values))
    return R.where(flags, values, x)


def _broadcast(shapes: Sequence[Sequence[Size]]) -> list[Size]:
    rank = max(map(len, shapes))
    wide = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    return [next((s for s in line if s != 1), 1) for line in zip(*wide)]


@op("index", "_unsafe_index")
def index(node: Node) -> Any:
    """x[a, :, b]."""
    places = Places(node, node["indices"])
    picked = node.emit(R.take(places.front(node["self"]), places.flat, 0, mode="clip"))
    order = places.result_order
    return R.permute_dims(picked, order) if order != sorted(order) else picked


@op("index_put", "_unsafe_index_put")
def index_put(node: Node) -> Any:
    """x[a, :, b] = values, or += with `accumulate`."""
    if (masked := _masked_put(node)) is not None:
        return masked
    places = Places(node, node["indices"])
    x, values = node["self"], node.tensor("values")
    order = places.result_order
    whole = [*places.shape, *places.rest]
    wide = node.broadcast(values, [whole[axis] for axis in order])
    if order != sorted(order):
        wide = node.emit(R.permute_dims(wide, [order.index(a) for a in range(len(order))]))
    count = sizes.product(places.shape)
    updates = node.reshape(wide, [count, *places.rest])
    front, dtype = places.front(x), node.dtype
    if dtype == "bool":
        front, updates = node.cast(front, "int8"), node.cast(updates, "int8")
    mode = "add" if node["accumulate"] else "update"
    changed = R.scatter_nd(front, node.reshape(places.flat, [count, 1]), updates, mode)
    own = node.shape
    back = node.reshape(node.emit(changed), [own[axis] for axis in places.order])
    back = node.cast(back, dtype)
    if places.order == sorted(places.order):
        return back
    return R.permute_dims(back, [places.order.index(a) for a in range(len(own))])


@op("one_hot")
def one_hot(node: Node) -> Any:
    """Ones at the places that are named."""
    classes = node["num_classes"]
    if classes < 0:
        raise node.refuse("its number of classes depends on data", "pass num_classes")
    line = node.emit(R.arange(0, classes, dtype="int64"))
    names = node.emit(R.expand_dims(node["self"], [node.rank()]))
    return node.cast(node.emit(R.equal(names, line)), "int64")


@op("take")
def take(node: Node) -> Any:
    """Elements of the flat tensor."""
    total = sizes.product(node.shape_of("self"))
    flat = node.reshape(node["self"], [total])
    return R.take(flat, from_start(node, node["index"], total), 0, mode="clip")
