"""Arithmetic on sizes: integers and symbolic expressions over the dimensions of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer, ConstIntBound

Size = Any
"""An `int`, or a TVM expression (int64) over the symbolic dimensions of the inputs."""


ENDLESS = 10**9
"""No dimension is so long: exporters write this, or the largest integer, for "to the end"."""


class Sizes:
    """Simplifies and compares sizes; a dimension of an input is at least 1 and below `ENDLESS`."""

    def __init__(self) -> None:
        self._analyzer = Analyzer()

    def variable(self, name: str, lowest: int = 1) -> tirx.Var:
        """A new symbolic dimension, or another whole number that is at least `lowest`."""
        variable = tirx.Var(name, "int64")
        self._analyzer.update(variable, ConstIntBound(lowest, ENDLESS - 1))
        return variable

    def simple(self, size: Size) -> Size:
        """`size` as an `int` where it is one, else simplified."""
        if isinstance(size, tirx.IntImm):
            return int(size)
        if isinstance(size, int):
            return size
        _check_growth(size)
        size = self._analyzer.simplify(size)
        return int(size) if isinstance(size, tirx.IntImm) else size

    def shape(self, sizes: Iterable[Size]) -> list[Size]:
        """Every one of `sizes` simplified."""
        return [self.simple(size) for size in sizes]

    def equal(self, a: Size, b: Size) -> bool | None:
        """Whether `a` and `b` are the same size; None where that depends on the input."""
        return self._decide(a, b, lambda x, y: x == y, lambda x, y: x != y)

    def less(self, a: Size, b: Size) -> bool | None:
        """Whether `a` is below `b`; None where that depends on the input."""
        return self._decide(a, b, lambda x, y: x < y, lambda x, y: x >= y)

    def _decide(
        self, a: Size, b: Size, holds: Callable[[Any, Any], Any], fails: Callable[[Any, Any], Any]
    ) -> bool | None:
        if isinstance(a, int) and isinstance(b, int):
            return bool(holds(a, b))
        a, b = expression(a), expression(b)
        if self._analyzer.can_prove(holds(a, b)):
            return True
        return False if self._analyzer.can_prove(fails(a, b)) else None

    def floordiv(self, a: Size, b: Size) -> Size:
        """`a // b`."""
        return self.simple(a // b)

    def truncdiv(self, a: Size, b: Size) -> Size:
        """`a / b` towards zero, as ONNX divides integers."""
        if isinstance(a, int) and isinstance(b, int):
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        if self.less(a, 0) is False and self.less(b, 1) is False:
            return self.floordiv(a, b)
        return self.simple(tirx.truncdiv(expression(a), expression(b)))

    def minimum(self, a: Size, b: Size) -> Size:
        """The smaller of two sizes."""
        if (below := self.less(a, b)) is not None:
            return a if below else b
        return self.simple(tirx.min(expression(a), expression(b)))

    def maximum(self, a: Size, b: Size) -> Size:
        """The larger of two sizes."""
        if (below := self.less(a, b)) is not None:
            return b if below else a
        return self.simple(tirx.max(expression(a), expression(b)))

    def product(self, sizes: Iterable[Size]) -> Size:
        """The product of `sizes`."""
        result: Size = 1
        for size in sizes:
            result = result * size
        return self.simple(result)

    def quotient(self, whole: Sequence[Size], known: Sequence[Size]) -> Size:
        """`prod(whole) / prod(known)`, known to be exact: equal factors cancel, not only divide."""
        left, right = list(whole), list[Size]()
        for factor in known:
            places = (place for place, other in enumerate(left) if self.equal(factor, other))
            if (place := next(places, None)) is None:
                right.append(factor)
            else:
                del left[place]
        divisor = self.product(right)
        if isinstance(divisor, int) and divisor == 0:
            return 0
        return self.floordiv(self.product(left), divisor)


_MOST_TERMS = 1000
_LARGEST_FACTOR = 2**48


def _check_growth(size: Any) -> None:
    """Stop sizes that would overflow, and those that double with every operation.

    Raises:
        OverflowError: `size` is one; whoever knows the node says which.
    """
    terms = 0

    def visit(term: Any) -> None:
        nonlocal terms
        terms += 1
        if isinstance(term, tirx.IntImm) and _LARGEST_FACTOR < abs(int(term)) < 2**63 - 1:
            raise OverflowError(f"a size is multiplied or divided by {int(term)}")

    tvm_ffi.structural_walk(size, visit)
    if terms > _MOST_TERMS:
        raise OverflowError(
            f"a size follows from the inputs by {terms} operations; fix dimensions with `shapes=`"
        )


def expression(size: Size) -> Any:
    """`size` as a TVM expression."""
    return tirx.IntImm("int64", size) if isinstance(size, int) else size


def is_symbolic(size: Size) -> bool:
    """Whether `size` depends on the shapes of the inputs."""
    return not isinstance(size, int)
