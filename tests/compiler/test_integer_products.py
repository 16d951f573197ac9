"""Products of bytes agree with products of the floats that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import model, node
from quantized_support import RUNNABLE, Built, assert_steps, in_floats, number

ON_ALL = pytest.mark.parametrize("machine", RUNNABLE)
Nodes = tuple[list[Any], dict[str, np.ndarray]]


def quantize(x: str, name: str, scale: float, zero: int, dtype: str) -> Nodes:
    """`x` as bytes `name`, and as floats `name`_f again."""
    nodes = [
        node("QuantizeLinear", f"{x} {name}_s {name}_z", name),
        node("DequantizeLinear", f"{name} {name}_s {name}_z", f"{name}_f"),
    ]
    return nodes, {f"{name}_s": number(scale, "float32"), f"{name}_z": number(zero, dtype)}


def weights(name: str, values: np.ndarray, scales: np.ndarray, zeros: Any, axis: int) -> Nodes:
    made = node("DequantizeLinear", f"{name} {name}_s {name}_z", f"{name}_f", axis=axis)
    stored = {name: values, f"{name}_s": scales.astype("float32"), f"{name}_z": zeros}
    return [made], stored


def join(*parts: Nodes) -> Nodes:
    stored: dict[str, np.ndarray] = {}
    for _, own in parts:
        stored |= own
    return [made for nodes, _ in parts for made in nodes], stored


def scales(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2.0, count) / 100


def image(*shape: int) -> np.ndarray:
    """Floats that quantise to all of a byte's values, both ends included."""
    values = np.random.default_rng(5).uniform(-5, 5, shape).astype("float32")
    values.reshape(-1)[::7] = 100
    values.reshape(-1)[::11] = -100
    return values


def kernel(*shape: int) -> np.ndarray:
    """Bytes, with both ends among them."""
    values = np.random.default_rng(6).integers(-127, 128, shape).astype("int8")
    values.reshape(-1)[::5] = -128
    values.reshape(-1)[::3] = 127
    return values


CONVOLUTIONS = [
    # channels, filters, size, taps, stride, padding, dilation, dtype, zero
    (64, 64, (14, 14), 3, 1, 1, 1, "uint8", 0),
    (3, 33, (17, 19), 7, 2, 3, 1, "uint8", 131),
    (17, 7, (9, 11), 3, 1, 1, 2, "int8", -7),
    (128, 96, (7, 7), 1, 2, 0, 1, "uint8", 255),
    (13, 48, (5, 31), 5, 1, 0, 1, "int8", 0),
]


@pytest.mark.parametrize(
    "machine, case",
    # Every instruction once with signed and padded images, the others where the tests run.
    [(m, case) for m in RUNNABLE for i, case in enumerate(CONVOLUTIONS) if m == "native" or i == 2],
    ids=str,
)
def test_convolutions(machine: str, case: Any) -> None:
    channels, filters, size, taps, stride, padding, dilation, dtype, zero = case
    options = {"strides": [stride] * 2, "pads": [padding] * 4, "dilations": [dilation] * 2}
    values = kernel(filters, channels, taps, taps)
    bias = np.random.default_rng(7).normal(size=filters).astype("float32")
    nodes, stored = join(
        quantize("x", "q", 0.04, zero, dtype),
        weights("w", values, scales(filters), np.zeros(filters, "int8"), 0),
        ([node("Conv", "q_f w_f b", "y", **options), node("Relu", "y", "r")], {"b": bias}),
        quantize("r", "o", 0.06 * np.sqrt(channels * taps * taps), 3, "uint8"),
    )
    feeds = {"x": image(2, channels, *size)}
    proto = model(nodes, {"x": ("float32", feeds["x"].shape)}, ["o"], stored)
    built = Built(proto, machine)
    assert "dot" in built.families()
    assert "naive" not in built.families()
    found = built.run(feeds)[0]
    assert_steps(found, in_floats(proto, feeds)[0])
    # The test sees something: neither all 0 nor all at the limit.
    assert len(np.unique(found)) > 20


MATRICES = [  # rows, steps, columns; zero points of the weights
    (5, 64, 10, "signed"),
    (1, 130, 33, "middle"),
    (13, 7, 64, "signed"),
    (31, 1025, 17, "odd"),
]


@pytest.mark.parametrize(
    "machine, case",
    [(m, case) for m in RUNNABLE for i, case in enumerate(MATRICES) if m == "native" or i == 3],
    ids=str,
)
def test_matrices(machine: str, case: Any) -> None:
    rows, steps, columns, kind = case
    values = kernel(steps, columns)
    zeros = np.zeros(columns, "int8")
    if kind != "signed":
        values = (values.astype("int32") + 128).astype("uint8")
        # Zero points that differ from column to column, and none that could be left out.
        odd = np.random.default_rng(2).integers(0, 256, columns)
        zeros = (np.full(columns, 128) if kind == "middle" else odd).astype("uint8")
    nodes, stored = join(
        quantize("x", "q", 0.04, 77, "uint8"),
        weights("w", values, scales(columns), zeros, 1),
        ([node("MatMul", "q_f w_f", "y")], {}),
        quantize("y", "o", 0.1 * np.sqrt(steps), -5, "int8"),
    )
    feeds = {"x": image(3, rows, steps)}
    proto = model(nodes, {"x": ("float32", feeds["x"].shape)}, ["o"], stored)
    built = Built(proto, machine)
    assert "dot" in built.families()
    assert_steps(built.run(feeds)[0], in_floats(proto, feeds)[0])


@ON_ALL
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_largest_sums_are_exact(machine: str, dtype: str) -> None:
    # Sums of pairs of 255 * 127 and of -128 * -128 overflow 16 bits.
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).choice([limits.min, limits.max], (7, 512)).astype(dtype)
    x[0], x[1] = limits.max, limits.min
    weight = np.random.default_rng(1).choice([-128, 127], (512, 48)).astype("int8")
    weight[:, 0], weight[:, 1] = 127, -128
    stored = {"w": weight, "xz": number(limits.max, dtype), "wz": number(0, "int8")}
    nodes = [node("MatMulInteger", "x w xz wz", "y")]
    proto = model(nodes, {"x": (dtype, x.shape)}, constants=stored)
    built = Built(proto, machine)
    assert "dot" in built.families()
    wanted = (x.astype("int64") - int(limits.max)) @ weight.astype("int64")
    np.testing.assert_array_equal(built.run({"x": x})[0], wanted)


def convolved(x: np.ndarray, w: np.ndarray, padding: int) -> np.ndarray:
    """A convolution of whole numbers with zeros around the image, by its definition."""
    x = np.pad(x.astype("int64"), [(0, 0), (0, 0), (padding,) * 2, (padding,) * 2])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w.astype("int64"))


@pytest.mark.parametrize("zero", [0, 200])
def test_integer_convolution(zero: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 9, 10, 11)).astype("uint8")
    weight, padding = kernel(20, 9, 3, 3), 1
    stored = {"w": weight, "xz": number(zero, "uint8")}
    nodes = [node("ConvInteger", "x w xz", "y", pads=[padding] * 4)]
    proto = model(nodes, {"x": ("uint8", x.shape)}, constants=stored)
    built = Built(proto, "native")
    assert "dot" in built.families()
    wanted = convolved(x.astype("int64") - zero, weight, padding)
    np.testing.assert_array_equal(built.run({"x": x})[0], wanted)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_zero_point_that_the_weights_have(padding: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 9, 10, 11)).astype("uint8")
    weight = (kernel(20, 9, 3, 3).astype("int64") + 128).astype("uint8")
    stored = {"w": weight, "xz": number(31, "uint8"), "wz": number(99, "uint8")}
    nodes = [node("ConvInteger", "x w xz wz", "y", pads=[padding] * 4)]
    proto = model(nodes, {"x": ("uint8", x.shape)}, constants=stored)
    built = Built(proto, "native")
    assert "dot" in built.families()
    wanted = convolved(x.astype("int64") - 31, weight.astype("int64") - 99, padding)
    np.testing.assert_array_equal(built.run({"x": x})[0], wanted)


def test_quantised_by_its_own_range() -> None:
    weight = kernel(130, 66)
    stored = {"w": weight, "wz": number(0, "int8"), "ws": number(0.02, "float32")}
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z wz", "t"),
        node("Cast", "t", "f", to=1),
        node("Mul", "s ws", "m"),
        node("Mul", "f m", "y"),
    ]
    x = np.random.default_rng(0).normal(0.5, 1, (2, 9, 130)).astype("float32")
    proto = model(nodes, {"x": ("float32", x.shape)}, constants=stored)
    built = Built(proto, "native")
    assert "dot" in built.families()
    wanted = in_floats(proto, {"x": x})[0]
    np.testing.assert_allclose(built.run({"x": x})[0], wanted, rtol=1e-5, atol=1e-4)


def test_operators_on_quantised_tensors() -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 9, 10, 11)).astype("uint8")
    stored = {
        **{"w": kernel(20, 9, 3, 3), "ws": scales(20).astype("float32")},
        **{"wz": np.zeros(20, "int8"), "b": np.arange(20).astype("int32") * 1000 - 9000},
        **{"xs": number(0.05, "float32"), "xz": number(120, "uint8")},
        **{"ys": number(0.7, "float32"), "yz": number(90, "uint8")},
    }
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz b", "y", pads=[1] * 4)]
    proto = model(nodes, {"x": ("uint8", x.shape)}, constants=stored)
    built = Built(proto, "native")
    assert "dot" in built.families()
    assert_steps(built.run({"x": x})[0], in_floats(proto, {"x": x})[0])


def test_depthwise() -> None:
    channels = 37
    nodes, stored = join(
        quantize("x", "q", 0.04, 131, "uint8"),
        weights("w", kernel(channels, 1, 3, 3), scales(channels), np.zeros(channels, "int8"), 0),
        ([node("Conv", "q_f w_f", "y", pads=[1] * 4, group=channels)], {}),
        quantize("y", "o", 4.0, 3, "uint8"),
    )
    feeds = {"x": image(1, channels, 12, 13)}
    proto = model(nodes, {"x": ("float32", feeds["x"].shape)}, ["o"], stored)
    built = Built(proto, "native")
    assert "naive" not in built.families()
    assert_steps(built.run(feeds)[0], in_floats(proto, feeds)[0])


def test_blocks_with_residuals_stay_in_bytes() -> None:
    def convolution(x: str, name: str, channels: int, filters: int) -> Nodes:
        stored = weights(
            f"w{name}",
            np.random.default_rng(len(name)).integers(-128, 128, (filters, channels, 1, 1), "int8"),
            scales(filters),
            np.zeros(filters, "int8"),
            0,
        )
        return join(stored, ([node("Conv", f"{x} w{name}_f", name)], {}))

    nodes, stored = join(
        quantize("x", "q", 0.04, 128, "uint8"),
        ([node("MaxPool", "q_f", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)], {}),
        ([node("QuantizeLinear", "p q_s q_z", "pq")], {}),
        ([node("DequantizeLinear", "pq q_s q_z", "pq_f")], {}),
        convolution("pq_f", "a", 24, 32),
        # Scales without common multiples: halves would be rounded by chance.
        quantize("a", "aq", 0.2137, 120, "uint8"),
        convolution("pq_f", "b", 24, 16),
        ([node("Relu", "b", "br")], {}),
        quantize("br", "bq", 0.1, 0, "uint8"),
        convolution("bq_f", "c", 16, 32),
        quantize("c", "cq", 0.2913, 140, "uint8"),
        ([node("Add", "aq_f cq_f", "sum"), node("Relu", "sum", "sumr")], {}),
        quantize("sumr", "s", 0.1937, 0, "uint8"),
        ([node("Concat", "s_f s_f", "joined", axis=1)], {}),
        ([node("QuantizeLinear", "joined s_s s_z", "o")], {}),
    )
    feeds = {"x": image(1, 24, 13, 14)}
    proto = model(nodes, {"x": ("float32", feeds["x"].shape)}, ["o"], stored)
    built = Built(proto, "native")
    assert built.families().count("dot") == 3
    # One step in a layer may be one in the next.
    assert_steps(built.run(feeds)[0], in_floats(proto, feeds)[0], share=0.03)
    # What passes from kernel to kernel is bytes, but for the input.
    script = built.module["main__run"].script()
    wide = [line for line in script.splitlines() if "call_tir" in line and '"float32")' in line]
    assert not wide
