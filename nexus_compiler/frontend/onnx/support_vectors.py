"""`ai.onnx.ml`: support vector machines."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.learned import (
    DOMAIN,
    class_labels,
    constant,
    features,
    transformed,
    winners,
)
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value


@op("SVMRegressor", domain=DOMAIN)
def svm_regressor(node: Node) -> Value:
    """Kernels between rows and support vectors, summed; or a linear function without vectors."""
    x = features(node)
    dtype, count = node.dtype(x), node.attr("n_supports", 0)
    weights = np.asarray(node.attr("coefficients"), "float32")
    vectors = np.asarray(node.attr("support_vectors") or [], "float32")
    table = vectors.reshape(count, -1) if count else None
    kernel = _kernel(node, x, weights[None] if table is None else table, linear=table is None)
    if table is not None:
        kernel = node.emit(R.matmul(kernel, constant(node, weights[:, None], dtype)))
    (rho,) = node.attr("rho") or [0.0]
    score = node.emit(R.add(kernel, node.scalar(rho, dtype)))
    if node.attr("one_class", 0):
        one = node.scalar(1, dtype)
        score = node.emit(R.where(R.greater(score, node.scalar(0, dtype)), one, R.negative(one)))
    return transformed(node, score)


def _kernel(node: Node, x: relax.Expr, vectors: np.ndarray, *, linear: bool) -> relax.Expr:
    """The kernel of every row of `x` with every one of `vectors`."""
    dtype, kind = node.dtype(x), node.attr("kernel_type", "LINEAR")
    gamma, shift, degree = node.attr("kernel_params") or [0.0, 0.0, 3.0]
    product = node.emit(R.matmul(x, constant(node, vectors.T, dtype)))
    if kind == "LINEAR" or linear:
        return product
    scaled = R.multiply(product, node.scalar(gamma, dtype))
    if kind == "RBF":
        # |a - b|^2 itself: a^2 - 2ab + b^2 would cancel.
        pairs = R.subtract(R.expand_dims(x, [1]), constant(node, vectors[None], dtype))
        square = R.sum(R.multiply(pairs, pairs), [2])
        return node.emit(R.exp(R.multiply(square, node.scalar(-gamma, dtype))))
    moved = node.emit(R.add(scaled, node.scalar(shift, dtype)))
    if kind == "SIGMOID":
        return node.emit(R.tanh(moved))
    if kind == "POLY":
        return node.emit(R.power(moved, node.scalar(degree, dtype)))
    raise node.refuse(f"its kernel_type is {kind}")


@op("SVMClassifier", domain=DOMAIN)
def svm_classifier(node: Node) -> list[Value]:
    """The class with the most votes, one of each pair of classes; the scores of the pairs.

    Without vectors it is a linear function with a score for every class.
    """
    labels = class_labels(node, "classlabels_ints")
    if node.attr("prob_a") or node.attr("prob_b"):
        raise node.refuse(
            "it tells probabilities, which are found by iteration", "export it with its scores"
        )
    x, counts = features(node), node.attr("vectors_per_class") or []
    rho = np.asarray(node.attr("rho"), "float32")
    weights = np.asarray(node.attr("coefficients"), "float32")
    if not sum(counts):
        scores = _kernel(node, x, weights.reshape(len(labels), -1), linear=True)
        scores = node.emit(R.add(scores, node.scalar(rho[0], "float32")))
        return [_strongest(node, scores, labels, weights), transformed(node, scores)]
    if len(counts) != len(labels) or len(labels) < 2:
        raise node.refuse(f"it has {len(counts)} groups of vectors for {len(labels)} classes")
    pairs = list(combinations(range(len(labels)), 2))
    vectors = np.asarray(node.attr("support_vectors"), "float32").reshape(sum(counts), -1)
    table = _by_pair(weights.reshape(len(labels) - 1, -1), counts, pairs)
    scores = node.emit(R.matmul(_kernel(node, x, vectors, linear=False), constant(node, table)))
    scores = node.emit(R.add(scores, constant(node, rho[: len(pairs)])))
    label = winners(node, _votes(node, scores, len(labels), pairs), labels)
    if len(labels) > 2:
        return [label, transformed(node, scores)]
    if (kind := node.attr("post_transform", "NONE")) not in {"NONE", "LOGISTIC"}:
        raise node.refuse(f"its post_transform is {kind} with one score for two classes")
    both = node.emit(R.concat([R.negative(scores), scores], 1))
    return [label, transformed(node, both)]


def _by_pair(weights: np.ndarray, counts: list[int], pairs: list[tuple[int, int]]) -> np.ndarray:
    """What each vector counts in each pair, [vectors, pairs].

    `weights` are [classes - 1, vectors]: of a vector, those against all classes but its own.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    table = np.zeros((len(owner), len(pairs)), "float32")
    for place, (first, second) in enumerate(pairs):
        table[owner == first, place] = weights[second - 1, owner == first]
        table[owner == second, place] = weights[first, owner == second]
    return table


def _votes(
    node: Node, scores: relax.Expr, classes: int, pairs: list[tuple[int, int]]
) -> relax.Expr:
    """How many pairs each class wins, [batch, classes]: the first one of a pair above 0."""
    first, second = (np.eye(classes)[[pair[i] for pair in pairs]] for i in range(2))
    won = node.emit(R.astype(R.greater(scores, node.scalar(0, "float32")), "float32"))
    change = node.emit(R.matmul(won, constant(node, first - second)))
    return node.emit(R.add(change, constant(node, second.sum(0))))


def _strongest(
    node: Node, scores: relax.Expr, labels: np.ndarray, weights: np.ndarray
) -> relax.Expr:
    """The label of the largest score; of two classes, the second one's above a limit."""
    label = winners(node, scores, labels)
    if len(labels) != 2:
        return label
    top = node.emit(R.max(scores, [1]))
    # As ONNX Runtime has it: weights of one sign are taken for those of probabilities.
    if (weights >= 0).all():
        above = R.greater_equal(top, node.scalar(0.5, "float32"))
    else:
        above = R.greater(top, node.scalar(0, "float32"))
    return node.emit(R.where(node.emit(above), node.scalar(labels[1], "int64"), label))
