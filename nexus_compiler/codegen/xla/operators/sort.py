"""Sorting; equal elements keep their order."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, operator


@operator("sort")
def sort(node: Node) -> Any:
    """Sort along one axis."""
    return jnp.sort(node[0], axis=int(node.attrs.axis), descending=bool(node.attrs.descending))


@operator("argsort")
def argsort(node: Node) -> Any:
    """The indices that sort along one axis."""
    order = jnp.argsort(
        node[0], axis=int(node.attrs.axis), descending=bool(node.attrs.descending), stable=True
    )
    return order.astype(node.dtype)


@operator("topk")
def topk(node: Node) -> Any:
    """The k largest or smallest elements of one axis, in order, and their indices."""
    x, attrs = node[0], node.attrs
    axis, k = int(attrs.axis) % x.ndim, int(attrs.k)
    order = jnp.argsort(x, axis=axis, descending=bool(attrs.largest), stable=True)
    order = lax.slice_in_dim(order, 0, k if k > 0 else x.shape[axis], axis=axis)
    values = jnp.take_along_axis(x, order, axis=axis)
    indices = order.astype(str(attrs.dtype))
    wanted = {"both": (values, indices), "values": values, "indices": indices}
    return wanted[str(attrs.ret_type)]
