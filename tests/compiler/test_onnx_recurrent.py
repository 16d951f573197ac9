"""Recurrent layers against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import model, node
from onnx_pipeline import Model, check, same

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BATCH, FEATURES, HIDDEN = 3, 4, 6
Case = tuple[onnx.ModelProto, dict[str, np.ndarray]]


def layer(
    kind: str,
    steps: int = 5,
    *,
    bias: bool = True,
    lengths: bool = False,
    first: bool = True,
    peepholes: bool = False,
    symbolic: bool = True,
    outputs: str = "",
    **attributes: Any,
) -> Case:
    """A model of one layer with stored weights, and arrays to feed it."""
    random = np.random.default_rng(3)

    def draw(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / 2).astype("float32")

    width = GATES[kind] * HIDDEN
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    weights = {"W": draw(count, width, FEATURES), "R": draw(count, width, HIDDEN)}
    feeds = {"x": draw(steps, BATCH, FEATURES)}
    dims = ("steps", "batch") if symbolic else (steps, BATCH)
    inputs: dict[str, Any] = {"x": ("float32", (*dims, FEATURES))}
    if bias:
        weights["B"] = draw(count, 2 * width)
    if lengths:
        feeds["n"] = np.array([2, steps, 1], "int32")
        inputs["n"] = ("int32", (dims[1],))
    for name in ("h", "c")[: 1 + (kind == "LSTM")] if first else ():
        feeds[name] = draw(count, BATCH, HIDDEN)
        inputs[name] = ("float32", (count, dims[1], HIDDEN))
    names = ["x", "W", "R", "B" if bias else "_", "n" if lengths else "_", "h" if first else "_"]
    if kind == "LSTM":
        names += ["c" if first else "_", "P" if peepholes else "_"]
        outputs = outputs or "y h_last c_last"
    if peepholes:
        weights["P"] = draw(count, 3 * HIDDEN)
    outputs = outputs or "y h_last"
    made = node(kind, " ".join(names), outputs, hidden_size=HIDDEN, **attributes)
    wanted = [name for name in outputs.split() if name != "_"]
    return model([made], inputs, wanted, weights, opset=14), feeds


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", list(GATES))
def test_directions(kind: str, direction: str) -> None:
    check(*layer(kind, direction=direction, lengths=True))


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
    ("GRU", {"linear_before_reset": 1, "bias": False}),
    ("GRU", {"clip": 0.3}),
    (
        "GRU",
        {
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "ScaledTanh", "Sigmoid", "Affine"],
            "activation_alpha": [0.2, 0.3, 0.4],
            "activation_beta": [0.4, 0.5, 0.6],
        },
    ),
    ("LSTM", {"peepholes": True, "direction": "bidirectional"}),
    ("LSTM", {"peepholes": True, "clip": 0.3}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"activations": ["HardSigmoid", "Relu", "Softsign"], "activation_beta": [0.4]}),
    ("LSTM", {"bias": False, "first": False, "symbolic": False}),
    ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    ("RNN", {"activations": ["Elu"], "activation_alpha": [0.3]}),
    ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.1]}),
    ("RNN", {"activations": ["Affine"], "activation_alpha": [0.3], "activation_beta": [0.5]}),
    ("RNN", {"activations": ["Softplus"], "clip": 0.2}),
]


@pytest.mark.parametrize(
    ("kind", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v)
)
def test_variants(kind: str, options: dict[str, Any]) -> None:
    check(*layer(kind, **options))


def test_the_last_state_alone() -> None:
    check(*layer("LSTM", outputs="_ h_last c_last", direction="reverse"))


@pytest.mark.parametrize("kind", list(GATES))
def test_batch_first(kind: str) -> None:
    """ONNX Runtime has no layout 1; it is layout 0 with its axes turned."""
    proto, feeds = layer(kind, direction="bidirectional")
    other, _ = layer(kind, direction="bidirectional", layout=1)
    for value in other.graph.input:
        first, second, third = value.type.tensor_type.shape.dim
        shape = [second.dim_param or second.dim_value, first.dim_param or first.dim_value]
        made = onnx.helper.make_tensor_value_info("", 1, [*shape, third.dim_value])
        value.type.CopyFrom(made.type)
    for value in other.graph.output:
        rank = len(value.type.tensor_type.shape.dim)
        value.type.CopyFrom(onnx.helper.make_tensor_value_info("", 1, [None] * rank).type)
    wanted = Model(proto).run(feeds)
    turned = {name: array.swapaxes(0, 1) for name, array in feeds.items()}
    results = [a.transpose((2, 0, 1, 3) if a.ndim == 4 else (1, 0, 2)) for a in wanted]
    built = Model(other)
    same(built.main, turned, built.run(turned), results)


def test_code_does_not_grow_with_the_sequence() -> None:
    short, long = (
        capture(layer("LSTM", steps, symbolic=False)[0]).module.script() for steps in (30, 300)
    )
    assert len(short.splitlines()) == len(long.splitlines())


def test_one_build_runs_sequences_of_any_length() -> None:
    proto, feeds = layer("LSTM", 1)
    others = [{**feeds, "x": np.resize(feeds["x"], (n, BATCH, FEATURES))} for n in (1, 2, 257)]
    check(proto, *others)


def test_unknown_activations_are_refused() -> None:
    proto, _ = layer("RNN", activations=["Swoosh"])
    with pytest.raises(UnsupportedOperator, match="RNN node 'y'.*no activation 'Swoosh'"):
        capture(proto)
