"""Joining and cutting: concat, stack, split, meshgrid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, operator


@operator("concat")
def concat(node: Node) -> Any:
    """Join tensors along one axis."""
    axis = node.attrs.axis
    return jnp.concatenate(node[0], axis=0 if axis is None else int(axis))


@operator("stack")
def stack(node: Node) -> Any:
    """Join tensors along a new axis."""
    axis = node.attrs.axis
    return jnp.stack(node[0], axis=0 if axis is None else int(axis))


@operator("split")
def split(node: Node) -> Any:
    """Cut along one axis into the lengths that Relax inferred."""
    x = node[0]
    axis = int(node.attrs.axis) % x.ndim
    lengths = [node.dimension(field.shape.values[axis]) for field in node.type.fields]
    return tuple(lax.split(x, lengths, axis=axis))


@operator("meshgrid")
def meshgrid(node: Node) -> Any:
    """Coordinate tensors of vectors."""
    indexing = node.attrs.indexing
    return tuple(jnp.meshgrid(*node[0], indexing="ij" if indexing is None else str(indexing)))
