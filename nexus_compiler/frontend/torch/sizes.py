"""Sizes: PyTorch's symbolic integers (SymPy expressions) as dimensions of Relax."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import sympy
from torch.utils._sympy.functions import FloorDiv, Mod
from torch.utils._sympy.printers import PythonPrinter
from tvm import relax, tirx

from nexus_compiler.frontend.torch.values import R, tensor_constant
from nexus_runtime.errors import CaptureError

Size = Any
"""An `int`, or a SymPy expression over the symbols that PyTorch gave to dynamic dimensions."""


def plain(value: Any) -> Any:
    """A SymInt, SymFloat or SymBool as a number or a SymPy expression; all else as it is."""
    node = getattr(value, "node", None)
    expr = node.expr if node is not None and hasattr(node, "expr") else value
    if not isinstance(expr, sympy.Basic):
        return value
    return number(expr)


def number(expr: sympy.Basic) -> Any:
    """`expr` as a Python number where it is one."""
    if isinstance(expr, sympy.Integer):
        return int(expr)
    if expr in {sympy.true, sympy.false}:
        return bool(expr)
    if isinstance(expr, sympy.Float | sympy.Rational):
        return float(expr)
    return expr


def product(sizes: Iterable[Size]) -> Size:
    """The product of `sizes`."""
    result = math.prod(sizes)
    return number(result) if isinstance(result, sympy.Basic) else result


def is_symbolic(size: Size) -> bool:
    """Whether `size` depends on the shapes of the inputs."""
    return isinstance(size, sympy.Basic)


def is_negative(size: Size) -> bool:
    """Whether `size` is below 0 for every shape of the inputs; symbols are never negative."""
    return size < 0 if not is_symbolic(size) else bool(_with_positive_symbols(size).is_negative)


def at_least_zero(size: Size) -> Size:
    """`size`, or 0 where it is negative, which for some sizes only the running model knows."""
    if not is_symbolic(size):
        return max(size, 0)
    known = _with_positive_symbols(size)
    if known.is_nonpositive:
        return 0
    return size if known.is_nonnegative else sympy.Max(size, 0)


def _with_positive_symbols(size: Any) -> Any:
    positive = {s: sympy.Symbol(s.name, integer=True, positive=True) for s in size.free_symbols}
    return size.xreplace(positive)


class Dims:
    """The dynamic dimensions of one graph: each symbol's name and its TIR variable.

    Attributes:
        conditions: what must hold of the dimensions that inputs have, where `solve` found any.
    """

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self._solved: dict[sympy.Symbol, sympy.Expr] = {}
        self._composed: dict[Size, str] = {}
        self._wholes: dict[Size, sympy.Symbol] = {}
        self._variables: dict[sympy.Symbol, tirx.Var] = {}
        self._names: dict[sympy.Symbol, str] = {}

    def name(self, symbol: sympy.Symbol, name: str) -> None:
        """Call `symbol` `name`, unless it has a name already or the name is taken."""
        if symbol not in self._names and name not in self._names.values():
            self._names[symbol] = name

    def bind(self, shape: Iterable[Size]) -> None:
        """Make known the symbols that are a dimension of an input."""
        for size in shape:
            if isinstance(size, sympy.Symbol) and size not in self._variables:
                name = self._names.setdefault(size, size.name)
                self._variables[size] = tirx.Var(name, "int64")

    def solve(self, size: Size, name: str) -> None:
        """Take in a dimension of an input that is an expression, as `2*n` or `n + past`.

        It goes into the signature as `name`, with the condition that relates it to its parts. Where
        no input has one of these as a dimension (`2*n` alone), the size of that follows from it.
        """
        if not is_symbolic(size) or isinstance(size, sympy.Symbol):
            return
        if size in self._composed or size in self._wholes:
            return
        whole = sympy.Symbol(name, integer=True, nonnegative=True)
        open_ = [s for s in size.free_symbols if s not in self.known]
        if len(open_) == 1:
            factor = size.diff(open_[0])
            rest = sympy.expand(size - factor * open_[0])
            if not isinstance(factor, sympy.Integer) or factor <= 0:
                return  # `expression` says that it is not known
            self.bind([whole])
            part: Any = FloorDiv(whole - rest, factor)
            self._solved[open_[0]], self._wholes[size] = part, whole
            condition = sympy.Eq(Mod(whole - rest, factor), 0)
            if factor != 1:
                self.conditions.append(str(self.text(condition)))
            return
        if not open_:
            self._composed[size] = name
            self._names[whole] = name
            self.conditions.append(str(self.text(sympy.Eq(whole, size, evaluate=False))))

    def input_text(self, size: Size) -> int | str:
        """A dimension of an input as signatures write it."""
        return self._composed.get(size) or self.text(self._wholes.get(size, size))

    def own(self, size: Size) -> sympy.Symbol | None:
        """The symbol of a dimension that an input has by itself; None for all other sizes."""
        symbol = self._wholes.get(size, size)
        return symbol if symbol in self._variables else None

    @property
    def known(self) -> set[sympy.Symbol]:
        """The symbols that are a dimension of an input, or follow from one."""
        return {*self._variables, *self._solved}

    def text(self, size: Size) -> int | str:
        """A size or a condition as signatures write it: an int, or Python over dimension names."""
        if not is_symbolic(size):
            return int(size)
        size = size.xreplace(self._solved)
        names = {
            s: sympy.Symbol(self._names.get(s, s.name), integer=True) for s in size.free_symbols
        }
        return PythonPrinter().doprint(size.xreplace(names))

    def expression(self, size: Size) -> Any:
        """`size` as a TIR expression (int64).

        Raises:
            CaptureError: it depends on data and not only on shapes, or cannot be written in TIR.
        """
        if not is_symbolic(size):
            return tirx.IntImm("int64", int(size))
        if isinstance(size, sympy.Integer):
            return tirx.IntImm("int64", int(size))
        size = self._wholes.get(size, size)
        if isinstance(size, sympy.Symbol):
            if size in self._solved:
                return self.expression(self._solved[size])
            if size not in self._variables:
                raise CaptureError(
                    f"the size '{size}' depends on data and not only on the shapes of the inputs",
                    hint="avoid operators such as nonzero, unique, item and masks as indices",
                )
            return self._variables[size]
        make = _TIR.get(type(size).__name__)
        if make is None:
            raise CaptureError(f"the size '{size}' cannot be computed: {type(size).__name__}")
        return make(*map(self.expression, size.args))

    def scalar(self, value: Any, dtype: str, emit: Callable[[Any], Any]) -> Any:
        """A number, or an expression of sizes, as a scalar tensor of `dtype`."""
        if not is_symbolic(value):
            return tensor_constant(value, dtype)
        if value.is_integer:
            vector = emit(R.shape_to_tensor(relax.ShapeExpr([self.expression(value)])))
            return emit(R.astype(emit(R.reshape(vector, [])), dtype))
        make = _FLOATS.get(type(value).__name__)
        if make is None:
            raise CaptureError(f"the number '{value}' cannot be computed from sizes")
        # In float64, as Python would.
        parts = [self.scalar(number(part), "float64", emit) for part in value.args]
        return emit(R.astype(emit(make(*parts)), dtype))


def _power(base: Any, exponent: Any) -> Any:
    result = base
    for _ in range(int(exponent) - 1):
        result = result * base
    return result


def _fold(make: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def folded(*parts: Any) -> Any:
        result = parts[0]
        for part in parts[1:]:
            result = make(result, part)
        return result

    return folded


_TIR: dict[str, Callable[..., Any]] = {
    "Add": _fold(lambda a, b: a + b),
    "Mul": _fold(lambda a, b: a * b),
    "Pow": _power,
    "PowByNatural": _power,
    "FloorDiv": tirx.floordiv,
    "CleanDiv": tirx.floordiv,
    "CeilDiv": lambda a, b: tirx.floordiv(a + b - 1, b),
    "Mod": tirx.floormod,
    "PythonMod": tirx.floormod,
    "ModularIndexing": lambda a, b, c: tirx.floormod(tirx.floordiv(a, b), c),
    "Max": _fold(tirx.max),
    "Min": _fold(tirx.min),
    "Identity": lambda a: a,
}
_FLOATS: dict[str, Callable[..., Any]] = {
    "Add": _fold(R.add),
    "Mul": _fold(R.multiply),
    "Pow": R.power,
    "FloatPow": R.power,
    "ToFloat": lambda a: a,
    "IntTrueDiv": R.divide,
    "FloatTrueDiv": R.divide,
    "OpaqueUnaryFn_sqrt": R.sqrt,
    "OpaqueUnaryFn_log": R.log,
}
