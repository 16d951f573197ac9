"""Writing by index. Of several updates of one place the order is open, unless they are combined."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.operators.index import positions
from nexus_compiler.codegen.xla.registry import Node, operator

_METHODS = {
    "update": "set",
    "add": "add",
    "mul": "multiply",
    "max": "max",
    "min": "min",
}


def _write(node: Node, x: Any, index: Any, updates: Any, reduction: str) -> Any:
    if reduction not in _METHODS:
        raise node.refuse(f"the reduction '{reduction}'")
    return getattr(x.at[index], _METHODS[reduction])(updates)


@operator("scatter_elements")
def scatter_elements(node: Node) -> Any:
    """Write one element per index, along one axis."""
    x, indices, updates = node.inputs
    along = int(node.attrs.axis) % x.ndim
    index = tuple(
        indices if axis == along else lax.broadcasted_iota(indices.dtype, indices.shape, axis)
        for axis in range(x.ndim)
    )
    return _write(node, x, index, updates, str(node.attrs.reduction))


@operator("scatter_nd")
def scatter_nd(node: Node) -> Any:
    """Write slices by index vectors, the last axis of the indices."""
    x, indices, updates = node.inputs
    return _write(node, x, positions(x, indices), updates, str(node.attrs.reduction))


@operator("index_put")
def index_put(node: Node) -> Any:
    """`x[i, j, ...] = values`, or `+=` with `accumulate`."""
    x, indices, values = node.inputs
    index = tuple(indices) if isinstance(indices, tuple) else (indices,)
    return _write(node, x, index, values, "add" if node.attrs.accumulate else "update")


@operator("slice_scatter")
def slice_scatter(node: Node) -> Any:
    """`x[start:end:step] = source` along one axis."""
    x, source, start, end, step = node.inputs
    axis = int(node.attrs.axis) % x.ndim
    if not all(isinstance(value, int) for value in (x.shape[axis], start, end, step)):
        raise node.refuse("bounds that are known only at run time")
    places = jnp.arange(*slice(start, end, step).indices(x.shape[axis]))
    return x.at[(slice(None),) * axis + (places,)].set(source)
