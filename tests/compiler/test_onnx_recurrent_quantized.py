"""LSTMs that quantise as they go, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import model, node
from onnx_pipeline import Model, check, same

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

BATCH, FEATURES, HIDDEN, STEPS = 3, 4, 6, 5
MICROSOFT = "com.microsoft"


def layer(
    dtype: str = "int8",
    *,
    columns: bool = False,
    lengths: bool = False,
    peepholes: bool = False,
    first: bool = True,
    **attributes: Any,
) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one layer, and arrays to feed it; `columns`: every column has a scale."""
    random = np.random.default_rng(3)

    def draw(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / 2).astype("float32")

    count = 2 if attributes.get("direction") == "bidirectional" else 1
    low, high = (-128, 128) if dtype == "int8" else (0, 256)
    scales = (count, 4 * HIDDEN) if columns else (count,)
    stored = {"B": draw(count, 8 * HIDDEN)}
    for name, rows in (("W", FEATURES), ("R", HIDDEN)):
        stored[name] = random.integers(low, high, (count, rows, 4 * HIDDEN)).astype(dtype)
        stored[f"{name}s"] = random.uniform(0.002, 0.008, scales).astype("float32")
        # ONNX Runtime takes but one zero point, and of signed weights by column only 0.
        zero = 0 if dtype == "int8" and columns else 7
        stored[f"{name}z"] = np.full(scales, zero, dtype)
    feeds = {"x": draw(STEPS, BATCH, FEATURES)}
    inputs: dict[str, Any] = {"x": ("float32", ("steps", "batch", FEATURES))}
    if lengths:
        feeds["n"] = np.array([2, STEPS - 1, 1], "int32")
        inputs["n"] = ("int32", ("batch",))
    for name in ("h", "c") if first else ():
        feeds[name] = draw(count, BATCH, HIDDEN)
        inputs[name] = ("float32", (count, "batch", HIDDEN))
    if peepholes:
        stored["P"] = draw(count, 3 * HIDDEN)
    given = {*feeds, *stored}
    order = ["x", "W", "R", "B", "n", "h", "c", "P", "Ws", "Wz", "Rs", "Rz"]
    names = " ".join(name if name in given else "_" for name in order)
    outputs = "y h_last c_last"
    made = node(
        "DynamicQuantizeLSTM", names, outputs, hidden_size=HIDDEN, domain=MICROSOFT, **attributes
    )
    return model([made], inputs, outputs.split(), stored, 14, [MICROSOFT]), feeds


VARIANTS: list[dict[str, Any]] = [
    {"direction": "bidirectional"},
    {"dtype": "uint8", "direction": "reverse"},
    {"dtype": "uint8", "columns": True, "direction": "bidirectional"},
    {"columns": True},
    {"peepholes": True, "direction": "bidirectional"},
    {"first": False, "clip": 0.3},
    {"input_forget": 1, "activations": ["HardSigmoid", "Relu", "Softsign"]},
]


@pytest.mark.parametrize("options", VARIANTS, ids="-".join)
def test_variants(options: dict[str, Any]) -> None:
    check(*layer(**options))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_sequences_of_unequal_lengths(direction: str) -> None:
    """The range of a step that is quantised holds other states than in ONNX Runtime."""
    proto, feeds = layer(lengths=True, direction=direction)
    proto_full, _ = layer(direction=direction)
    check(proto, feeds, tol=4e-3)
    # Where all are equally long, nothing differs.
    whole = {**feeds, "n": np.full(BATCH, STEPS, "int32")}
    built, full = Model(proto), Model(proto_full)
    rest = {name: array for name, array in feeds.items() if name != "n"}
    same(built.main, whole, built.run(whole), full.run(rest))


def test_padding_does_not_count() -> None:
    proto, feeds = layer(lengths=True)
    built = Model(proto)
    padded = feeds["x"].copy()
    padded[STEPS - 1] = 1e3
    same(built.main, feeds, built.run({**feeds, "x": padded}), built.run(feeds))


def test_weights_that_do_not_fit_are_refused() -> None:
    proto, _ = layer()
    proto.graph.node[0].attribute[0].i = HIDDEN + 1
    with pytest.raises(UnsupportedOperator, match="hidden_size is 7"):
        capture(proto)
