"""Classifiers by support vectors, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import pytest
from test_onnx_learned import CLASSES, X, build, check, numbers

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator


def machine(counts: list[int], **options: Any) -> dict[str, Any]:
    """The attributes of a machine with so many vectors for each class."""
    vectors, classes = sum(counts), len(counts)
    return {
        "classlabels_ints": [7, 3, 9, 4][:classes],
        "vectors_per_class": counts,
        "support_vectors": numbers(vectors, 4),
        "coefficients": numbers(classes - 1, vectors, seed=4),
        "rho": numbers(classes * (classes - 1) // 2, seed=5),
        "kernel_type": "RBF",
        "kernel_params": [0.3, 0.5, 3.0],
        **options,
    }


@pytest.mark.parametrize("kernel", ["LINEAR", "RBF", "POLY", "SIGMOID"])
def test_kernels(kernel: str) -> None:
    check("SVMClassifier", X, CLASSES, **machine([3, 2, 4], kernel_type=kernel))


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_pairs_of_four_classes(transform: str) -> None:
    check("SVMClassifier", X, CLASSES, **machine([1, 3, 2, 2], post_transform=transform))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_two_classes(transform: str) -> None:
    check("SVMClassifier", X, CLASSES, **machine([3, 2], post_transform=transform))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("positive", [False, True])
def test_linear(classes: int, positive: bool) -> None:
    weights = [abs(w) if positive else w for w in numbers(classes, 4)]
    options: dict[str, Any] = {
        "coefficients": weights,
        "rho": [0.25],
        "kernel_type": "LINEAR",
        "kernel_params": [0.0, 0.0, 3.0],  # without which ONNX Runtime fails
    }
    check("SVMClassifier", X, CLASSES, classlabels_ints=[7, 3, 9][:classes], **options)


REFUSED: dict[str, dict[str, Any]] = {
    "probabilities": machine([3, 2], prob_a=[1.0], prob_b=[0.5]),
    "strings": {**machine([3, 2], classlabels_strings=["a", "b"]), "classlabels_ints": None},
    "post_transform is SOFTMAX": machine([3, 2], post_transform="SOFTMAX"),
    "2 groups of vectors for 3 classes": machine([3, 2], classlabels_ints=[1, 2, 3]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message: str) -> None:
    options = {name: value for name, value in REFUSED[message].items() if value is not None}
    with pytest.raises(UnsupportedOperator, match=message):
        capture(build("SVMClassifier", X, CLASSES, **options))
