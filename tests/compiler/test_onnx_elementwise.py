"""Element by element: ONNX Runtime and we agree, operator by operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import compare, floats, single, whole

POSITIVE = floats(2, 3, low=0.1, high=3)
UNIT = floats(2, 3, low=-0.9, high=0.9)
ANY = floats(2, 3, low=-3, high=3)
ODD = np.array([[0.5, 1.5, -0.5], [2.5, -1.5, np.inf], [-np.inf, np.nan, 0]], "float32")

UNARY = {
    "Abs": ANY, "Acos": UNIT, "Acosh": POSITIVE + 1, "Asin": UNIT, "Asinh": ANY, "Atan": ANY,
    "Atanh": UNIT, "Ceil": ANY, "Cos": ANY, "Cosh": ANY, "Erf": ANY, "Exp": ANY, "Floor": ANY,
    "IsNaN": ODD, "Log": POSITIVE, "Neg": ANY, "Reciprocal": POSITIVE, "Round": ODD[:2, :2],
    "Sigmoid": ANY, "Sign": ANY, "Sin": ANY, "Sinh": ANY, "Sqrt": POSITIVE, "Tan": UNIT,
    "Tanh": ANY, "Relu": ANY, "Softplus": ANY * 30, "Softsign": ANY, "HardSwish": ANY * 2,
    "Mish": ANY, "Identity": ANY, "Not": ANY > 0,
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    compare(*single(op, [UNARY[op]]))


ATTRIBUTED = [
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Elu", {"alpha": 0.5}),
    ("Celu", {"alpha": 2.0}),
    ("Selu", {}),
    ("Selu", {"alpha": 1.5, "gamma": 2.0}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.1}),
    ("ThresholdedRelu", {"alpha": 0.7}),
    ("Shrink", {"lambd": 0.6, "bias": 0.2}),
    ("IsInf", {"detect_negative": 0}),
    ("IsInf", {"detect_positive": 0}),
]


@pytest.mark.parametrize(("op", "attributes"), ATTRIBUTED)
def test_unary_with_attributes(op: str, attributes: dict[str, float]) -> None:
    compare(*single(op, [ODD if op == "IsInf" else ANY], **attributes))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    compare(*single("Gelu", [ANY], opset=20, approximate=approximate))


BINARY = ["Add", "Sub", "Mul", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]


@pytest.mark.parametrize("op", BINARY)
def test_binary(op: str) -> None:
    compare(*single(op, [floats(2, 1, 3), floats(4, 1, seed=1)]))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Equal", "Less"])
def test_binary_on_integers(op: str) -> None:
    compare(*single(op, [whole(3, 4, low=-9), whole(4, low=1, high=4)]))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logical(op: str) -> None:
    compare(*single(op, [floats(3, 4) > 0, floats(4, seed=2) > 0]))


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bitwise(op: str) -> None:
    compare(*single(op, [whole(3, 4, high=99, dtype="int32"), whole(4, dtype="int32")]))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shift(direction: str) -> None:
    x = whole(6, high=99, dtype="uint32")
    compare(*single("BitShift", [x, whole(6, high=9, dtype="uint32")], direction=direction))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic(op: str) -> None:
    compare(*single(op, [floats(2, 3), floats(3, seed=1), floats(2, 1, seed=2)]))
    compare(*single(op, [floats(2, 3)]))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 0.5, -1.5])
def test_power_of_a_constant(exponent: float) -> None:
    compare(*single("Pow", [POSITIVE], [np.array(exponent, "float32")]))


def test_power_of_mixed_types() -> None:
    compare(*single("Pow", [POSITIVE, whole(2, 3, high=4)]))
    compare(*single("Pow", [whole(2, 3, dtype="int32"), floats(2, 3, low=0)]))


@pytest.mark.parametrize("fmod", [0, 1])
def test_modulo(fmod: int) -> None:
    compare(*single("Mod", [whole(3, 4, low=-9), np.array([3, -3, 4, -5])], fmod=fmod))


def test_modulo_of_floats() -> None:
    compare(*single("Mod", [ANY * 5, floats(2, 3, low=1, high=2)], fmod=1))


def test_where() -> None:
    compare(*single("Where", [floats(3, 1) > 0, floats(2, 3, 4), floats(4, seed=3)]))


def test_clip() -> None:
    low, high = np.array(-1, "float32"), np.array(0.5, "float32")
    compare(*single("Clip", [ANY], [low, high]))
    compare(*single("Clip", [ANY], [None, high]))
    compare(*single("Clip", [ANY, low, high]))
    compare(*single("Clip", [ANY], opset=6, min=-1.0, max=0.5))


def test_prelu() -> None:
    compare(*single("PRelu", [floats(2, 3, 4)], [floats(3, 1)]))


CASTS = [("float32", "int32"), ("float32", "bool"), ("int64", "float32"), ("bool", "float32")]
CASTS += [("float32", "float16"), ("int32", "uint8"), ("float32", "float64"), ("int64", "bool")]


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_cast(source: str, target: str) -> None:
    x = np.array([0, 0.5, 1, 3.7, 100]).astype(source)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    compare(*single("Cast", [x], to=to))


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}, {"axis": -1}])
def test_softmax_changed_with_opset_13(op: str, opset: int, attributes: dict[str, int]) -> None:
    compare(*single(op, [floats(2, 3, 4)], opset=opset, **attributes))


def test_dropout_is_the_identity() -> None:
    compare(*single("Dropout", [ANY], [np.array(0.3, "float32")]))


@st.composite
def broadcastable(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    full = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shapes: list[tuple[int, ...]] = []
    for _ in range(2):
        kept = full[draw(st.integers(0, len(full) - 1)) :]
        shapes.append(tuple(draw(st.sampled_from([size, 1])) for size in kept))
    return shapes[0], shapes[1]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(broadcastable())
def test_any_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    compare(*single("Add", [floats(*shapes[0]), floats(*shapes[1], seed=1)]))
