"""Gradient operators: each is the JAX gradient of the forward operator's own translation."""

from __future__ import annotations

from typing import Any

import jax

from nexus_compiler.codegen.xla.operators.index import take
from nexus_compiler.codegen.xla.operators.loss import nll_loss
from nexus_compiler.codegen.xla.operators.pool import avg_pool, max_pool, windows
from nexus_compiler.codegen.xla.registry import Node, operator


def _pull_back(forward: Any, at: Any, gradient: Any) -> Any:
    return jax.vjp(forward, at)[1](gradient)[0]


@operator("grad.max_pool2d_backward")
def max_pool2d_backward(node: Node) -> Any:
    """The gradient goes to the first largest element of each window."""
    w = windows(node)
    if any(step != 1 for step in w.dilation):
        raise node.refuse("dilated windows", hint="use max_pool2d without dilation in training")
    return _pull_back(lambda x: max_pool(x, w), node[1], node[0])


@operator("grad.avg_pool2d_backward")
def avg_pool2d_backward(node: Node) -> Any:
    """The gradient is spread evenly over each window."""
    w = windows(node)
    return _pull_back(lambda x: avg_pool(x, w), node[1], node[0])


@operator("grad.nll_loss_backward")
def nll_loss_backward(node: Node) -> Any:
    """The gradient by the predictions; arguments are gradient, predictions, targets, weights."""
    gradient, predictions, targets, *weights = node.inputs
    weight = weights[0] if weights else None
    reduction, ignored = str(node.attrs.reduction), int(node.attrs.ignore_index)
    return _pull_back(
        lambda x: nll_loss(x, targets, weight, reduction, ignored), predictions, gradient
    )


@operator("grad.take_backward")
def take_backward(node: Node) -> Any:
    """Rows that were taken several times sum their gradients; indices of any rank."""
    gradient, data, indices = node.inputs
    axis = None if node.attrs.axis is None else int(node.attrs.axis)
    return _pull_back(lambda x: take(x, indices, axis, str(node.attrs.mode)), data, gradient)
