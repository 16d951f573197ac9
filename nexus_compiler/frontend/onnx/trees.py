"""`ai.onnx.ml`: ensembles of decision trees.

All trees of an ensemble are one table of nodes. A place in it for every row and tree moves down one
node a step; leaves lead to themselves. So the work is a few gathers a level, for all rows and trees
at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.learned import (
    DOMAIN,
    class_labels,
    constant,
    features,
    transformed,
    two_classes,
    winners,
)
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value

_MODES = {
    "BRANCH_LEQ": R.less_equal,
    "BRANCH_LT": R.less,
    "BRANCH_GTE": R.greater_equal,
    "BRANCH_GT": R.greater,
    "BRANCH_EQ": R.equal,
    # TVM's not_equal is false for what is no number.
    "BRANCH_NEQ": lambda a, b: R.logical_not(R.equal(a, b)),
}
_NAMES = [*_MODES, "BRANCH_MEMBER"]  # as TreeEnsemble counts them
_AGGREGATES = ["AVERAGE", "SUM", "MIN", "MAX"]


@dataclass
class _Forest:
    """Nodes as columns; `leaves` maps a node to the weights of its targets."""

    feature: list[int] = field(default_factory=list[int])
    split: list[float] = field(default_factory=list[float])
    mode: list[str] = field(default_factory=list[str])
    missing: list[bool] = field(default_factory=list[bool])
    true: list[int] = field(default_factory=list[int])
    false: list[int] = field(default_factory=list[int])
    roots: list[int] = field(default_factory=list[int])
    leaves: dict[int, dict[int, float]] = field(default_factory=dict[int, dict[int, float]])

    def add(
        self, feature: int, split: float, mode: str, missing: bool, true: int, false: int
    ) -> int:
        """A new node; its place."""
        columns = (self.feature, self.split, self.mode, self.missing, self.true, self.false)
        for column, item in zip(columns, (feature, split, mode, missing, true, false)):
            column.append(item)  # pyright: ignore[reportArgumentType]
        return len(self.feature) - 1

    def leaf(self) -> int:
        """A new leaf."""
        place = len(self.feature)
        self.leaves[place] = {}
        return self.add(0, 0.0, "LEAF", False, place, place)

    def weigh(self, place: int, target: int, weight: float) -> None:
        """Give a leaf a weight for a target."""
        weights = self.leaves.setdefault(place, {})
        weights[target] = weights.get(target, 0.0) + weight

    def depth(self) -> int:
        """The longest way from a root to a leaf."""
        level, steps = set(self.roots), 0
        while level := {
            child
            for place in level
            if self.mode[place] != "LEAF"
            for child in (self.true[place], self.false[place])
        }:
            steps += 1
            if steps > len(self.feature):
                return -1
        return steps

    def table(self, targets: int, empty: float) -> np.ndarray:
        """The weights of every node and target."""
        result = np.full((len(self.feature), targets), empty)
        for place, weights in self.leaves.items():
            for target, weight in weights.items():
                result[place, target] = weight
        return result


def _column(node: Node, name: str) -> Any:
    """An attribute that is a list or, since version 3, a tensor."""
    tensor = node.attr(f"{name}_as_tensor")
    return node.attr(name) if tensor is None else tensor.reshape(-1)


def _old_forest(node: Node, side: str) -> _Forest:
    """The trees of a TreeEnsembleRegressor ("target") or TreeEnsembleClassifier ("class")."""
    forest = _Forest()
    trees, numbers = node.attr("nodes_treeids"), node.attr("nodes_nodeids")
    places = {pair: place for place, pair in enumerate(zip(trees, numbers))}
    node.ignore("nodes_hitrates", "nodes_hitrates_as_tensor")  # statistics
    splits, missing = _column(node, "nodes_values"), node.attr("nodes_missing_value_tracks_true")
    true, false = node.attr("nodes_truenodeids"), node.attr("nodes_falsenodeids")
    for place, mode in enumerate(node.attr("nodes_modes")):
        is_leaf, tree = mode == "LEAF", trees[place]
        forest.add(
            node.attr("nodes_featureids")[place],
            float(splits[place]),
            mode,
            bool(missing[place]) if missing else False,
            place if is_leaf else places[tree, true[place]],
            place if is_leaf else places[tree, false[place]],
        )
    # The first node of a tree is its root.
    forest.roots = [place for place, tree in enumerate(trees) if tree not in trees[:place]]
    names = ("treeids", "nodeids", "ids")
    where = zip(*(node.attr(f"{side}_{name}") for name in names))
    for (tree, number, target), weight in zip(where, _column(node, f"{side}_weights")):
        forest.weigh(places[tree, number], target, float(weight))
    return forest


def _new_forest(node: Node) -> _Forest:
    """The trees of a TreeEnsemble: a test for a set becomes one for each of its members."""
    node.ignore("nodes_hitrates")
    forest, made = _Forest(), dict[tuple[bool, int], int]()
    columns = {
        name: node.attr(f"nodes_{name}")
        for name in ("featureids", "splits", "modes", "truenodeids", "falsenodeids")
    }
    ends = node.attr("nodes_trueleafs"), node.attr("nodes_falseleafs")
    missing = node.attr("nodes_missing_value_tracks_true")
    for target, weight in zip(node.attr("leaf_targetids"), node.attr("leaf_weights").reshape(-1)):
        made[True, len(made)] = place = forest.leaf()
        forest.weigh(place, target, float(weight))
    sets = _members(node.attr("membership_values"))
    modes = [_NAMES[int(mode)] for mode in columns["modes"]]
    members = [next(sets) if mode == "BRANCH_MEMBER" else None for mode in modes]

    def build(number: int, is_leaf: bool) -> int:
        if (is_leaf, number) not in made:
            true = build(columns["truenodeids"][number], bool(ends[0][number]))
            false = build(columns["falsenodeids"][number], bool(ends[1][number]))
            tests = [(columns["splits"][number], modes[number])]
            if (own := members[number]) is not None:
                tests = [(value, "BRANCH_EQ") for value in own]
            for split, mode in tests:
                flag = bool(missing[number]) if missing else False
                feature = columns["featureids"][number]
                false = forest.add(feature, float(split), mode, flag, true, false)
            made[False, number] = false
        return made[is_leaf, number]

    forest.roots = [build(root, False) for root in node.attr("tree_roots")]
    return forest


def _members(values: Any) -> Any:
    group: list[float] = []
    for value in [] if values is None else values.reshape(-1):
        if np.isnan(value):
            yield group
            group = []
        else:
            group.append(value)


def _scores(node: Node, forest: _Forest, targets: int, aggregate: str, base: Any) -> relax.Expr:
    """What the leaves that the rows reach say of every target, `[batch, targets]`."""
    x = features(node, double=True)
    dtype, sizes = node.dtype(x), node.sizes
    if (depth := forest.depth()) < 0:
        raise node.refuse("its nodes lead in a circle")
    batch, trees = node.shape(x)[0], len(forest.roots)
    roots = constant(node, np.asarray(forest.roots)[None], "int64")
    place = node.emit(R.broadcast_to(roots, [batch, trees]))
    for _ in range(depth):
        place = _below(node, forest, x, place)
    largest = float(np.finfo("float32").max)
    empty = {"MIN": largest, "MAX": -largest}.get(aggregate, 0.0)
    table = constant(node, forest.table(targets, empty), dtype)
    flat = node.emit(R.reshape(place, [sizes.simple(batch * trees)]))
    found = R.reshape(R.take(table, flat, 0, mode="clip"), [batch, trees, targets])
    reduce = {"SUM": R.sum, "AVERAGE": R.mean, "MIN": R.min, "MAX": R.max}[aggregate]
    scores = node.emit(reduce(node.emit(found), [1]))
    if empty:
        none = R.equal(scores, node.scalar(empty, dtype))
        scores = node.emit(R.where(none, node.scalar(0, dtype), scores))
    return scores if base is None else node.emit(R.add(scores, constant(node, base, dtype)))


def _below(node: Node, forest: _Forest, x: relax.Expr, place: relax.Expr) -> relax.Expr:
    """The node that follows, for every row and tree."""

    def column(items: Any, dtype: str) -> relax.Expr:
        return node.emit(R.take(constant(node, items, dtype), place, 0, mode="clip"))

    value = node.emit(R.gather_elements(x, column(forest.feature, "int64"), 1))
    split = column(forest.split, node.dtype(x))
    modes = sorted(set(forest.mode) - {"LEAF"})
    if strange := [mode for mode in modes if mode not in _MODES]:
        raise node.refuse(f"it has nodes of mode {strange[0]}")
    follows: relax.Expr | None = None
    for mode in modes:
        test = node.emit(_MODES[mode](value, split))
        if len(modes) > 1:
            own = column([other == mode for other in forest.mode], "bool")
            test = node.emit(R.logical_and(own, test))
        follows = test if follows is None else node.emit(R.logical_or(follows, test))
    if follows is None:
        return place
    if any(forest.missing):
        lost = R.logical_and(R.isnan(value), column(forest.missing, "bool"))
        follows = node.emit(R.logical_or(follows, lost))
    return node.emit(R.where(follows, column(forest.true, "int64"), column(forest.false, "int64")))


@op("TreeEnsemble", domain=DOMAIN)
def tree_ensemble(node: Node) -> Value:
    """Trees that vote on targets."""
    forest = _new_forest(node)
    aggregate = _AGGREGATES[node.attr("aggregate_function", 1)]
    return transformed(node, _scores(node, forest, node.attr("n_targets"), aggregate, None))


@op("TreeEnsembleRegressor", domain=DOMAIN)
def tree_regressor(node: Node) -> Value:
    """As TreeEnsemble, in an older form."""
    forest, aggregate = _old_forest(node, "target"), node.attr("aggregate_function")
    if aggregate not in _AGGREGATES:
        raise node.refuse(f"its aggregate_function is {aggregate}")
    targets = node.attr("n_targets")
    scores = _scores(node, forest, targets, aggregate, _column(node, "base_values"))
    return transformed(node, node.emit(R.astype(scores, "float32")))


@op("TreeEnsembleClassifier", domain=DOMAIN)
def tree_classifier(node: Node) -> list[Value]:
    """The class with the largest score, and all scores."""
    labels = class_labels(node, "classlabels_int64s")
    forest = _old_forest(node, "class")
    targets = {target for weights in forest.leaves.values() for target in weights}
    base = _column(node, "base_values")
    if len(labels) != 2 or len(targets) != 1:
        scores = _scores(node, forest, len(labels), "SUM", base)
        scores = node.emit(R.astype(scores, "float32"))
        return [winners(node, scores, labels), transformed(node, scores)]
    if base is not None and len(base) != 1:
        raise node.refuse("it has base values for two classes, but weights for one")
    # One score for two classes: a probability if no weight is negative, else a distance.
    (target,) = targets
    forest.leaves = {p: {0: w[target]} for p, w in forest.leaves.items() if w}
    score = node.emit(R.astype(_scores(node, forest, 1, "SUM", base), "float32"))
    if any(weights[0] < 0 for weights in forest.leaves.values()):
        return two_classes(node, score, labels)
    if (kind := node.attr("post_transform", "NONE")) != "NONE":
        raise node.refuse(f"its post_transform is {kind} with a probability for one class")
    dtype = node.dtype(score)
    both = node.emit(R.concat([R.subtract(node.scalar(1, dtype), score), score], 1))
    wins = R.astype(R.greater(score, node.scalar(0.5, dtype)), "int64")
    label = R.take(constant(node, labels, "int64"), R.squeeze(wins, [1]), 0, mode="clip")
    return [node.emit(label), both]
