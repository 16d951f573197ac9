"""Shapes that PyTorch found equal and TVM cannot prove so: made equal, checked in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm import relax, tirx
from tvm.sym import Analyzer

from nexus_compiler.frontend.torch.node import dtype_of
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.importer import Importer


class Shapes:
    """The shapes of what `importer` emits, as PyTorch says they are."""

    def __init__(self, importer: Importer) -> None:
        self._importer = importer
        self._analyzer = Analyzer()

    def may_have(self, tensor: relax.Var, shape: Sequence[Size]) -> bool:
        """Whether `tensor` can have `shape`, as far as fixed sizes tell."""
        kind: Any = tensor.ty
        if kind.shape is None:
            return True
        made = list(kind.shape.values)
        return len(made) == len(shape) and all(map(_may_equal, made, shape))

    def matched(self, tensor: relax.Var, dims: Sequence[Any]) -> relax.Var:
        """`tensor` with the shape `dims`; it is not checked where that is certain."""
        kind: Any = tensor.ty
        made = None if kind.shape is None else list(kind.shape.values)
        if made is not None and all(map(self._analyzer.can_prove_equal, made, dims)):
            return tensor
        return self.match(tensor, dims)

    def match(self, tensor: relax.Expr, dims: Sequence[Any]) -> relax.Var:
        """`tensor`, which is checked to have the shape `dims` whenever the model runs."""
        listed: Any = list(dims)
        own: Any = tensor.ty
        if own.shape is not None and any(map(_holds, own.shape.values, dims)):
            # CanonicalizeBindings takes `n` for what it matches, `32 - max(0, 32 - n)`, and so
            # without end. PyTorch's guard on n has made sure that these are equal.
            return self._importer.builder.emit(R.reshape(tensor, listed))
        return self._importer.builder.match_cast(tensor, relax.TensorType(listed, dtype_of(tensor)))

    def match_shape(self, shape: relax.Expr, dims: Sequence[Any]) -> None:
        """Make known the sizes in `dims` that are not yet, and check all others, in every run."""
        listed: Any = list(dims)
        self._importer.builder.match_cast(shape, relax.ShapeType(listed))

    def broadcastable(self, expr: relax.Expr) -> relax.Expr:
        """A call of an elementwise operator or a product, with operands that TVM sees to fit."""
        name = getattr(expr.op, "name", "") if isinstance(expr, relax.Call) else ""
        if name not in _BROADCASTING and name != _MATMUL:
            return expr
        operands = self._aligned(expr.args, 2 if name == _MATMUL else 0)
        return relax.Call(expr.op, operands, expr.attrs, expr.ty_args)

    def _aligned(self, operands: Sequence[relax.Expr], inner: int) -> list[relax.Expr]:
        """`operands`, with sizes that PyTorch found equal and TVM cannot prove so made equal.

        Of two sizes that are not 1 in a place of the result, the shorter text stands for both.

        Args:
            operands: what is combined element by element on all but the last `inner` axes.
            inner: 2 for matrices, whose inner sizes are equal; or 0.
        """
        listed: list[Any] = [
            self._importer.emit(x) if isinstance(x, relax.Call) else x for x in operands
        ]
        shapes = [list(x.ty.shape.values) if x.ty.shape is not None else [] for x in listed]
        if min(map(len, shapes)) < inner:
            return listed  # a vector
        outer = [shape[: len(shape) - inner] for shape in shapes]
        rank = max(map(len, outer))
        wanted = [self._common([s[a - rank] for s in outer if len(s) >= rank - a])
                  for a in range(rank)]  # fmt: skip
        targets = [
            [w if not _is_one(s) else s for s, w in zip(own, wanted[rank - len(own) :])]
            + shape[len(own) :]
            for own, shape in zip(outer, shapes)
        ]
        if inner:
            targets[0][-1] = targets[1][-2] = self._common([targets[0][-1], targets[1][-2]])
        for place, (shape, target) in enumerate(zip(shapes, targets)):
            if not all(map(self._analyzer.can_prove_equal, shape, target)):
                listed[place] = self.match(self._importer.emit(listed[place]), target)
        return listed

    def of_one_size(self, tensors: Sequence[relax.Expr], axis: int) -> list[relax.Expr]:
        """`tensors`, whose sizes are made equal on all axes but `axis`, as PyTorch found them."""
        listed: list[Any] = list(tensors)
        shapes = [list(x.ty.shape.values) for x in listed]
        for a, dims in enumerate(zip(*shapes)):
            fixed = [dim for dim in dims if isinstance(dim, tirx.IntImm)]
            common = fixed[0] if fixed else min(dims, key=lambda dim: len(str(dim)))
            for shape in shapes:
                shape[a] = shape[a] if a == axis else common
        return [
            x
            if all(map(self._analyzer.can_prove_equal, x.ty.shape.values, shape))
            else self.match(x, shape)
            for x, shape in zip(listed, shapes)
        ]

    def _common(self, dims: Sequence[Any]) -> Any:
        """What all of `dims` that are not 1 are."""
        long = [dim for dim in dims if not _is_one(dim)]
        return min(long, key=lambda dim: len(str(dim)), default=1)


_MATMUL = "relax.matmul"
_BROADCASTING = {
    f"relax.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "floor_divide", "mod", "floor_mod", "power",
        "maximum", "minimum", "equal", "not_equal", "less", "less_equal", "greater",
        "greater_equal", "logical_and", "logical_or", "logical_xor", "where", "atan2",
        "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift",
    )
}  # fmt: skip


def _holds(made: Any, wanted: Any) -> bool:
    """Whether `wanted` is a variable that the expression `made` is written in."""
    if not isinstance(wanted, tirx.Var) or isinstance(made, tirx.Var):
        return False
    return any(wanted.same_as(one) for one in tirx.analysis.undefined_vars(made))


def _is_one(dim: Any) -> bool:
    return isinstance(dim, tirx.IntImm) and int(dim) == 1


def _may_equal(made: Any, wanted: Size) -> bool:
    if isinstance(made, tirx.IntImm) and isinstance(wanted, int):
        return int(made) == wanted
    return True
