"""`ai.onnx.ml`: linear models, and what prepares features; not trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value, host

DOMAIN = "ai.onnx.ml"


def constant(node: Node, array: Any, dtype: str = "float32") -> relax.Expr:
    """A table of the model."""
    return node.importer.tensor(host(np.asarray(array).astype(dtype)))


def features(node: Node, *, double: bool = False) -> relax.Expr:
    """The rows of the first input `[batch, features]` in float32; with `double`, float64 stays."""
    x = node.emit(node.tensor(0))
    if node.rank(x) == 1:
        x = node.emit(R.expand_dims(x, [0]))
    return x if double and node.dtype(x) == "float64" else node.emit(R.astype(x, "float32"))


def class_labels(node: Node, name: str) -> np.ndarray:
    """The numbers of the classes.

    Raises:
        UnsupportedOperator: the classes have strings for names.
    """
    if node.attr("classlabels_strings"):
        raise node.refuse(
            "its labels are strings, which are no tensors",
            "export it with whole numbers as labels, and map them to strings outside",
        )
    return np.asarray(node.attr(name) or [], "int64")


def transformed(node: Node, scores: relax.Expr) -> relax.Expr:
    """Scores `[batch, classes]` as the attribute `post_transform` wants them."""
    kind = node.attr("post_transform", "NONE")
    if kind in {"NONE", 0}:
        return scores
    if kind in {"LOGISTIC", 2}:
        return node.emit(R.sigmoid(scores))
    if kind in {"SOFTMAX", 1}:
        return node.emit(R.nn.softmax(scores, 1))
    if kind in {"SOFTMAX_ZERO", 3}:
        # Scores of exactly 0 stay 0, but count in the sum.
        zero = R.equal(scores, node.scalar(0, node.dtype(scores)))
        return node.emit(R.where(zero, scores, node.emit(R.nn.softmax(scores, 1))))
    raise node.refuse(f"its post_transform is {kind}", "leave it to the code that uses the scores")


def winners(node: Node, scores: relax.Expr, labels: np.ndarray) -> relax.Expr:
    """The label of the largest score of each row."""
    place = node.emit(R.astype(R.argmax(scores, 1), "int64"))
    return node.emit(R.take(constant(node, labels, "int64"), place, 0, mode="clip"))


@op("LinearRegressor", domain=DOMAIN)
def linear_regressor(node: Node) -> Value:
    """x W + b for every target."""
    return transformed(node, _linear(node, features(node), node.attr("targets", 1)))


def _linear(node: Node, x: relax.Expr, rows: int) -> relax.Expr:
    weights = np.asarray(node.attr("coefficients"), "float64").reshape(rows, -1).T
    scores = node.emit(R.matmul(x, constant(node, weights, node.dtype(x))))
    if bias := node.attr("intercepts"):
        scores = node.emit(R.add(scores, constant(node, bias, node.dtype(x))))
    return scores


@op("LinearClassifier", domain=DOMAIN)
def linear_classifier(node: Node) -> list[Value]:
    """A score for every class, and the class with the largest; of one score, the sign decides."""
    labels = class_labels(node, "classlabels_ints")
    node.ignore("multi_class")  # it only says how the model was trained
    x = features(node)
    rows = len(node.attr("intercepts") or labels)
    scores = _linear(node, x, rows)
    if rows > 1 or len(labels) != 2:
        return [winners(node, scores, labels), transformed(node, scores)]
    return two_classes(node, scores, labels)


def two_classes(node: Node, score: relax.Expr, labels: np.ndarray) -> list[Value]:
    """Label and both scores from the score `[batch, 1]` of the second of two classes."""
    dtype, kind = node.dtype(score), node.attr("post_transform", "NONE")
    if kind not in {"NONE", "LOGISTIC"}:
        raise node.refuse(f"its post_transform is {kind} with one score for two classes")
    both = node.emit(R.concat([R.negative(score), score], 1))
    wins = R.astype(R.greater(score, node.scalar(0, dtype)), "int64")
    label = R.take(constant(node, labels, "int64"), R.squeeze(wins, [1]), 0, mode="clip")
    return [node.emit(label), transformed(node, both)]


@op("Scaler", domain=DOMAIN)
def scaler(node: Node) -> Value:
    """(x - offset) * scale, by feature or with one number each."""
    x = node.emit(R.astype(node.tensor(0), "float32"))
    offset, scale = (constant(node, node.attr(n) or [d]) for n, d in (("offset", 0), ("scale", 1)))
    return R.multiply(R.subtract(x, offset), scale)


@op("Normalizer", domain=DOMAIN)
def normalizer(node: Node) -> Value:
    """Rows divided by their largest element, sum or length; rows of zeros stay."""
    x = features(node)
    kind = node.attr("norm")
    sums = {
        "MAX": lambda: R.max(x, [1], True),
        "L1": lambda: R.sum(R.abs(x), [1], True),
        "L2": lambda: R.sqrt(R.sum(R.multiply(x, x), [1], True)),
    }
    if kind not in sums:
        raise node.refuse(f"its norm is {kind}")
    norm = node.emit(sums[kind]())
    zero = node.emit(R.equal(norm, node.scalar(0, node.dtype(x))))
    return R.divide(x, node.emit(R.where(zero, node.scalar(1, node.dtype(x)), norm)))


@op("Binarizer", domain=DOMAIN)
def binarizer(node: Node) -> Value:
    """1 above a threshold, else 0."""
    x = node.emit(node.tensor(0))
    limit = node.scalar(node.attr("threshold"), node.dtype(x))
    return R.astype(node.emit(R.greater(x, limit)), node.dtype(x))


@op("Imputer", domain=DOMAIN)
def imputer(node: Node) -> Value:
    """What stands for "missing", replaced by a number for all features, or one for each."""
    x = node.emit(node.tensor(0))
    whole = "int" in node.dtype(x)
    kind = "int64" if whole else "float"
    values = constant(node, node.attr(f"imputed_value_{kind}s"), node.dtype(x))
    missing = node.attr(f"replaced_value_{kind}", 0)
    is_nan = not whole and np.isnan(missing)
    found = R.isnan(x) if is_nan else R.equal(x, node.scalar(missing, node.dtype(x)))
    node.ignore("replaced_value_int64", "replaced_value_float")
    return R.where(node.emit(found), values, x)


@op("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(node: Node) -> Value:
    """Columns of the last axis."""
    x = node.emit(node.tensor(0))
    places = node.emit(R.reshape(node.tensor(1), [node.sizes.product(node.shape(1))]))
    found = node.emit(R.take(x, places, node.rank(x) - 1, mode="clip"))
    return R.expand_dims(found, [0]) if node.rank(x) == 1 else found


@op("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(node: Node) -> Value:
    """All inputs side by side, as floats."""
    node.ignore("inputdimensions")  # it repeats the shapes of the inputs
    parts: Sequence[relax.Expr] = [node.emit(R.astype(x, "float32")) for x in node.tensors()]
    flat = [x if node.rank(x) == 2 else node.emit(R.expand_dims(x, [0])) for x in parts]
    return R.concat(flat, 1)


@op("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(node: Node) -> Value:
    """A new last axis that is 1 at the place of the category."""
    if node.attr("cats_strings"):
        raise node.refuse("its categories are strings, which are no tensors")
    node.attr("zeros", 1)  # of a category that is not in the list, all are 0; nothing can fail
    x = node.emit(R.expand_dims(node.tensor(0), [-1]))
    categories = constant(node, node.attr("cats_int64s"), "int64")
    match = R.equal(node.emit(R.astype(x, "int64")), categories)
    return R.astype(node.emit(match), "float32")


@op("LabelEncoder", domain=DOMAIN)
def label_encoder(node: Node) -> Value:
    """Every element replaced by the value of its key, or by the default."""
    keys, values, default = _mapping(node)
    x = node.emit(R.expand_dims(node.tensor(0), [-1]))
    dtype = node.dtype(x)
    match = R.equal(x, constant(node, keys, dtype))
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        match = R.logical_or(
            match, R.logical_and(R.isnan(x), constant(node, np.isnan(keys), "bool"))
        )
    match = node.emit(R.astype(node.emit(match), "int64"))
    place = node.emit(R.astype(R.argmax(match, node.rank(x) - 1), "int64"))
    kind = values.dtype.name
    found = R.take(constant(node, values, kind), place, 0, mode="clip")
    known = R.greater(R.max(match, [-1]), node.scalar(0, "int64"))
    return R.where(node.emit(known), node.emit(found), node.scalar(default, kind))


def _mapping(node: Node) -> tuple[np.ndarray, np.ndarray, Any]:
    if any(node.attr(name) for name in ("keys_strings", "values_strings", "classes_strings")):
        raise node.refuse("it maps strings, which are no tensors", "map them outside of the model")
    tables: list[np.ndarray] = []
    for side in ("keys", "values"):
        tensor, whole = node.attr(f"{side}_tensor"), node.attr(f"{side}_int64s")
        floats = node.attr(f"{side}_floats")
        table = tensor if tensor is not None else np.asarray(whole, "int64") if whole else None
        tables.append(np.asarray(floats, "float32") if table is None else table)
    keys, values = tables
    default = node.attr("default_tensor")
    if default is not None:
        return keys, values, default.reshape(-1)[0]
    node.ignore("default_string")
    whole, real = node.attr("default_int64", -1), node.attr("default_float", 0.0)
    return keys, values, real if values.dtype.kind == "f" else whole
