"""Affine quantisation: q = clip(round(x / scale) + zero point)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Node, operator


def _parameter(node: Node, position: int) -> Any:
    """Scale or zero point, over `axis` where there is one per channel."""
    x, parameter = node[0], node[position]
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[int(node.attrs.axis) % x.ndim] = parameter.shape[0]
    return parameter.reshape(shape)


def _saturate(x: Any, dtype: Any) -> Any:
    info = jnp.iinfo(dtype) if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype)
    return lax.convert_element_type(jnp.clip(x, float(info.min), float(info.max)), dtype)


@operator("quantize")
def quantize(node: Node) -> Any:
    """Float to an integer dtype, rounded to the nearest (even) and saturated."""
    scaled = node[0] / _parameter(node, 1)
    if jnp.issubdtype(node.dtype, jnp.integer):
        scaled = lax.round(scaled, lax.RoundingMethod.TO_NEAREST_EVEN)
    return _saturate(scaled + _parameter(node, 2).astype(scaled.dtype), node.dtype)


@operator("dequantize")
def dequantize(node: Node) -> Any:
    """`scale * (q - zero point)`, computed in int32 and float32."""
    x, zero = node[0], _parameter(node, 2)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    dtype = jnp.float32 if floating else jnp.int32
    shifted = x.astype(dtype) - zero.astype(dtype)
    out = shifted.astype(jnp.float32) * _parameter(node, 1).astype(jnp.float32)
    return out if node.dtype == jnp.float32 else _saturate(out, node.dtype)
