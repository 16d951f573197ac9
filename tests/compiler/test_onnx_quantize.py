"""Quantised operators agree with ONNX Runtime, to the last integer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import compare, floats, model, node, single, whole

SCALE, ZERO = np.float32(0.07).reshape(()), np.uint8(100).reshape(())


def steps(count: int, seed: int = 3) -> np.ndarray:
    return floats(count, seed=seed, low=0.01, high=0.1)


def bytes_(*shape: int, dtype: str = "uint8", seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 120, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantize_and_back(dtype: str) -> None:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    constants = {"s": np.float32(0.25).reshape(()), "z": np.array(3, dtype)}
    proto = model(nodes, {"x": ("float32", [5, 40])}, ["q", "y"], constants, opset=21)
    # Halves, which are rounded to even, and some beyond all limits.
    compare(proto, {"x": np.linspace(-20000, 20000, 200, dtype="float32").reshape(5, 40) / 8})


@pytest.mark.parametrize("axis", [0, 2])
def test_quantize_along_an_axis(axis: int) -> None:
    count = (3, 4, 5)[axis]
    stored = [steps(count), bytes_(count)]
    compare(*single("QuantizeLinear", [floats(3, 4, 5)], stored, opset=13, axis=axis))
    stored = [steps(count), bytes_(count, dtype="int8")]
    x = bytes_(3, 4, 5, dtype="int8")
    compare(*single("DequantizeLinear", [x], stored, opset=13, axis=axis))


def test_quantize_in_blocks() -> None:
    stored = [steps(6).reshape(2, 3), bytes_(2, 3)]
    attributes = {"axis": 1, "block_size": 2, "opset": 21}
    compare(*single("QuantizeLinear", [floats(2, 5)], stored, **attributes))
    compare(*single("DequantizeLinear", [bytes_(2, 5)], stored, **attributes))


def test_dynamic_quantize() -> None:
    compare(*single("DynamicQuantizeLinear", [floats(4, 5)], outputs=3))
    compare(*single("DynamicQuantizeLinear", [np.zeros((2, 2), "float32")], outputs=3))


def test_matmul_integer() -> None:
    stored = [ZERO.reshape(1), bytes_(3, dtype="int8")]
    compare(*single("MatMulInteger", [bytes_(2, 4, 5), bytes_(5, 3, dtype="int8")], [None, None]))
    compare(*single("MatMulInteger", [bytes_(4, 5), bytes_(5, 3, dtype="int8"), *stored]))


def test_conv_integer() -> None:
    arrays = [bytes_(1, 2, 6, 6), bytes_(3, 2, 3, 3)]
    compare(*single("ConvInteger", arrays, [ZERO, bytes_(1)[0]], pads=[1, 1, 1, 1], strides=[2, 1]))


@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(per_channel: bool) -> None:
    count = 4 if per_channel else 1
    weights = [bytes_(4, 1, 3, 3, dtype="int8"), steps(count), np.zeros(count, "int8")]
    rest = [np.float32(0.9).reshape(()), ZERO, whole(4, low=-900, high=900, dtype="int32")]
    stored = [SCALE, ZERO, *weights, *rest]
    compare(*single("QLinearConv", [bytes_(1, 4, 6, 6)], stored, group=4, pads=[1, 1, 1, 1]))


@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(per_column: bool) -> None:
    count = (3,) if per_column else ()
    scale = steps(3) if per_column else SCALE
    second = [bytes_(5, 3, dtype="int8"), scale, np.zeros(count, "int8")]
    stored = [SCALE, ZERO, *second, np.float32(0.8).reshape(()), ZERO]
    compare(*single("QLinearMatMul", [bytes_(2, 4, 5)], stored, opset=10))


def microsoft(kind: str, inputs: dict[str, np.ndarray], **attributes: Any) -> None:
    """Compare one of ONNX Runtime's own operators; all inputs but the first are stored."""
    made = node(kind, " ".join(inputs), domain="com.microsoft", **attributes)
    (first, x), *rest = inputs.items()
    proto = model(
        [made], {first: (x.dtype.name, x.shape)}, ["y"], dict(rest), 17, ["com.microsoft"]
    )
    if kind in {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}:
        proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [3, 5]))
    compare(proto, {first: x})


SECOND = {"b": bytes_(3, 4, seed=5), "bs": np.float32(0.05).reshape(()), "bz": ZERO}
OWN = {"s": SCALE, "z": ZERO}
RESULT = {"ys": np.float32(0.11).reshape(()), "yz": np.uint8(90).reshape(())}


def test_quantised_activations() -> None:
    x = {"x": bytes_(3, 4)}
    microsoft("QLinearAdd", x | OWN | SECOND | RESULT)
    microsoft("QLinearMul", x | OWN | SECOND | RESULT)
    microsoft("QLinearLeakyRelu", x | OWN | RESULT, alpha=0.1)
    result = {"ys": np.float32(1 / 256).reshape(()), "yz": np.uint8(0).reshape(())}
    microsoft("QLinearSigmoid", x | OWN | result)


def test_quantised_products_in_floats() -> None:
    weight = {"w": bytes_(4, 5), "ws": steps(5), "wz": bytes_(5)}
    bias = {"bias": floats(5)}
    microsoft("DynamicQuantizeMatMul", {"x": floats(3, 4)} | weight | bias)
    inputs = {"x": bytes_(3, 4), "w": bytes_(4, 5), "s": SCALE, "ws": steps(5), "z": ZERO}
    microsoft("MatMulIntegerToFloat", inputs | {"wz": bytes_(5)} | bias)
