"""ONNX Runtime's attention on quantised tensors agrees with its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import capture, floats
from test_onnx_microsoft import HEADS, MASKS, WIDTH, agrees, built, past

from nexus_runtime.errors import UnsupportedOperator

FEATURES = 6
STORED = "w b xs ws xz wz"


def inputs(
    dtype: str = "uint8", columns: bool = False, mask: np.ndarray | None = None
) -> dict[str, np.ndarray | None]:
    """The inputs of two sequences of three tokens; `columns`: every one has its own scale."""
    random = np.random.default_rng(5)
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    count = (3 * WIDTH,) if columns else ()
    return {
        "x": random.integers(0, 256, (2, 3, FEATURES)).astype("uint8"),
        "w": random.integers(low, high, (FEATURES, 3 * WIDTH)).astype(dtype),
        "b": floats(3 * WIDTH, seed=2),
        "xs": np.array(0.02, "float32"),
        "ws": floats(*count, seed=3, low=0.005, high=0.01),
        "mask": mask,
        "xz": np.array(120, "uint8"),
        "wz": random.integers(low // 4, high // 2, count).astype(dtype),
    }


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_masks(name: str, causal: int) -> None:
    given = inputs(mask=MASKS[name])
    agrees("QAttention", given, STORED, tol=2e-5, num_heads=HEADS, unidirectional=causal)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("columns", [False, True])
def test_weights(dtype: str, columns: bool) -> None:
    agrees("QAttention", inputs(dtype, columns), STORED, tol=2e-5, num_heads=HEADS)


def test_a_scale_and_a_filter() -> None:
    given = inputs(mask=MASKS["raw"])
    numbers: dict[str, Any] = {"scale": 0.3, "mask_filter_value": -2.0}
    agrees("QAttention", given, STORED, tol=2e-5, num_heads=HEADS, **numbers)


def test_without_zero_points() -> None:
    given = {**inputs("int8"), "xz": None, "wz": None}
    agrees("QAttention", given, STORED, tol=2e-5, num_heads=HEADS)


def test_a_past() -> None:
    given = {**inputs(), "past": np.stack([past(3), past(4)])}
    agrees("QAttention", given, STORED, "y p", tol=2e-5, num_heads=HEADS, unidirectional=1)


def test_rotation_is_refused() -> None:
    proto, _ = built("QAttention", inputs(), STORED, "y", num_heads=HEADS)
    rotate = proto.graph.node[0].attribute.add()
    rotate.name, rotate.type, rotate.i = "do_rotary", 2, 1
    with pytest.raises(UnsupportedOperator, match="QAttention node 'y'.*rotation"):
        capture(proto)
