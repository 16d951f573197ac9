"""Recognises quantised values in the arithmetic that importers spell them out in.

(int32(data) - zero) * scale              a dequantised value
int8(clip(round(x / scale) + zero))       a quantised one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax import op

BYTES = ("uint8", "int8")
_SAME_NUMBERS = ("astype", "reshape", "expand_dims")
Emit = Callable[[relax.Expr], relax.Var]


@dataclass(frozen=True)
class Integer:
    """An int32 value `data - zero`, or a float32 one `(data - zero) * scale`.

    Attributes:
        data: 8 bits wide.
        zero: int32, of one element or of the rank of `data`; None for 0.
        scale: float32, likewise; None for 1.
    """

    data: relax.Expr
    zero: relax.Expr | None = None
    scale: relax.Expr | None = None


@dataclass(frozen=True)
class Quantized:
    """`x`, quantised to `dtype`."""

    x: relax.Expr
    scale: relax.Expr
    zero: relax.Expr | None
    dtype: str


class Lookup:
    """What variables stand for, while a function is rewritten by `builder`."""

    def __init__(self, builder: relax.BlockBuilder, weights: Any = ()) -> None:
        self._builder = builder
        self._known: dict[relax.Var, bool] = dict.fromkeys(weights, True)

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` was bound to, without casts to the type that it has."""
        while True:
            if isinstance(expr, relax.Var):
                found = self._builder.lookup_binding(expr)
                if found is None:
                    return expr
                expr = found
            elif name_of(expr) == "astype" and _dtype(expr.args[0]) == str(expr.attrs.dtype):
                expr = expr.args[0]
            else:
                return expr

    def call(self, expr: relax.Expr, *names: str) -> relax.Call | None:
        """The call of one of these operators that `expr` is; else None."""
        found = self.value(expr)
        return found if name_of(found) in names else None

    def known(self, expr: relax.Expr) -> bool:
        """Whether `expr` follows from weights and constants alone."""
        if isinstance(expr, GenericConst):
            return True
        if isinstance(expr, relax.Var):
            if expr not in self._known:
                bound = self._builder.lookup_binding(expr)
                self._known[expr] = bound is not None and self.known(bound)
            return self._known[expr]
        return bool(name_of(expr)) and all(
            self.known(a) for a in expr.args if not isinstance(a, relax.ShapeExpr)
        )

    def constant(self, expr: relax.Expr | None) -> np.ndarray | None:
        """The value of `expr` where it is in the code: a constant, cast or reshaped on the way."""
        if expr is None:
            return None
        found = self.value(expr)
        if isinstance(found, GenericConst):
            return np.asarray(found.value.numpy())
        if isinstance(found, relax.Call) and name_of(found) in _SAME_NUMBERS:
            inner = self.constant(found.args[0])
            sizes = sizes_of(found)
            if inner is None or sizes is None:
                return None
            return inner.astype(str(found.ty.dtype)).reshape(sizes)
        return None

    def same(self, one: relax.Expr | None, other: relax.Expr | None) -> bool:
        """Whether both are certainly equal; None is 0."""
        if one is not None and other is not None and self.value(one).same_as(self.value(other)):
            return True
        left, right = (np.zeros(1) if e is None else self.constant(e) for e in (one, other))
        return (
            left is not None
            and right is not None
            and left.size == right.size == 1
            and bool(left.reshape(()) == right.reshape(()))
        )

    def integer(self, expr: relax.Expr) -> Integer | None:
        """`expr` as an int32 value of 8 bits."""
        cast = self.call(expr, "astype")
        if cast is not None:
            return Integer(cast.args[0]) if _narrow(cast, "int32") else None
        difference = self.call(expr, "subtract")
        if difference is None or _dtype(difference) != "int32":
            return self._moved(expr, self.integer)
        cast, zero = self.call(difference.args[0], "astype"), difference.args[1]
        if cast is None or not _narrow(cast, "int32") or _rank(zero) > _rank(cast):
            return None
        return Integer(cast.args[0], None if self._is_zero(zero) else zero)

    def dequantized(self, expr: relax.Expr) -> Integer | None:
        """`expr` as a float32 value of 8 bits and a scale."""
        product = self.call(expr, "multiply")
        if product is None or _dtype(product) != "float32":
            return self._moved(expr, self.dequantized)
        for value, scale in (product.args, tuple(product.args)[::-1]):
            cast = self.call(value, "astype")
            found = None if cast is None else self.integer(cast.args[0])
            if found is not None and _rank(scale) <= _rank(found.data):
                return replace(found, scale=scale)
        return None

    def quantized(self, expr: relax.Expr) -> Quantized | None:
        """`expr` as a value of 8 bits that comes from rounding."""
        cast = self.call(expr, "astype")
        if cast is None or str(cast.attrs.dtype) not in BYTES:
            return None
        value, dtype = cast.args[0], str(cast.attrs.dtype)
        limits = np.iinfo(dtype)
        for name, limit in (("minimum", limits.max), ("maximum", limits.min)):
            clip = self.call(value, name)
            if clip is None or not _equals(self.constant(clip.args[1]), limit):
                return None
            value = clip.args[0]
        moved, zero = self.call(value, "add"), None
        if moved is not None:
            value, zero = moved.args
        steps = self.call(value, "round")
        ratio = None if steps is None else self.call(steps.args[0], "divide")
        return None if ratio is None else Quantized(ratio.args[0], ratio.args[1], zero, dtype)

    def _is_zero(self, expr: relax.Expr) -> bool:
        found = self.constant(expr)
        return found is not None and not found.any()

    def _moved(self, expr: relax.Expr, find: Any) -> Integer | None:
        """What `find` finds below a transposition, transposed."""
        turn = self.call(expr, "permute_dims")
        found = None if turn is None else find(turn.args[0])
        if turn is None or found is None:
            return None

        def turned(value: relax.Expr | None) -> relax.Expr | None:
            if value is None or count(value) == 1:
                return value
            raised = at_rank(self._builder.emit, value, _rank(found.data))
            return self._builder.emit(op.permute_dims(raised, turn.attrs.axes))

        data = self._builder.emit(op.permute_dims(found.data, turn.attrs.axes))
        return Integer(data, turned(found.zero), turned(found.scale))


def at_rank(emit: Emit, value: relax.Expr, rank: int) -> relax.Expr:
    """`value` with leading axes of one, so that it has `rank` of them."""
    missing = rank - _rank(value)
    return emit(op.expand_dims(value, list(range(missing)))) if missing > 0 else value


def name_of(expr: Any) -> str:
    """The operator that `expr` calls, without its prefix; "" where it calls none."""
    name = getattr(getattr(expr, "op", None), "name", "") if isinstance(expr, relax.Call) else ""
    return name.removeprefix("relax.")


def sizes_of(expr: Any) -> list[int] | None:
    """The shape of a tensor, where all of it is known."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not all(hasattr(size, "value") for size in shape):
        return None
    return [int(size) for size in shape]


def count(expr: relax.Expr) -> int:
    """The number of elements; 0 where it is not known."""
    sizes = sizes_of(expr)
    return 0 if sizes is None else int(np.prod(sizes))


def _rank(expr: relax.Expr) -> int:
    return int(expr.ty.ndim)


def _dtype(expr: relax.Expr) -> str:
    return str(getattr(expr.ty, "dtype", ""))


def _narrow(cast: relax.Call, dtype: str) -> bool:
    return str(cast.attrs.dtype) == dtype and _dtype(cast.args[0]) in BYTES


def _equals(found: np.ndarray | None, limit: int) -> bool:
    return found is not None and found.size == 1 and bool(found.reshape(()) == limit)
