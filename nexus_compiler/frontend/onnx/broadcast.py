"""Makes shapes agree where that depends on the input: the model then checks it when it runs."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, tirx

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_runtime.errors import ShapeError


def align(
    node: Node, tensors: Sequence[relax.Expr], *, skip: int = 0, stretch: bool = True
) -> list[relax.Expr]:
    """`tensors`, of which TVM can now prove that they broadcast against each other.

    Two sizes that only the input can tell apart (`h` and `2*((h + 1)//2)`) are taken to be equal,
    and checked when the model runs.

    Args:
        node: for messages.
        tensors: what shall be joined.
        skip: so many axes at the end may differ.
        stretch: whether a size of 1 fits every other.
    """
    shapes = [node.shape(tensor) for tensor in tensors]
    rank = max(map(len, shapes))
    wanted: list[Size] = []
    for axis in range(rank - skip):
        sizes = [s[axis - rank] for s in shapes if axis - rank >= -len(s)]
        wanted.append(_agreed(node, sizes, stretch))
    return [_cast(node, t, s, wanted, rank) for t, s in zip(tensors, shapes)]


def agree(node: Node, tensors: Sequence[relax.Expr], axis: int) -> list[relax.Expr]:
    """`tensors` of one rank, which TVM can now prove to be equal on every axis but `axis`."""
    shapes = [node.shape(tensor) for tensor in tensors]
    results = list[relax.Expr]()
    agreed = [
        None if i == axis else _agreed(node, [s[i] for s in shapes], stretch=False)
        for i in range(len(shapes[0]))
    ]
    for tensor, shape in zip(tensors, shapes):
        target = [size if want is None else want for size, want in zip(shape, agreed)]
        same = all(node.sizes.equal(a, b) for a, b in zip(shape, target))
        results.append(tensor if same else node.importer.match(tensor, target))
    return results


def _agreed(node: Node, sizes: Sequence[Size], stretch: bool) -> Size:
    """The size that all of `sizes` shall have."""
    rest = [s for s in sizes if not (stretch and isinstance(s, int) and s == 1)]
    if not rest:
        return 1
    numbers = {size for size in rest if isinstance(size, int)}
    if len(numbers) > 1:
        raise ShapeError(
            f"{node} joins tensors that are {' and '.join(map(str, sorted(numbers)))} long "
            "on the same axis",
            hint="if you gave `shapes=`, check them; else the model is inconsistent",
        )
    return numbers.pop() if numbers else min(rest, key=_preference)


def _preference(size: Size) -> tuple[bool, int, str]:
    """An expression before a dimension, then the shortest, then by name.

    TVM takes `match_cast(x: [n // 2 * 2], [n])` for a definition of n and, in CanonicalizeBindings,
    replaces n by itself until the stack ends. An order that never depends on the place of an
    operand makes sure that two dimensions are not defined by each other either.
    """
    return isinstance(size, tirx.Var), len(str(size)), str(size)


def contract(node: Node, a: relax.Expr, b: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """The factors of a matrix product, which TVM can now prove to fit each other."""
    left, right = node.shape(a), node.shape(b)
    axis = max(len(right) - 2, 0)
    size = _agreed(node, [left[-1], right[axis]], stretch=False)
    if not node.sizes.equal(left[-1], size):
        a = node.importer.match(a, [*left[:-1], size])
    if not node.sizes.equal(right[axis], size):
        right[axis] = size
        b = node.importer.match(b, right)
    return a, b


def _cast(
    node: Node, tensor: relax.Expr, shape: Sequence[Size], wanted: Sequence[Size], rank: int
) -> relax.Expr:
    target = list(shape)
    differs = False
    for place, size in enumerate(shape):
        axis = place + rank - len(shape)
        if axis >= len(wanted) or (isinstance(size, int) and size == 1):
            continue
        if not node.sizes.equal(size, wanted[axis]):
            target[place] = wanted[axis]
            differs = True
    return node.importer.match(tensor, target) if differs else tensor
