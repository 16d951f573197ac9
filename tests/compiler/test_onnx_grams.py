"""TfIdfVectorizer, against ONNX Runtime; and operators that stay outside."""

from __future__ import annotations

from typing import Any

import pytest
from onnx_models import compare, model, node, single, whole

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

POOL: dict[str, Any] = {
    "min_gram_length": 1,
    "max_gram_length": 3,
    "ngram_counts": [0, 3, 9],
    "ngram_indexes": [4, 0, 2, 1, 3, 6, 5, 7],
    "pool_int64s": [1, 2, 5, 1, 2, 2, 2, 0, 1, 2, 0, 1, 0, 0, 0],
}


@pytest.mark.parametrize("shape", [(30,), (3, 30), (3, 2)])
@pytest.mark.parametrize("skips", [0, 3])
@pytest.mark.parametrize(("mode", "weights"), [("TF", None), ("IDF", True), ("TFIDF", True)])
def test_counts_of_runs(
    mode: str, weights: bool | None, skips: int, shape: tuple[int, ...]
) -> None:
    options: dict[str, Any] = POOL | {"mode": mode, "max_skip_count": skips}
    if weights:
        options["weights"] = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    proto, feeds = single("TfIdfVectorizer", [whole(*shape, high=3)], **options)
    compare(proto, feeds)


REFUSED = [
    ({"mode": "NEW"}, "its mode is NEW"),
    ({"pool_strings": ["a"], "pool_int64s": []}, "its words are strings"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = POOL | {"mode": "TF", "max_skip_count": 0} | options
    given = {name: value for name, value in given.items() if value != []}
    proto, _ = single("TfIdfVectorizer", [whole(3, 4)], **given)
    with pytest.raises(UnsupportedOperator, match=message):
        capture(proto)


@pytest.mark.parametrize(
    ("op", "domain", "hint"),
    [
        ("StringConcat", "", "strings are no tensors of numbers"),
        ("ImageDecoder", "", "decode images before the model"),
        ("ZipMap", "ai.onnx.ml", "zipmap=False"),
    ],
)
def test_operators_that_stay_outside(op: str, domain: str, hint: str) -> None:
    made = node(op, "x x" if op == "StringConcat" else "x", domain=domain)
    proto = model([made], {"x": ("float32", (2, 2))}, domains=[domain] if domain else [], opset=20)
    with pytest.raises(UnsupportedOperator, match="no translation for 1 operator") as caught:
        capture(proto)
    assert hint in caught.value.hint
