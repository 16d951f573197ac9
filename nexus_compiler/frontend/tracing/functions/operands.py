"""What the families share: conversion and promotion of arguments, and making of functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nexus_compiler.frontend.tracing import dtypes, nodes, shapes
from nexus_compiler.frontend.tracing.array import Array, Scalar
from nexus_compiler.frontend.tracing.nodes import Node
from nexus_compiler.frontend.tracing.recording import node_of, record

Operand = Array | Scalar
# The identity on integers.
_ROUNDING = {"ceil", "floor", "round", "trunc"}


def check(name: str, dtype: np.dtype, kinds: tuple[str, ...]) -> None:
    """Refuse a dtype that is not of one of `kinds`.

    Raises:
        TypeError: it is not.
    """
    if not dtypes.is_kind(dtype, *kinds):
        raise TypeError(f"{name} takes {' or '.join(kinds)} dtypes, not {dtype}")


def convert(node: Node, dtype: np.dtype) -> Node:
    """`node` in another dtype."""
    if node.dtype == dtype:
        return node
    return record("astype", (node,), node.shape, dtype).node


def operands(name: str, *values: Operand) -> tuple[Node, ...]:
    """Arrays and Python scalars as nodes of one dtype.

    Raises:
        TypeError: no array is among them, or they do not promote to one dtype.
    """
    arrays = [node_of(value) for value in values if not isinstance(value, Scalar)]
    if not arrays:
        raise TypeError(f"{name} needs an array among its arguments")
    try:
        dtype = arrays[0].dtype
        for node in arrays[1:]:
            dtype = dtypes.promote(dtype, node.dtype)
        return tuple(_as(value, dtype) for value in values)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _as(value: Operand, dtype: np.dtype) -> Node:
    if isinstance(value, Array):
        return convert(value.node, dtype)
    return nodes.constant(value, dtypes.of_scalar(value, dtype))


def unary(name: str, *kinds: str, test: bool = False) -> Callable[[Array], Array]:
    """An elementwise function of one array; a `test` gives booleans."""

    def function(x: Array, /) -> Array:
        node = node_of(x, what=f"the argument of {name}")
        check(name, node.dtype, kinds)
        if name == "positive" or (name in _ROUNDING and node.dtype.kind in "iu"):
            return record("identity", (node,), node.shape, node.dtype)
        return record(name, (node,), node.shape, dtypes.BOOL if test else node.dtype)

    return _named(function, name)


def binary(name: str, *kinds: str, test: bool = False) -> Callable[[Operand, Operand], Array]:
    """An elementwise function of two arrays that broadcast; a `test` gives booleans."""

    def function(x1: Operand, x2: Operand, /) -> Array:
        left, right = operands(name, x1, x2)
        check(name, left.dtype, kinds)
        shape = fitting(name, left.shape, right.shape)
        return record(name, (left, right), shape, dtypes.BOOL if test else left.dtype)

    return _named(function, name)


def fitting(name: str, *given: nodes.Shape) -> nodes.Shape:
    """What shapes broadcast to; the error names the function.

    Raises:
        BroadcastError: they do not.
    """
    try:
        return shapes.broadcast(*given)
    except shapes.BroadcastError as error:
        raise shapes.BroadcastError(f"{name}: {error.message}") from None


def _named(function: Callable[..., Array], name: str) -> Callable[..., Array]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"See `{name}` in the array API standard."
    return function
