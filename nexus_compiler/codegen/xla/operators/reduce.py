"""Reductions and scans. The dtype is Relax's: JAX would widen sums of integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.registry import Handler, Node, axes_of, operator, table


def _reduction(function: Callable[..., Any]) -> Handler:
    def handle(node: Node) -> Any:
        axes = axes_of(node.attrs.axis, node[0].ndim)
        return function(node[0], axis=axes, keepdims=bool(node.attrs.keepdims))

    return handle


def _count(x: Any, axis: tuple[int, ...]) -> Any:
    size = 1
    for dim in axis:
        size = size * x.shape[dim]
    return size


def _sum(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return jnp.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _product(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return jnp.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _mean(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.mean(x, axis=axis, keepdims=keepdims)
    total = _sum(x, axis=axis, keepdims=keepdims)
    return lax.div(total, jnp.full_like(total, _count(x, axis)))


table(
    {
        "sum": _sum,
        "prod": _product,
        "mean": _mean,
        "max": jnp.max,
        "min": jnp.min,
        "variance": jnp.var,
        "std": jnp.std,
    },
    _reduction,
)


def _index_reduction(function: Callable[..., Any]) -> Handler:
    def handle(node: Node) -> Any:
        axis = None if node.attrs.axis is None else int(node.attrs.axis)
        found = function(node[0], axis=axis, keepdims=bool(node.attrs.keepdims))
        return found.astype(node.dtype)

    return handle


table({"argmax": jnp.argmax, "argmin": jnp.argmin}, _index_reduction)


@operator("median")
def median(node: Node) -> Any:
    """The lower middle element, and with an axis its index too."""
    x, axis, keepdims = node[0], node.attrs.axis, bool(node.attrs.keepdims)
    if axis is None or len(axis) == 0:
        middle = jnp.sort(x.reshape(-1))[(x.size - 1) // 2]
        return middle.reshape((1,) * x.ndim) if keepdims else middle
    (along,) = axes_of(axis, x.ndim)
    order = jnp.argsort(x, axis=along, stable=True)
    place = (x.shape[along] - 1) // 2
    index = lax.slice_in_dim(order, place, place + 1, axis=along)
    value = jnp.take_along_axis(x, index, axis=along)
    if not keepdims:
        value, index = value.squeeze(along), index.squeeze(along)
    return value, index.astype("int64")


def _scan(function: Callable[..., Any], start: int) -> Handler:
    def handle(node: Node) -> Any:
        x = node[0] if node.attrs.axis is not None else node[0].reshape(-1)
        axis = 0 if node.attrs.axis is None else int(node.attrs.axis) % x.ndim
        if node.attrs.exclusive:
            head = lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
            first = jnp.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), start, x.dtype)
            x = jnp.concatenate([first, head], axis=axis)
        return function(x, axis=axis, dtype=node.dtype)

    return handle


operator("cumsum")(_scan(jnp.cumsum, 0))
operator("cumprod")(_scan(jnp.cumprod, 1))


def sum_to(x: Any, shape: tuple[Any, ...]) -> Any:
    """Undo a broadcast: sum `x` over the axes that `shape` lacks or holds as 1."""
    lead = x.ndim - len(shape)
    axes = [lead + axis for axis, dim in enumerate(shape) if dim == 1 and x.shape[lead + axis] != 1]
    return _sum(x, axis=(*range(lead), *axes), keepdims=True).reshape(shape)


@operator("collapse_sum_to")
def collapse_sum_to(node: Node) -> Any:
    """Sum a tensor to a shape that broadcasts to its own."""
    return sum_to(node[0], node[1])


@operator("collapse_sum_like")
def collapse_sum_like(node: Node) -> Any:
    """Sum a tensor to the shape of another."""
    return sum_to(node[0], node[1].shape)
