"""Functions that are all but a line near zero, without losing the digits of small arguments.

W. Kahan's way, which undoes the rounding of 1 + x by (1 + x) - 1, is not ours: TVM simplifies that
to x, and the result was wrong by as much as the rounding is. Series stand near zero instead; they
have gradients, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

op = relax.op


def near_zero(name: str, x: Any, emit: Callable[[Any], Any]) -> Any:
    """The function `name` of `x`, which has a floating-point type.

    Args:
        name: `log1p`, `expm1` or `atanh`.
        x: a named tensor; half precision is widened to float32 and back.
        emit: names an expression.
    """
    dtype = str(x.ty.dtype)
    if dtype not in {"float16", "bfloat16"}:
        return getattr(NearZero(emit, dtype), name)(x)
    found = getattr(NearZero(emit, "float32"), name)(emit(op.astype(x, "float32")))
    return emit(op.astype(found, dtype))


@dataclass(frozen=True)
class NearZero:
    """Writes them for elements of one type.

    Attributes:
        emit: names an expression.
        dtype: float32 or float64, which needs more terms.
    """

    emit: Callable[[Any], Any]
    dtype: str

    def log1p(self, x: Any) -> Any:
        """log(1 + x); near zero 2 artanh(z) with z = x / (2 + x)."""
        near, small = self._near(x, 0.25)
        z = self.emit(op.divide(small, self.emit(op.add(small, self._number(2)))))
        terms = 11 if self.dtype == "float64" else 5
        factors = [2 / (2 * term + 1) for term in range(terms)]
        series = self._series(self.emit(op.multiply(z, z)), factors)
        usual = op.log(self.emit(op.add(x, self._number(1))))
        return self._either(near, op.multiply(z, series), usual)

    def expm1(self, x: Any) -> Any:
        """exp(x) - 1."""
        near, small = self._near(x, 0.5)
        factors = [
            1 / math.factorial(term) for term in range(1, 17 if self.dtype == "float64" else 10)
        ]
        series = op.multiply(small, self._series(small, factors))
        return self._either(near, series, op.subtract(self.emit(op.exp(x)), self._number(1)))

    def atanh(self, x: Any) -> Any:
        """log((1 + x) / (1 - x)) / 2, as that of 1 + 2 x / (1 - x) for the magnitude of x."""
        a = self.emit(op.abs(x))
        below = self.emit(op.subtract(self._number(1), a))
        ratio = self.emit(op.divide(self.emit(op.add(a, a)), below))
        return self.odd(x, self.emit(op.multiply(self.log1p(ratio), self._number(0.5))))

    def odd(self, x: Any, magnitude: Any) -> Any:
        """`magnitude` of |x| with the sign of `x`, zeros too."""
        below = self.emit(op.less(x, self._number(0)))
        signed = self._either(below, op.negative(magnitude), magnitude)
        return self._either(self.emit(op.equal(x, self._number(0))), x, signed)

    def _near(self, x: Any, limit: float) -> tuple[Any, Any]:
        """Whether |x| is below `limit`, and x where it is, else 0: a series is taken only there."""
        near = self.emit(op.less(self.emit(op.abs(x)), self._number(limit)))
        return near, self.emit(op.where(near, x, self._number(0)))

    def _series(self, x: Any, factors: Sequence[float]) -> Any:
        """factors[0] + factors[1] x + factors[2] x^2 + ..."""
        found = self._number(factors[-1])
        for factor in reversed(factors[:-1]):
            found = self.emit(op.add(self._number(factor), self.emit(op.multiply(x, found))))
        return found

    def _number(self, value: float) -> Any:
        return relax.const(value, self.dtype)

    def _either(self, condition: Any, one: Any, other: Any) -> Any:
        return self.emit(op.where(condition, self.emit(one), self.emit(other)))
