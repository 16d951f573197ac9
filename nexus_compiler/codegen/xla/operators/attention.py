"""Scaled dot-product attention. Tensors are [batch, sequence, heads, features]."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import nn

from nexus_compiler.codegen.xla.registry import Node, operator


def _offset(node: Node, queries: Any, keys: Any) -> Any:
    """How far behind its own position a query may look ahead; None without a causal mask."""
    causal = node.attrs.causal_mask
    if causal is None:
        return None
    if str(causal) == "TopLeft":
        return 0
    if str(causal) == "BottomRight":
        return abs(queries - keys)
    raise node.refuse(f"the causal mask '{causal}'")


@operator("nn.attention", "nn.attention_bias")
def attention(node: Node) -> Any:
    """softmax(scale * query key^T + bias) value; the bias broadcasts to [batch, heads, q, k]."""
    query, key, value, *bias = node.inputs
    if node.attrs.window_size is not None:
        raise node.refuse("a sliding window")
    scale = node.attrs.scale
    factor = float(scale) if scale is not None else query.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * factor
    if bias:
        scores = scores + bias[0]
    offset = _offset(node, query.shape[1], key.shape[1])
    if offset is not None:
        rows = jnp.arange(query.shape[1])[:, None]
        columns = jnp.arange(key.shape[1])[None, :]
        scores = jnp.where(columns <= rows + offset, scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores, axis=-1), value)
