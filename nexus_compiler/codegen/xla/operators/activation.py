"""Activation functions and dropout."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax, nn

from nexus_compiler.codegen.xla.registry import Node, operator, table

_ROOT_HALF = 0.5**0.5
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _gelu(x: Any) -> Any:
    return x * (0.5 + lax.erf(x * _ROOT_HALF) * 0.5)


def _selu(x: Any) -> Any:
    return _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * jnp.expm1(x))


table(
    {
        "nn.relu": lambda x: lax.max(x, jnp.zeros_like(x)),
        "nn.silu": lambda x: x * nn.sigmoid(x),
        "nn.gelu": _gelu,
        "nn.gelu_tanh": lambda x: nn.gelu(x, approximate=True),
        "nn.selu": _selu,
    },
    lambda function: lambda node: function(node[0]),
)


@operator("nn.leakyrelu")
def leaky_relu(node: Node) -> Any:
    """`x` where positive, `alpha * x` elsewhere."""
    x = node[0]
    return jnp.where(x > 0, x, x * float(node.attrs.alpha))


@operator("nn.prelu")
def prelu(node: Node) -> Any:
    """Leaky ReLU with one slope per channel; `alpha` is [channels] or [1]."""
    x, alpha = node.inputs
    shape = [1] * x.ndim
    shape[int(node.attrs.axis) % x.ndim] = -1
    return jnp.where(x > 0, x, x * alpha.reshape(shape))


@operator("nn.softplus")
def softplus(node: Node) -> Any:
    """`log(1 + exp(beta x)) / beta`, and `x` itself past `threshold`, where exp would overflow."""
    x, beta = node[0], float(node.attrs.beta)
    scaled = x * beta
    return jnp.where(scaled > float(node.attrs.threshold), x, nn.softplus(scaled) / beta)


@operator("nn.dropout")
def dropout(node: Node) -> Any:
    """The tensor as it is and a mask of ones: what TVM makes of it at inference."""
    return node[0], jnp.ones_like(node[0])
