"""Attention, searches among infinities, statistics of training, bits: against ONNX's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_models as om
import pytest
from onnx.reference import ReferenceEvaluator

import nexus_runtime
from nexus_compiler.pipeline import compile

INFINITY = np.inf


def check(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], *, rtol: float = 1e-5) -> None:
    expected: Sequence[np.ndarray] = ReferenceEvaluator(model).run(None, dict(arrays))
    module = nexus_runtime.load(compile(model))
    found = module.run(module.main.name, arrays)
    for (name, got), want in zip(found.items(), expected):
        assert got.dtype == want.dtype, name
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 3), ("n", 3), ("n", "m")])
@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin", "ArgMax", "ArgMin"])
def test_searches_among_infinities(kind: str, shape: tuple[int | str, ...]) -> None:
    x = np.float32([[-INFINITY] * 3, [1, -INFINITY, 3], [2, 2, INFINITY], [INFINITY] * 3])
    axis = {"axes": [1]} if kind.startswith("Reduce") else {"axis": 1}
    model = om.model([om.node(kind, "x", keepdims=0, **axis)], {"x": ("float32", shape)}, opset=13)
    check(model, {"x": x})


def attention(inputs: str, outputs: str, dtype: str, **attributes: object) -> onnx.ModelProto:
    shapes = {
        "q": (dtype, (2, 4, 3, 8)),
        "k": (dtype, (2, 2, 5, 8)),
        "v": (dtype, (2, 2, 5, 6)),
        "mask": (dtype, (3, 5)),
        "only": ("bool", (3, 4)),
        "pk": (dtype, (2, 2, 2, 8)),
        "pv": (dtype, (2, 2, 2, 6)),
        "filled": ("int64", (2,)),
    }
    used = {name: shapes[name] for name in inputs.split() if name != "_"}
    node = om.node("Attention", inputs, outputs, **attributes)
    return om.model([node], used, outputs=[o for o in outputs.split() if o != "_"], opset=24)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "attributes"),
    [
        ("q k v", "y", {}),
        ("q k v", "y", {"is_causal": 1, "softcap": 0.5}),
        ("q k v mask", "y _ _ s", {"qk_matmul_output_mode": 2, "scale": 0.2}),
        ("q k v only", "y _ _ s", {"qk_matmul_output_mode": 3}),
        ("q k v _ pk pv", "y nk nv", {"is_causal": 1}),
        ("q k v _ _ _ filled", "y", {"is_causal": 1}),
    ],
)
def test_attention(inputs: str, outputs: str, attributes: dict[str, object], dtype: str) -> None:
    model = attention(inputs, outputs, dtype, **attributes)
    arrays: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        arrays[value.name] = om.floats(*shape, seed=len(arrays)).astype(dtype)
    if "only" in arrays:
        arrays["only"] = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    if "filled" in arrays:
        arrays["filled"] = np.int64([2, 5])
    check(model, arrays, rtol=5e-3 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ii->...i", [(2, 3, 3)]),
        ("b...m,bmn->b...n", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,jk->ik...", [(2, 3, 4), (4, 5)]),
    ],
)
def test_einsum_with_an_ellipsis(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = "abc"[: len(shapes)]
    inputs = {name: ("float32", shape) for name, shape in zip(names, shapes)}
    model = om.model([om.node("Einsum", " ".join(names), equation=equation)], inputs)
    check(model, {name: om.floats(*shape) for name, shape in zip(names, shapes)})


def test_batch_norm_in_training() -> None:
    names = ["x", "s", "b", "m", "v"]
    inputs = dict.fromkeys(names, ("float32", (3,))) | {"x": ("float32", ("n", 3, 4, 5))}
    node = om.node("BatchNormalization", " ".join(names), "y rm rv", training_mode=1, momentum=0.8)
    arrays = {name: om.floats(3, seed=i, low=0.5) for i, name in enumerate(names)}
    check(om.model([node], inputs, ("y", "rm", "rv")), arrays | {"x": om.floats(2, 3, 4, 5)})


def test_bits_survive_what_is_computed_next_to_them() -> None:
    nodes = [
        om.node("Add", "x x", "twice"),
        om.node("BitCast", "twice", "bits", to=onnx.TensorProto.INT32),
        om.node("Exp", "x", "e"),
        om.node("MatMul", "e e", "p"),
        om.node("Softmax", "p", "r"),
        om.node("BitwiseXor", "bits bits", "zero"),
        om.node("BitwiseOr", "bits zero", "y"),
    ]
    model = om.model(nodes, {"x": ("float32", (4, 4))}, ("y", "r"), opset=26)
    x = om.floats(4, 4)
    module = nexus_runtime.load(compile(model))
    found = module(x)
    assert isinstance(found, dict)
    np.testing.assert_array_equal(found["y"], (x + x).view(np.int32))


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    inputs = {
        "cache": ("float32", (2, 3, 6, 4)),
        "update": ("float32", (2, 3, 2, 4)),
        "at": ("int64", (2,)),
    }
    model = om.model([om.node("TensorScatter", "cache update at", mode=mode)], inputs, opset=24)
    arrays = {"cache": om.floats(2, 3, 6, 4), "update": om.floats(2, 3, 2, 4, seed=1)}
    check(model, arrays | {"at": np.int64([1, 5 if mode == "circular" else 4])})


def test_dropout_in_training() -> None:
    constants = {"ratio": np.float32(0), "training": np.bool_(True)}
    node = om.node("Dropout", "x ratio training", "y mask")
    model = om.model([node], {"x": ("float32", (4,))}, ("y", "mask"), constants, opset=13)
    check(model, {"x": om.floats(4)})


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolution_over_one_axis(groups: int) -> None:
    weight = om.floats(4, 4 // groups, 3, seed=1)
    node = om.node("Conv", "x w", group=groups, strides=[2], pads=[1, 2], dilations=[2])
    model = om.model([node], {"x": ("float32", (2, 4, 9))}, constants={"w": weight})
    check(model, {"x": om.floats(2, 4, 9)})
