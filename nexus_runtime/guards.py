"""Conditions on the sizes of a call, as text in the signature: "batch <= 64", "length % 8 == 0".

A condition is a Python expression over names of dimensions and integers, with + - * // % min max,
comparisons, `and`, `or` and `not`. Nothing else is accepted: artifacts come from elsewhere.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from types import CodeType

_LONGEST = 2000
"""So many characters a condition may have: what parses deeper could exhaust the stack."""
_LARGEST = 2**63

_NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
    ast.FloorDiv, ast.Mod, ast.UnaryOp, ast.USub, ast.Not, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Call,
)  # fmt: skip
_FUNCTIONS = {"min": min, "max": max}


@functools.lru_cache(maxsize=4096)
def _parsed(condition: str) -> tuple[CodeType, tuple[str, ...]]:
    """The condition as code, and the dimensions that it is about, in order."""
    if len(condition) > _LONGEST:
        raise ValueError(f"a condition has {len(condition)} characters, more than {_LONGEST}")
    try:
        tree = ast.parse(condition, mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{condition}' is no condition on sizes: {error}") from error
    called: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called.add(node.func)
        if not _allowed(node):
            raise ValueError(
                f"'{condition}' is no condition on sizes: it holds {type(node).__name__}"
            )
    found = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called]
    return compile(tree, "<condition>", "eval"), tuple(dict.fromkeys(found))


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int) and abs(node.value) < _LARGEST
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return known and len(node.args) > 1 and not node.keywords
    return isinstance(node, _NODES)


def dimensions(condition: str) -> tuple[str, ...]:
    """The names of the dimensions that `condition` is about, in the order of their occurrence.

    Raises:
        ValueError: it is no condition on sizes.
    """
    return _parsed(condition)[1]


def holds(condition: str, sizes: Mapping[str, int]) -> bool:
    """Whether `condition` is met by `sizes`, which has all of its dimensions.

    A condition that divides by a size of 0 is not met.

    Raises:
        ValueError: it is no condition on sizes.
    """
    try:
        return bool(value(condition, sizes))
    except ZeroDivisionError:
        return False


def value(expression: str, sizes: Mapping[str, int]) -> int:
    """What `expression`, written as a condition is, comes to for `sizes`.

    Raises:
        ValueError: it is no such expression.
        ZeroDivisionError: it divides by a size of 0.
    """
    code, names = _parsed(expression)
    known = {name: sizes[name] for name in names}
    # What the code may do is settled by `_NODES`: arithmetic on the integers of `known`.
    return int(eval(code, {"__builtins__": {}, **_FUNCTIONS}, known))
