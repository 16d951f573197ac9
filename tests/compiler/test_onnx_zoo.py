"""Real models of the zoo give what ONNX Runtime gives; most with symbolic shapes."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import compare, reference, whole

from nexus_compiler.frontend.onnx import capture

zoo = pytest.importorskip("zoo")


@dataclass(frozen=True)
class Case:
    """A model, what to feed it, and the outputs that its signature promises."""

    model: str
    feeds: dict[str, np.ndarray]
    outputs: tuple[tuple[Any, ...], ...]
    tolerance: float = 1e-4


def image(*shape: int) -> dict[str, np.ndarray]:
    """Dark strokes on white paper: on noise, a detector of text answers nothing but zeros."""
    random = np.random.default_rng(0)
    paper = np.ones(shape, "float32")
    for top in range(8, shape[2] - 8, 16):
        for left in range(4, shape[3] - 4, 5):
            if random.random() < 0.8:
                paper[:, :, top : top + 8, left : left + 2] = -1
                bar = top + 3 * int(random.random() < 0.5)
                paper[:, :, bar : bar + 2, left : left + 4] = -1
    return {"x": paper}


CASES = {
    "orient": Case("ocr-orient", image(2, 3, 48, 32), (("batch", 2),)),
    "detect": Case(
        "ocr-detect",
        image(1, 3, 32, 96),
        (
            (
                "DynamicDimension_0",
                1,
                "(DynamicDimension_1 - 1) // 4 * 4 + 4",
                "(DynamicDimension_2 - 1) // 4 * 4 + 4",
            ),
        ),
    ),
    "recognise": Case(
        "ocr-recognise",
        image(1, 3, 48, 16),
        (("DynamicDimension_0", "(DynamicDimension_1 - 5) // 8 + 1", 18710),),
        # TVM's plain softmax adds up 18710 classes one after the other; the logits agree to 3e-6.
        tolerance=5e-4,
    ),
    "magika": Case(
        "magika", {"bytes": whole(2, 2048, high=257, dtype="int32")}, (("unk__214", 214),)
    ),
}


def fetched(model: str) -> Path:
    try:
        return zoo.fetch(model)
    except zoo.ZooError as error:
        pytest.skip(f"the zoo cannot be reached: {error}")


@pytest.mark.parametrize("name", CASES)
def test_real_model(name: str) -> None:
    case = CASES[name]
    path = fetched(case.model)
    assert reference(path, case.feeds)[0].max() > 0.1
    graph = compare(path, case.feeds, tol=case.tolerance)
    (entry,) = graph.signature.functions
    assert tuple(spec.shape for spec in entry.outputs) == case.outputs
    assert graph.source.name == path.name


FIXED = [
    ("ocr-orient", (1, 3, 48, 192), (1, 2)),
    ("ocr-detect", (1, None, 160, 160), (1, 1, 160, 160)),
    ("ocr-recognise", (1, 3, 48, 320), (1, 40, 18710)),
]


@pytest.mark.parametrize(("model", "shape", "expected"), FIXED)
def test_real_model_of_fixed_size(
    model: str, shape: tuple[int | None, ...], expected: tuple[int, ...]
) -> None:
    graph = capture(fetched(model), shapes={"x": shape})
    (entry,) = graph.signature.functions
    assert [spec.shape for spec in entry.outputs] == [expected]
    assert entry.inputs[0].shape == tuple(size or 3 for size in shape)


def test_a_changed_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ZOO", str(tmp_path))
    wheel = zoo.models()["magika"].wheel
    with zipfile.ZipFile(tmp_path / f"magika-1.0.3-{wheel.sha256[:16]}.whl", "w") as archive:
        archive.writestr("magika/models/standard_v3_3/model.onnx", b"something else")
    with pytest.raises(zoo.ZooError, match="SHA-256"):
        zoo.fetch("magika")
