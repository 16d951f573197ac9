"""Nested tuples, lists and dicts: taken apart and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Structure = Any
"""A value that can be compared and hashed; () for a leaf."""

LEAF = ()


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """The leaves of `value` in order, and how they stand."""
    if type(value) in (tuple, list) or hasattr(value, "_fields"):
        parts = [flatten(one) for one in value]
        names: Any = type(value)
    elif isinstance(value, dict):
        parts = [flatten(one) for one in value.values()]
        names = (dict, tuple(value))
    else:
        return [value], LEAF
    leaves = [leaf for found, _ in parts for leaf in found]
    return leaves, (names, tuple(structure for _, structure in parts))


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The inverse of `flatten`."""
    iterator = iter(leaves)
    return _build(structure, iterator)


def _build(structure: Structure, leaves: Any) -> Any:
    if structure == LEAF:
        return next(leaves)
    kind, parts = structure
    built = [_build(part, leaves) for part in parts]
    if isinstance(kind, tuple):
        return dict(zip(kind[1], built))
    return kind(*built) if hasattr(kind, "_fields") else kind(built)
