"""ONNX Runtime's own attention operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import relax

from nexus_compiler.frontend.onnx.microsoft import DOMAIN
from nexus_compiler.frontend.onnx.microsoft_masks import hidden, masks
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed, wide
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sampling import number
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value


@op("Attention", domain=DOMAIN)
def attention(node: Node) -> list[Value]:
    """Self-attention with one product for queries, keys and values; the second output is both."""
    x, weight = node.tensor(0), node.tensor(1)
    if node.attr("do_rotary", 0) or node.attr("past_present_share_buffer", 0) or node.has(6):
        raise node.refuse("rotation and shared buffers are not handled")
    node.ignore("rotary_embedding_dim")
    rows = node.emit(summed(node, R.matmul, x, weight))
    rows = node.emit(R.add(rows, node.tensor(2))) if node.has(2) else rows
    width = node.static(weight, "its weight")[1]
    sizes = node.attr("qkv_hidden_sizes") or [width // 3] * 3
    return self_attention(node, rows, sizes, mask=3, past=4, added=5)


def self_attention(
    node: Node,
    rows: relax.Expr,
    sizes: Sequence[int],
    *,
    mask: int,
    past: int,
    added: int | None = None,
) -> list[Value]:
    """The attention of `rows` to themselves.

    Args:
        rows: queries, keys and values behind each other, [batch, length, their width].
        sizes: the widths of the three.
        mask: the input that says which keys count; `past` holds earlier keys and values, and
            `added` is added to the scores; none of them need be there.

    Returns:
        The result [batch, length, width of the values], and on demand all keys and values.
    """
    heads = node.attr("num_heads")
    cut = node.emit(R.split(rows, [sizes[0], sizes[0] + sizes[1]], 2))
    query, key, value = (
        _heads(node, node.emit(relax.TupleGetItem(cut, i)), heads) for i in range(3)
    )
    if node.has(past):
        before = node.emit(R.split(node.tensor(past), 2, 0))
        key = _joined(node, R.squeeze(relax.TupleGetItem(before, 0), [0]), key)
        value = _joined(node, R.squeeze(relax.TupleGetItem(before, 1), [0]), value)
    hiding = masks(node, mask, node.shape(query)[2], node.shape(key)[2])
    hiding += [node.tensor(added)] if added is not None and node.has(added) else []
    result = _attend(node, (query, key, value), hiding, node.attr("scale", 0.0))
    if node.outputs < 2:
        return [_rows(node, result)]
    present = R.concat([R.expand_dims(key, [0]), R.expand_dims(value, [0])], 0)
    return [_rows(node, result), present]


@op("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(node: Node) -> list[Value]:
    """Attention of queries to keys and values, either `[batch, length, width]` or by head."""
    heads = node.attr("num_heads")
    if not node.has(1) or not node.has(2) or node.rank(0) != 3:
        raise node.refuse("packed queries, keys and values are not handled")
    if any(node.has(i) for i in (8, 9)):
        raise node.refuse("a buffer that is shared, and beams, are not handled")
    parts = [node.tensor(i) for i in range(3)]
    if node.has(3):
        sizes = [node.shape(part)[-1] for part in parts]
        if any(node.rank(part) != 3 for part in parts):
            raise node.refuse("a bias for keys by head is not handled")
        bias = node.emit(R.split(node.tensor(3), [sizes[0], sizes[0] + sizes[1]], 0))
        parts = [node.emit(R.add(p, relax.TupleGetItem(bias, i))) for i, p in enumerate(parts)]
    query, key, value = (_heads(node, p, heads) if node.rank(p) == 3 else p for p in parts)
    if node.has(6):
        key = _joined(node, node.tensor(6), key)
        value = _joined(node, node.tensor(7), value)
    hiding = masks(node, 4, node.shape(query)[2], node.shape(key)[2])
    hiding += [node.tensor(5)] if node.has(5) else []
    result = _attend(node, (query, key, value), hiding, node.attr("scale", 0.0))
    return [_rows(node, result), key, value]


@op("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(node: Node) -> list[Value]:
    """Causal attention where several queries share a key, with a cache of keys and values."""
    heads, groups = node.attr("num_heads"), node.attr("kv_num_heads")
    if node.attr("smooth_softmax", 0) not in {0, -1} or any(node.has(i) for i in (9, 10, 11)):
        raise node.refuse("position ids, a bias, sinks and a smooth softmax are not handled")
    if any(node.attr(f"{x}_quant_type", "NONE") != "NONE" for x in "kv"):
        raise node.refuse("a quantised cache is not handled")
    node.ignore("qk_output", "kv_cache_bit_width")
    query, key, value = _unpacked(node, heads, groups)
    length = node.shape(query)[2]
    # Per sample, how many tokens are in the cache before these.
    last = node.emit(R.astype(R.reshape(node.tensor(5), [-1, 1]), "int64"))
    start = R.subtract(last, number(node, node.sizes.simple(length - 1), "int64"))
    places = node.emit(R.add(node.emit(start), R.arange(0, length, 1, "int64")))
    if node.attr("do_rotary", 0):
        table = node.tensor(7), node.tensor(8)
        mixed = bool(node.attr("rotary_interleaved", 0))
        query = _rotated(node, query, places, table, mixed)
        key = _rotated(node, key, places, table, mixed)
    else:
        node.ignore("rotary_interleaved")
    total = node.vector(6)[0]
    key, value = (
        _cached(node, node.tensor(i) if node.has(i) else None, new, places, total)
        for i, new in ((3, key), (4, value))
    )
    everything = R.arange(0, node.shape(key)[2], 1, "int64")
    here = node.emit(R.expand_dims(places, [2]))
    seen = R.less_equal(everything, here)
    if (window := node.attr("local_window_size", -1)) > 0:
        near = R.greater(everything, R.subtract(here, node.scalar(window, "int64")))
        seen = R.logical_and(seen, near)
    mask = hidden(node, node.emit(R.expand_dims(seen, [1])), -math.inf)
    parts, scale = (query, key, value), node.attr("scale", 0.0)
    result = _attend(node, parts, [mask], scale, node.attr("softcap", 0.0))
    return [_rows(node, result), key, value]


def _unpacked(node: Node, heads: int, groups: int) -> list[relax.Expr]:
    """Queries, keys and values by head; they may come in one tensor."""
    if node.has(1):
        return [_heads(node, node.tensor(i), n) for i, n in enumerate((heads, groups, groups))]
    query = node.tensor(0)
    width = node.shape(query)[2]
    if not isinstance(width, int):
        raise node.refuse(f"the width of its queries, {width}, depends on the input")
    size = width // (heads + 2 * groups)
    cut = node.emit(R.split(query, [heads * size, (heads + groups) * size], 2))
    return [
        _heads(node, node.emit(relax.TupleGetItem(cut, i)), n)
        for i, n in enumerate((heads, groups, groups))
    ]


def _heads(node: Node, x: relax.Expr, heads: int) -> relax.Expr:
    """`[batch, length, width]` as `[batch, heads, length, width / heads]`."""
    batch, length, width = node.shape(x)
    split = R.reshape(x, [batch, length, heads, node.sizes.floordiv(width, heads)])
    return node.emit(R.permute_dims(split, [0, 2, 1, 3]))


def _rows(node: Node, x: relax.Expr) -> relax.Expr:
    batch, heads, length, size = node.shape(x)
    joined = [batch, length, node.sizes.simple(heads * size)]
    return node.emit(R.reshape(R.permute_dims(x, [0, 2, 1, 3]), joined))


def _joined(node: Node, past: relax.Expr, new: relax.Expr) -> relax.Expr:
    return node.emit(R.concat([past, new], 2))


def _cached(
    node: Node, past: relax.Expr | None, new: relax.Expr, places: relax.Expr, total: Size
) -> relax.Expr:
    """The cache `[batch, heads, slots, size]` with `new` at `places`; it grows to `total`."""
    batch, heads, length, size = node.shape(new)
    before: Size = 0 if past is None else node.shape(past)[2]
    slots = node.sizes.maximum(before, total)
    if past is not None and node.sizes.equal(slots, before) is not True:
        more = [batch, heads, node.sizes.simple(slots - before), size]
        past = node.emit(R.concat([past, R.zeros(more, node.dtype(new))], 2))
    first = R.strided_slice(places, [1], [0], [1], [1])
    offset = node.emit(R.subtract(R.arange(0, slots, 1, "int64"), node.emit(first)))
    zero, end = node.scalar(0, "int64"), number(node, length, "int64")
    fresh = node.emit(R.logical_and(R.greater_equal(offset, zero), R.less(offset, end)))
    inner = R.minimum(R.maximum(offset, zero), number(node, node.sizes.simple(length - 1), "int64"))
    row = R.multiply(R.expand_dims(R.arange(0, batch, 1, "int64"), [1]), end)
    index = node.emit(R.add(inner, row))
    table = R.reshape(R.permute_dims(new, [0, 2, 1, 3]), [batch * length, heads, size])
    moved = R.permute_dims(R.take(table, index, 0, mode="clip"), [0, 2, 1, 3])
    nothing = node.scalar(0, node.dtype(new))
    # Behind the new ones, too, as long as nobody has written there.
    older = R.expand_dims(R.less(offset, zero), [1, 3])
    old = nothing if past is None else R.where(older, past, nothing)
    return node.emit(R.where(R.expand_dims(fresh, [1, 3]), moved, old))


def _attend(
    node: Node,
    parts: tuple[relax.Expr, relax.Expr, relax.Expr],
    masks: Sequence[relax.Expr],
    scale: float,
    cap: float = 0.0,
) -> relax.Expr:
    """softmax(query @ key^T * scale + masks) @ value, in float32 between the products."""
    query, key, value = parts
    batch, heads, length, size = node.shape(query)
    groups, total = node.shape(key)[1], node.shape(key)[2]
    dtype = node.dtype(query)
    # Queries that share a key lie behind each other.
    folded = [batch, groups, node.sizes.simple(heads * length // groups)]
    query = R.reshape(query, [*folded, size])
    keys = R.permute_dims(wide(node, key), [0, 1, 3, 2])
    scores = R.astype(R.matmul(wide(node, node.emit(query)), keys), "float32")
    scores = R.multiply(scores, node.scalar(scale or 1 / math.sqrt(size), "float32"))
    if cap:
        limit = node.scalar(cap, "float32")
        scores = R.multiply(R.tanh(R.divide(scores, limit)), limit)
    scores = node.emit(R.reshape(scores, [batch, heads, length, total]))
    for mask in masks:
        scores = node.emit(R.add(scores, R.astype(mask, "float32")))
    weights = R.astype(R.nn.softmax(scores, 3), dtype)
    weights = node.emit(R.reshape(weights, [*folded, total]))
    result = node.emit(summed(node, R.matmul, weights, value))
    return node.emit(R.reshape(result, [batch, heads, length, node.shape(value)[3]]))


@op("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(node: Node) -> Value:
    """Pairs of elements turned by an angle that depends on their place in the sequence."""
    x, places = node.tensor(0), node.tensor(1)
    table = node.tensor(2), node.tensor(3)
    if node.attr("is_packed_batching", 0) or node.attr("scale", 1.0) != 1:
        raise node.refuse("packed batches and a scale are not handled")
    turned = 2 * node.static(table[0], "its cosines")[1]
    heads, wanted = node.attr("num_heads", 0), node.attr("rotary_embedding_dim", 0)
    if wanted and wanted != turned:
        raise node.refuse(f"its tables turn {turned} elements, but it {wanted}")
    if node.rank(x) == 3:
        width = node.shape(x)[2]
        rows = _heads(node, x, heads or node.sizes.floordiv(width, turned))
    else:
        rows = x
    length = node.shape(rows)[2]
    if node.rank(places) == 1:  # where the first element stands
        places = R.add(R.reshape(places, [1, 1]), R.arange(0, length, 1, "int64"))
    mixed = bool(node.attr("interleaved", 0))
    result = _rotated(node, rows, node.emit(places), table, mixed)
    return _rows(node, result) if node.rank(x) == 3 else result


def _rotated(
    node: Node,
    x: relax.Expr,
    places: relax.Expr,
    table: tuple[relax.Expr, relax.Expr],
    mixed: bool,
) -> relax.Expr:
    """`x` `[batch, heads, length, size]` turned; `mixed`: pairs are neighbours, else halves."""
    batch, heads, length, size = node.shape(x)
    half = node.static(table[0], "its cosines")[1]
    cos, sin = (R.expand_dims(R.take(t, places, 0, mode="clip"), [1]) for t in table)
    inner, rest = x, None
    if node.sizes.equal(size, 2 * half) is not True:
        cut = node.emit(R.split(x, [2 * half], 3))
        inner, rest = relax.TupleGetItem(cut, 0), relax.TupleGetItem(cut, 1)
    pair, axis = ([half, 2], 4) if mixed else ([2, half], 3)
    folded = node.emit(R.reshape(inner, [batch, heads, length, *pair]))
    ends = node.emit(R.split(folded, 2, axis))
    a, b = (node.emit(R.squeeze(relax.TupleGetItem(ends, i), [axis])) for i in range(2))
    real = R.subtract(R.multiply(a, cos), R.multiply(b, sin))
    imaginary = R.add(R.multiply(a, sin), R.multiply(b, cos))
    joined = R.concat([R.expand_dims(t, [axis]) for t in (real, imaginary)], axis)
    result = node.emit(R.reshape(joined, [batch, heads, length, 2 * half]))
    return result if rest is None else node.emit(R.concat([result, rest], 3))
