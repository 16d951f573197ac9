"""How functions of the namespace read arrays and write operations down."""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import nodes, recorder
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.nodes import Node, Shape


def node_of(value: Any, *, what: str = "argument") -> Node:
    """The node of an array, ready to be read in the current trace.

    Raises:
        TypeError: it is no array of this namespace.
    """
    if not isinstance(value, Array):
        raise TypeError(
            f"{what} must be an array, not a {type(value).__name__}; make one with asarray"
        )
    owner = value.node.owner
    if owner is not None and owner is not recorder.current():
        owner.flush(f"read by another trace at {recorder.place()}")
    return value.node


def array_of(node: Node) -> Array:
    """The array that stands for a node: the one that the user holds, where there is one."""
    held = node.handle
    return Array(node) if held is None else held


def record(
    op: str,
    inputs: tuple[Node, ...],
    shape: Shape,
    dtype: np.dtype,
    *,
    attrs: tuple[Any, ...] = (),
    sizes: Shape = (),
) -> Array:
    """Write an operation down and hand out its result; an empty result needs no computation."""
    if 0 in shape:
        return literal(np.empty(shape, dtype))
    node = Node(op, inputs, shape, dtype, attrs=attrs, sizes=sizes)
    return Array(recorder.current().add(node))


def known(value: np.ndarray) -> Array:
    """A value from outside as an array."""
    return Array(nodes.leaf(value))


def literal(value: np.ndarray) -> Array:
    """A value that follows from the code alone as an array: the same whenever the code runs."""
    return Array(nodes.leaf(value, origin=recorder.current()))
