"""`ai.onnx.ml`, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import compare, floats, node, whole

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

DOMAIN = "ai.onnx.ml"
X = floats(7, 4)


Outputs = Mapping[str, tuple[str, int]]
SCORES: Outputs = {"y": ("float32", 2)}
CLASSES: Outputs = {"y": ("int64", 1), "z": ("float32", 2)}


def build(
    op: str, x: np.ndarray, outputs: Outputs = SCORES, version: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """A model of one operator; `outputs` are dtypes and ranks."""

    def info(name: str, dtype: str, shape: Sequence[Any]) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [node(op, "x", " ".join(outputs), domain=DOMAIN, **attributes)],
        "test",
        [info("x", x.dtype.name, ("n", *x.shape[1:]))],
        [info(name, dtype, [None] * rank) for name, (dtype, rank) in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def check(op: str, x: np.ndarray = X, *outputs: Outputs, version: int = 1, **options: Any) -> None:
    compare(build(op, x, *outputs, version=version, **options), {"x": x}, tol=1e-5)


def numbers(*shape: int, seed: int = 3) -> list[float]:
    return floats(*shape, seed=seed).reshape(-1).tolist()


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_regressor(transform: str) -> None:
    options: dict[str, Any] = {
        "coefficients": numbers(3, 4),
        "intercepts": numbers(3),
        "targets": 3,
    }
    check("LinearRegressor", **options, post_transform=transform)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_linear_classifier(transform: str) -> None:
    options: dict[str, Any] = {
        "coefficients": numbers(3, 4),
        "intercepts": numbers(3),
        "post_transform": transform,
    }
    check("LinearClassifier", X, CLASSES, classlabels_ints=[5, 3, 8], **options)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_classifier_of_two_classes(transform: str) -> None:
    options: dict[str, Any] = {
        "coefficients": numbers(2, 4),
        "intercepts": numbers(2),
        "post_transform": transform,
    }
    check("LinearClassifier", X, CLASSES, classlabels_ints=[5, 3], **options)


@pytest.mark.parametrize("kernel", ["LINEAR", "RBF", "POLY", "SIGMOID"])
def test_support_vectors(kernel: str) -> None:
    check(
        "SVMRegressor",
        kernel_type=kernel,
        kernel_params=[0.3, 0.5, 3.0],
        n_supports=5,
        support_vectors=numbers(5, 4),
        coefficients=numbers(5, seed=4),
        rho=[0.25],
    )


def test_support_vectors_find_outliers() -> None:
    check(
        "SVMRegressor", kernel_type="RBF", kernel_params=[0.3, 0.0, 3.0], n_supports=5, one_class=1,
        support_vectors=numbers(5, 4), coefficients=numbers(5, seed=4), rho=[0.1],
    )  # fmt: skip


@pytest.mark.parametrize("offset", [[1.0], [1.0, 2.0, 3.0, 4.0]])
def test_scaler(offset: list[float]) -> None:
    check("Scaler", offset=offset, scale=[0.5] * len(offset))


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_normalizer(norm: str) -> None:
    check("Normalizer", np.concatenate([X, np.zeros((1, 4), "float32")]), norm=norm)


def test_normalizer_by_the_largest() -> None:
    check("Normalizer", np.abs(X), norm="MAX")


def test_binarizer() -> None:
    check("Binarizer", threshold=0.25)


@pytest.mark.parametrize("missing", [np.nan, 1.0])
@pytest.mark.parametrize("values", [[9.0], [1.0, 2.0, 3.0, 4.0]])
def test_imputer(values: list[float], missing: float) -> None:
    x = X.copy()
    x[2, 1:3] = missing
    check("Imputer", x, imputed_value_floats=values, replaced_value_float=missing)


def test_imputer_of_whole_numbers() -> None:
    x = whole(5, 3)
    options: dict[str, Any] = {"imputed_value_int64s": [7], "replaced_value_int64": int(x[0, 0])}
    check("Imputer", x, {"y": ("int64", 2)}, **options)


def test_one_hot_encoder() -> None:
    check("OneHotEncoder", whole(6, high=5), cats_int64s=[1, 3, 4])


def test_label_encoder() -> None:
    check(
        "LabelEncoder", whole(4, 5, high=6), {"y": ("float32", 2)}, version=2,
        keys_int64s=[1, 4, 2], values_floats=[0.5, 2.5, -1.0], default_float=9.0,
    )  # fmt: skip
    x = np.where(X > 1, np.nan, np.round(X)).astype("float32")
    check(
        "LabelEncoder", x, {"y": ("int64", 2)}, version=4,
        keys_floats=[1.0, np.nan, -1.0], values_int64s=[5, 6, 7], default_int64=3,
    )  # fmt: skip


def test_features_side_by_side() -> None:
    made = node("FeatureVectorizer", "x z", "y", domain=DOMAIN, inputdimensions=[4, 2])
    proto = build("Binarizer", X, threshold=0.0)
    proto.graph.node[0].CopyFrom(made)
    kind = onnx.TensorProto.FLOAT
    proto.graph.input.append(helper.make_tensor_value_info("z", kind, ("n", 2)))
    compare(proto, {"x": X, "z": floats(7, 2, seed=5)})


def tree(rng: np.random.Generator, depth: int, modes: Sequence[str]) -> list[dict[str, Any]]:
    """The nodes of a random tree; those without branches are leaves."""
    nodes: list[dict[str, Any]] = [{}]
    if depth and rng.uniform() < 0.85:
        left, right = (tree(rng, depth - 1, modes) for _ in range(2))
        nodes[0] = {
            "feature": int(rng.integers(4)), "value": float(rng.uniform(-2, 2)),
            "mode": str(rng.choice(modes)), "true": 1, "false": 1 + len(left),
        }  # fmt: skip
        for start, part in ((1, left), (1 + len(left), right)):
            nodes += [
                {**n, "true": n["true"] + start, "false": n["false"] + start} if n else n
                for n in part
            ]
    return nodes


def forest(
    side: str, targets: Sequence[int], modes: Sequence[str], low: float = -1, tracks: int = 0
) -> dict[str, Any]:
    """The attributes of a random ensemble of five trees whose leaves weigh all of `targets`."""
    rng = np.random.default_rng(1)
    rows: dict[str, list[Any]] = {
        f"nodes_{name}": []
        for name in (
            *("treeids", "nodeids", "featureids", "values", "modes", "truenodeids"),
            *("falsenodeids", "missing_value_tracks_true"),
        )
    } | {f"{side}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number in range(5):
        for place, one in enumerate(tree(rng, 5, modes)):
            rest = (
                one.get("feature", 0), one.get("value", 0.0), one.get("mode", "LEAF"),
                one.get("true", 0), one.get("false", 0), tracks,
            )  # fmt: skip
            for column, item in zip(list(rows.values())[:8], (number, place, *rest)):
                column.append(item)
            for target in targets if not one else ():
                weight = float(rng.uniform(low, 1))
                for column, item in zip(list(rows.values())[8:], (number, place, target, weight)):
                    column.append(item)
    return rows


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


@pytest.mark.parametrize("modes", [MODES[:1], MODES], ids=["one mode", "all modes"])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_regressor(aggregate: str, modes: Sequence[str]) -> None:
    x = floats(50, 4)
    x[3:20, 1] = np.nan
    options: dict[str, Any] = forest("target", [0, 2], modes, tracks=int(len(modes) == 1))
    options |= {"n_targets": 3, "aggregate_function": aggregate, "base_values": [1.0, 0.0, -1.0]}
    check("TreeEnsembleRegressor", x, **options)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_tree_classifier(transform: str) -> None:
    options: dict[str, Any] = forest("class", [0, 1, 2], MODES[:1]) | {
        "classlabels_int64s": [4, 9, 2]
    }
    check("TreeEnsembleClassifier", floats(50, 4), CLASSES, **options, post_transform=transform)


@pytest.mark.parametrize(("low", "transform"), [(-1, "NONE"), (-1, "LOGISTIC"), (0, "NONE")])
def test_tree_classifier_with_one_score_for_two_classes(low: float, transform: str) -> None:
    options: dict[str, Any] = forest("class", [0], MODES[:1], low) | {"classlabels_int64s": [4, 9]}
    if low == 0:  # probabilities
        options["class_weights"] = [weight / 5 for weight in options["class_weights"]]
    check("TreeEnsembleClassifier", floats(50, 4), CLASSES, **options, post_transform=transform)


def test_trees_in_double_precision() -> None:
    x = floats(50, 4).astype("float64")
    options: dict[str, Any] = forest("target", [0], MODES[:1]) | {"n_targets": 1}
    for name in ("nodes_values", "target_weights"):
        table = np.array(options.pop(name), "float64")
        options[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(table)
    check("TreeEnsembleRegressor", x, version=3, **options)


ONE = {"coefficients": [1.0] * 4, "intercepts": [0.0], "classlabels_ints": [0, 1]}
REFUSED: list[tuple[str, Outputs, dict[str, Any], str]] = [
    ("LinearClassifier", CLASSES, ONE | {"post_transform": "PROBIT"}, "post_transform is PROBIT"),
    ("LinearRegressor", SCORES, {"coefficients": [1.0] * 4, "post_transform": "PROBIT"}, "PROBIT"),
    (
        "LinearClassifier",
        {"y": ("int64", 1), "z": ("float32", 2)},
        {"coefficients": [1.0] * 8, "intercepts": [0.0] * 2, "classlabels_strings": ["a", "b"]},
        "its labels are strings",
    ),
    ("SVMRegressor", SCORES, {"coefficients": [1.0], "n_supports": 1, "rho": [0.0],
     "support_vectors": [1.0] * 4, "kernel_type": "NEW"}, "kernel_type is NEW"),
    ("Normalizer", SCORES, {"norm": "L3"}, "its norm is L3"),
    ("OneHotEncoder", {"y": ("float32", 3)}, {"cats_strings": ["a"]}, "categories are strings"),
    ("LabelEncoder", SCORES, {"keys_strings": ["a"], "values_floats": [1.0]}, "it maps strings"),
    ("TreeEnsembleRegressor", SCORES,
     forest("target", [0], ["BRANCH_NEW"]) | {"n_targets": 1}, "nodes of mode BRANCH_NEW"),
    ("TreeEnsembleRegressor", SCORES,
     forest("target", [0], MODES) | {"n_targets": 1, "aggregate_function": "NEW"}, "is NEW"),
    ("TreeEnsembleClassifier", CLASSES, forest("class", [0], MODES[:1], 0)
     | {"classlabels_int64s": [0, 1], "post_transform": "SOFTMAX"}, "a probability for one class"),
    ("TreeEnsembleClassifier", CLASSES, forest("class", [0], MODES[:1], 0)
     | {"classlabels_int64s": [0, 1], "base_values": [0.0, 1.0]}, "base values for two classes"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "outputs", "options", "message"), REFUSED)
def test_refusals(op: str, outputs: Outputs, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedOperator, match=message):
        capture(build(op, X, outputs, version=2 if op == "LabelEncoder" else 1, **options))


def test_circles_of_nodes_are_refused() -> None:
    options: dict[str, Any] = forest("target", [0], MODES[:1]) | {"n_targets": 1}
    options["nodes_truenodeids"][0] = 0
    with pytest.raises(UnsupportedOperator, match="its nodes lead in a circle"):
        capture(build("TreeEnsembleRegressor", X, **options))
