"""Sizes as text: how signatures and lists of kernels write what depends on open dimensions."""

from __future__ import annotations

from typing import Any

from tvm import tirx

_SYMBOLS: dict[str, tuple[str, int]] = {
    "Add": ("+", 1),
    "Sub": ("-", 1),
    "Mul": ("*", 2),
    "FloorDiv": ("//", 2),
    "FloorMod": ("%", 2),
}


def text(size: Any, outer: int = 0) -> int | str:
    """`size` as signatures write it: an int, or a Python expression over dimension names."""
    if isinstance(size, int | tirx.IntImm):
        return int(size)
    if isinstance(size, tirx.Var):
        return str(size.name)
    kind = type(size).__name__
    if kind in {"Min", "Max"}:
        return f"{kind.lower()}({text(size.a)}, {text(size.b)})"
    if kind not in _SYMBOLS:
        return str(str(size))  # TVM's is a subclass of `str`, which cannot be encoded
    symbol, strength = _SYMBOLS[kind]
    line = f"{text(size.a, strength)} {symbol} {text(size.b, strength + 1)}"
    return f"({line})" if strength < outer else line
