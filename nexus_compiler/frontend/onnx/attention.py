"""ONNX's Attention: several heads, shared keys, masks, windows and caches.

Types of 16 bits are rounded where ONNX's definition by other operators rounds them, but sums are
taken in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.broadcast import align
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, element_type

_QUERY, _KEY, _VALUE, _MASK, _PAST_KEY, _PAST_VALUE, _FILLED = range(7)


@dataclass(frozen=True)
class _Rounding:
    """Calculates in `wide` what the model has in `dtype`."""

    node: Node
    dtype: str
    wide: str

    def __call__(self, tensor: relax.Expr, dtype: str = "") -> relax.Expr:
        """`tensor` rounded to the model's type (or `dtype`), in the wide one."""
        narrow = dtype or self.dtype
        tensor = self.node.emit(tensor)
        if narrow in {self.wide, "float64"}:
            return tensor
        return self.node.emit(R.astype(self.node.emit(R.astype(tensor, narrow)), self.wide))

    def widen(self, tensor: relax.Expr) -> relax.Expr:
        """`tensor` in the wide type."""
        same = self.node.dtype(tensor) == self.wide
        return tensor if same else self.node.emit(R.astype(tensor, self.wide))

    def scalar(self, number: float) -> relax.Expr:
        """A number in the wide type."""
        return self.node.scalar(number, self.wide)


@op("Attention")
def attention(node: Node) -> list[Value]:
    """softmax(Q K' * scale + bias) V, the grown caches, and the scores at some stage."""
    query, key, value = (_heads(node, index) for index in (_QUERY, _KEY, _VALUE))
    past: Size = 0
    if node.has(_PAST_KEY):
        past = node.shape(_PAST_KEY)[2]
        key = node.emit(R.concat([node.tensor(_PAST_KEY), key], 2))
        value = node.emit(R.concat([node.tensor(_PAST_VALUE), value], 2))
    dtype = node.dtype(query)
    rounding = _Rounding(node, dtype, "float64" if dtype == "float64" else "float32")
    stages = _scores(node, rounding, query, key, past)
    weights = _softmax(node, rounding, stages[-1], _can_be_empty(node), stages[3])
    wide = rounding.widen(_repeated(node, value, node.shape(query)[1]))
    result = node.emit(R.astype(R.matmul(weights, wide), dtype))
    if node.rank(_QUERY) == 3:
        rows, width = node.shape(result)[2], node.shape(result)[3]
        flat = [node.shape(result)[0], rows, node.sizes.product([node.shape(result)[1], width])]
        result = node.emit(R.reshape(R.permute_dims(result, [0, 2, 1, 3]), flat))
    if node.outputs < 4:
        return [result, key, value]
    shown = [*stages[:3], weights][node.attr("qk_matmul_output_mode")]
    return [result, key, value, R.astype(shown, dtype)]


def _heads(node: Node, index: int) -> relax.Expr:
    """An input as (batch, heads, length, size)."""
    x = node.tensor(index)
    count = node.attr("q_num_heads" if index == _QUERY else "kv_num_heads")
    if node.rank(x) == 4:
        return x
    batch, length, width = node.shape(x)
    size = node.sizes.floordiv(width, count)
    split = node.emit(R.reshape(x, [batch, length, count, size]))
    return node.emit(R.permute_dims(split, [0, 2, 1, 3]))


def _repeated(node: Node, x: relax.Expr, heads: Size) -> relax.Expr:
    """Keys or values with every head as often as queries share it."""
    batch, own, length, size = node.shape(x)
    if node.sizes.equal(own, heads):
        return x
    times = node.sizes.floordiv(heads, own)
    wide = node.emit(R.broadcast_to(R.expand_dims(x, [2]), [batch, own, times, length, size]))
    return node.emit(R.reshape(wide, [batch, heads, length, size]))


def _scores(
    node: Node, rounding: _Rounding, query: relax.Expr, key: relax.Expr, past: Size
) -> tuple[relax.Expr, relax.Expr, relax.Expr, relax.Expr | None, relax.Expr]:
    """The product, capped, with bias; then the bias; and what softmax takes."""
    last = node.shape(query)[3]
    scale = node.attr("scale")
    if scale is None:
        if not isinstance(last, int):
            raise node.refuse("the size of its heads depends on the input", "give `scale`")
        scale = 1 / np.sqrt(last)
    root = rounding(rounding.scalar(float(np.sqrt(scale))))
    left = rounding(R.multiply(rounding.widen(query), root))
    key = _repeated(node, key, node.shape(query)[1])
    right = rounding(R.multiply(rounding.widen(key), root))
    product = rounding(R.matmul(left, R.permute_dims(right, [0, 1, 3, 2])))
    capped = product
    if cap := node.attr("softcap"):
        limit = rounding.scalar(cap)
        bent = rounding(R.tanh(rounding(R.divide(product, limit))))
        capped = rounding(R.multiply(bent, limit))
    bias = _bias(node, rounding, node.shape(product)[2], node.shape(product)[3], past)
    biased = capped
    if bias is not None:
        biased = rounding(R.add(*align(node, [capped, bias])))
    return product, capped, biased, bias, biased


def _can_be_empty(node: Node) -> bool:
    """Whether a query may have no key at all to attend to."""
    windows = (node.attr(f"{side}_window_size", -1) >= 0 for side in ("left", "right"))
    return node.has(_MASK) or node.has(_FILLED) or any(windows)


def _bias(
    node: Node, rounding: _Rounding, rows: Size, columns: Size, past: Size
) -> relax.Expr | None:
    """What is added to the scores: -inf where a query must not see a key. None for nothing."""
    allowed = _allowed(node, rows, columns, past)
    added: relax.Expr | None = None
    if node.has(_MASK):
        mask = _padded(node, node.tensor(_MASK), columns)
        if node.dtype(mask) == "bool":
            allowed.append(mask)
        else:
            added = rounding.widen(mask)
    if not allowed:
        return added
    total = allowed[0]
    for other in allowed[1:]:
        total = node.emit(R.logical_and(*align(node, [total, other])))
    rest = added if added is not None else rounding.scalar(0)
    total, rest = align(node, [total, rest]) if added is not None else (total, rest)
    return node.emit(R.where(total, rest, rounding.scalar(-np.inf)))


def _padded(node: Node, mask: relax.Expr, columns: Size) -> relax.Expr:
    """A mask that is too short hides the keys behind its end."""
    shape, dtype = node.shape(mask), node.dtype(mask)
    missing = node.sizes.simple(columns - shape[-1])
    if node.sizes.equal(missing, 0):
        return mask
    fill = node.scalar(False if dtype == "bool" else -np.inf, dtype)
    more = node.emit(R.broadcast_to(fill, [*shape[:-1], missing]))
    return node.emit(R.concat([mask, more], len(shape) - 1))


def _allowed(node: Node, rows: Size, columns: Size, past: Size) -> list[relax.Expr]:
    """Conditions on the places of queries and keys: order, windows, how full the cache is."""
    causal = bool(node.attr("is_causal"))
    left, right = (node.attr(f"{side}_window_size", -1) for side in ("left", "right"))
    keys = node.emit(R.arange(0, columns, 1, "int64"))
    found: list[relax.Expr] = []
    filled = None
    if node.has(_FILLED):
        batch = node.shape(_FILLED)[0]
        filled = node.emit(R.reshape(node.tensor(_FILLED), [batch, 1, 1, 1]))
        found.append(node.emit(R.less(keys, filled)))
    if not causal and left < 0 and right < 0:
        return found
    places = node.emit(R.expand_dims(_places(node, rows, past, filled), [-1]))
    if filled is not None:
        places = node.emit(R.add(filled, places))
    if causal:
        found.append(node.emit(R.less_equal(keys, places)))
    if left >= 0:
        first = R.subtract(places, node.scalar(left, "int64"))
        found.append(node.emit(R.greater_equal(keys, first)))
    if right >= 0:
        final = R.add(places, node.scalar(right, "int64"))
        found.append(node.emit(R.less_equal(keys, final)))
    return found


def _places(node: Node, rows: Size, past: Size, filled: relax.Expr | None) -> relax.Expr:
    """The places of the queries among the keys; with `filled`, relative to its end."""
    start: Size = node.sizes.simple(0 - rows) if filled is not None else past
    return node.emit(R.arange(start, node.sizes.simple(start + rows), 1, "int64"))


def _softmax(
    node: Node, rounding: _Rounding, scores: relax.Expr, empty: bool, bias: relax.Expr | None
) -> relax.Expr:
    """Softmax over the keys; a query that sees none gets zeros, not what is no number."""
    number = node.attr("softmax_precision")
    precision = element_type(number, str(node)) if number else rounding.dtype
    if precision == rounding.wide:
        weights = node.emit(R.nn.softmax(scores, -1))
    else:
        shifted = rounding(R.subtract(scores, R.max(scores, [-1], True)), precision)
        powers = rounding(R.exp(shifted), precision)
        total = rounding(R.sum(powers, [-1], True), precision)
        weights = rounding(R.divide(powers, total), precision)
    if empty and bias is not None:
        seen = R.astype(R.greater(bias, rounding.scalar(-np.inf)), rounding.wide)
        some = R.greater(R.max(seen, [-1], True), rounding.scalar(0))
        weights = node.emit(R.where(some, weights, rounding.scalar(0)))
    return rounding(weights)
