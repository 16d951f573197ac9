"""Losses."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from nexus_compiler.codegen.xla.registry import Node, operator


def nll_loss(predictions: Any, targets: Any, weights: Any, reduction: str, ignored: int) -> Any:
    """Negative log likelihood.

    Args:
        predictions: log probabilities, float [batch, classes, ...] or [classes].
        targets: classes, integer [batch, ...] or [].
        weights: one per class, or None.
        reduction: "none", "sum" or "mean" (divided by the sum of the weights that count).
        ignored: targets of this value count nothing.
    """
    axis = 0 if predictions.ndim == 1 else 1
    counted = targets != ignored
    classes = jnp.where(counted, targets, 0)
    picked = jnp.take_along_axis(predictions, jnp.expand_dims(classes, axis), axis=axis)
    one = jnp.ones_like(predictions, shape=())
    weight = jnp.where(counted, one if weights is None else weights[classes], 0 * one)
    losses = -picked.squeeze(axis) * weight
    if reduction == "none":
        return losses
    return jnp.sum(losses) if reduction == "sum" else jnp.sum(losses) / jnp.sum(weight)


@operator("nn.nll_loss")
def nll_loss_operator(node: Node) -> Any:
    """Negative log likelihood of predictions, targets and optional weights."""
    weights = node[2] if len(node.inputs) > 2 else None
    attrs = node.attrs
    return nll_loss(node[0], node[1], weights, str(attrs.reduction), int(attrs.ignore_index))


@operator("nn.cross_entropy_with_logits")
def cross_entropy_with_logits(node: Node) -> Any:
    """`-sum(predictions * labels)`, divided by the batch where there is one."""
    predictions, labels = node.inputs
    total = -jnp.sum(predictions * labels)
    if predictions.ndim == 1:
        return total
    return total / jnp.asarray(predictions.shape[0], total.dtype)
