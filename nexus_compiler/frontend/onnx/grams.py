"""Counts of runs of words, which stand as numbers in the input."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.learned import constant
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


@op("TfIdfVectorizer")
def tf_idf(node: Node) -> Value:
    """How often every run of words in the pool occurs, also with gaps; as it is, as 0 or 1."""
    if node.attr("pool_strings"):
        raise node.refuse("its words are strings, which are no tensors", "number the words")
    mode, weights = node.attr("mode"), node.attr("weights")
    if mode not in {"TF", "IDF", "TFIDF"}:
        raise node.refuse(f"its mode is {mode}")
    x = node.emit(R.astype(node.tensor(0), "int64"))
    single = node.rank(x) == 1
    x = node.emit(R.expand_dims(x, [0])) if single else x
    _, words = node.static(x, "its input") if not single else (1, *node.static(0, "its input"))
    targets: list[relax.Expr] = []
    order: list[int] = []
    gaps = node.attr("max_skip_count") + 1
    for length, pool, places in _pools(node):
        # Single words have no gaps.
        for gap in range(1, gaps + 1 if length > 1 else 2):
            if words - gap * (length - 1) < 1:
                break
            targets.append(_counted(node, x, pool, gap, words))
            order += places
    width = max(node.attr("ngram_indexes")) + 1
    batch = node.shape(x)[0]
    if not targets:
        total = node.emit(R.zeros([batch, width], "float32"))
    else:
        found = node.emit(R.concat(targets, 1))
        table = np.zeros((len(order), width), "float32")
        table[np.arange(len(order)), order] = 1
        total = node.emit(R.matmul(found, constant(node, table)))
    if mode == "IDF":
        total = node.emit(R.astype(R.greater(total, node.scalar(0, "float32")), "float32"))
    if mode != "TF" and weights:
        scale = np.ones(width, "float32")
        scale[node.attr("ngram_indexes")] = weights
        total = node.emit(R.multiply(total, constant(node, scale)))
    node.ignore("weights")
    return R.squeeze(total, [0]) if single else total


def _pools(node: Node) -> list[tuple[int, np.ndarray, list[int]]]:
    """Lengths of runs, the runs of this length, and where their counts go."""
    pool, starts = node.attr("pool_int64s"), [*node.attr("ngram_counts")]
    indexes, found, used = node.attr("ngram_indexes"), list[tuple[int, np.ndarray, list[int]]](), 0
    shortest, longest = node.attr("min_gram_length"), node.attr("max_gram_length")
    for length, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)]), 1):
        runs = np.array(pool[start:end], "int64").reshape(-1, length)
        places = list(indexes[used : used + len(runs)])
        used += len(runs)
        if len(runs) and shortest <= length <= longest:
            found.append((length, runs, places))
    return found


def _counted(node: Node, x: relax.Expr, pool: np.ndarray, gap: int, words: int) -> relax.Expr:
    """How often each run of `pool` `[runs, length]` occurs with words `gap` apart: float32."""
    starts = words - gap * (pool.shape[1] - 1)
    match: relax.Expr | None = None
    for place in range(pool.shape[1]):
        part = R.strided_slice(x, [1], [place * gap], [place * gap + starts], [1])
        same = R.equal(
            R.expand_dims(part, [2]), constant(node, pool[None, None, :, place], "int64")
        )
        match = same if match is None else R.logical_and(match, same)
        match = node.emit(match)
    return node.emit(R.sum(R.astype(match, "float32"), [1]))
