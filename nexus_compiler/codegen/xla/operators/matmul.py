"""Matrix products. Precision is the room's: see the option `precision` of the target."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from nexus_compiler.codegen.xla.registry import Node, operator


def operands(node: Node, count: int) -> list[Any]:
    """The first `count` tensors, integers widened to the result's dtype before they multiply."""
    dtype = node.dtype
    arrays = list(node.inputs[:count])
    # Floats keep their narrow dtype: the unit accumulates in the wide one (preferred_element_type).
    return [x.astype(dtype) if jnp.issubdtype(dtype, jnp.integer) else x for x in arrays]


@operator("matmul")
def matmul(node: Node) -> Any:
    """NumPy's matmul, accumulated in `out_dtype`."""
    left, right = operands(node, 2)
    return jnp.matmul(left, right, preferred_element_type=node.dtype)


@operator("einsum")
def einsum(node: Node) -> Any:
    """Einstein summation over a tuple of tensors."""
    return jnp.einsum(
        str(node.attrs.subscripts), *node[0], preferred_element_type=node.dtype, optimize=False
    )


@operator("outer")
def outer(node: Node) -> Any:
    """[n] and [m] to [n, m]."""
    return node[0][:, None] * node[1][None, :]
