"""Scaled dot-product attention and its gradient."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.reduce import log_sum_exp
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.values import R


@op("scaled_dot_product_attention")
def attention(node: Node) -> Any:
    """softmax(q @ k.T * scale + mask) @ v."""
    weights = R.nn.softmax(_scores(node, node["query"], _key(node, "key")), -1)
    if (rate := node["dropout_p"]) > 0:
        from nexus_compiler.frontend.torch.random import dropout

        shape = [*node.shape_of("query")[:-1], node.shape_of("key")[-2]]
        weights = dropout(node, node.emit(weights), shape, rate)[0]
    return R.matmul(weights, _key(node, "value"))


def _key(node: Node, name: str) -> Any:
    """Keys or values; with `enable_gqa`, each head of them serves several of the query."""
    value = node[name]
    if not node.get("enable_gqa", False):
        return value
    query, (*rest, heads, length, size) = node.shape_of("query"), node.shape_of(name)
    group = query[-3] // heads
    wide = node.reshape(value, [*rest, heads, 1, length, size])
    wide = node.broadcast(wide, [*rest, heads, group, length, size])
    return node.reshape(wide, [*rest, heads * group, length, size])


def _scale(node: Node) -> Any:
    if "scale" in node:
        return node["scale"]
    width = node.shape_of("query")[-1]
    return 1 / math.sqrt(width)


def _transposed(node: Node, x: Any) -> relax.Var:
    rank = len(x.ty.shape.values)
    return node.emit(R.permute_dims(x, [*range(rank - 2), rank - 1, rank - 2]))


def _scores(node: Node, query: Any, key: Any) -> relax.Var:
    """q @ k.T * scale + mask."""
    dtype = dtype_of(query)
    scores = R.matmul(query, _transposed(node, key))
    scores = node.emit(R.multiply(scores, node.scalar(_scale(node), dtype)))
    if "attn_mask" in node:
        mask = node["attn_mask"]
        if dtype_of(mask) == "bool":
            lowest = node.scalar(-math.inf, dtype)
            return node.emit(R.where(mask, scores, lowest))
        scores = node.emit(R.add(scores, node.cast(mask, dtype)))
    if node["is_causal"]:
        scores = node.emit(R.where(_causal(node), scores, node.scalar(-math.inf, dtype)))
    return scores


def _causal(node: Node) -> relax.Var:
    rows, columns = node.shape_of("query")[-2], node.shape_of("key")[-2]
    below, left = (
        node.emit(R.arange(0, *node.dims([size]), dtype="int64")) for size in (rows, columns)
    )
    return node.emit(R.less_equal(left, node.emit(R.expand_dims(below, [1]))))


@op("_scaled_dot_product_flash_attention_for_cpu")
def flash_attention(node: Node) -> list[Any]:
    """Attention, and the logarithm of the sum that softmax divides by, for the gradient."""
    if node["dropout_p"] > 0:
        raise node.refuse("it has dropout")
    scores = _scores(node, node["query"], node["key"])
    sums = None
    if node.reads(1):
        sums = node.cast(log_sum_exp(node, scores, [len(node.shape) - 1], keep=False), "float32")
    return [R.matmul(R.nn.softmax(scores, -1), node["value"]), sums]


@op("_scaled_dot_product_flash_attention_for_cpu_backward")
def flash_attention_backward(node: Node) -> list[Any]:
    """The gradients of query, key and value; the weights are computed again (FlashAttention 2)."""
    grad, query, key, value = (node[n] for n in ("grad_out", "query", "key", "value"))
    dtype, last = dtype_of(query), [node.rank("query") - 1]
    sums = node.emit(R.expand_dims(node.cast(node["logsumexp"], dtype), last))
    weights = node.emit(R.exp(R.subtract(_scores(node, query, key), sums)))
    by_weights = node.emit(R.matmul(grad, _transposed(node, value)))
    dots = R.sum(R.multiply(grad, node["out"]), last, True)
    by_scores = R.multiply(weights, R.subtract(by_weights, dots))
    by_scores = node.emit(R.multiply(by_scores, node.scalar(_scale(node), dtype)))
    return [
        R.matmul(by_scores, key),
        R.matmul(_transposed(node, by_scores), query),
        R.matmul(_transposed(node, weights), grad),
    ]
