"""Convolutions, pools, normalisations, matrix products and reductions agree with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import compare, floats, model, node, single, whole

CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": ((2, 3, 9), (4, 3, 3), {"strides": [2], "pads": [1, 0]}),
    "2d": ((1, 3, 7, 8), (4, 3, 3, 3), {}),
    "2d padded": ((1, 3, 7, 8), (4, 3, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "2d dilated": ((1, 2, 9, 9), (2, 2, 3, 3), {"dilations": [2, 3]}),
    "2d grouped": ((1, 4, 6, 6), (6, 2, 3, 3), {"group": 2}),
    "2d depthwise": ((1, 4, 6, 6), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "2d same upper": ((1, 2, 7, 8), (3, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "2d same lower": ((1, 2, 7, 8), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER"}),
    "2d valid": ((1, 2, 7, 8), (3, 2, 4, 3), {"auto_pad": "VALID"}),
    "3d": ((1, 2, 5, 5, 5), (3, 2, 3, 3, 3), {"pads": [1, 0, 1, 0, 1, 1]}),
}


@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str) -> None:
    x, weight, attributes = CONVS[name]
    stored = [floats(*weight, seed=1), floats(weight[0], seed=2)]
    graph = compare(*single("Conv", [floats(*x)], stored, **attributes))
    assert list(graph.params) == ["c0", "c1"]


TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": ((1, 3, 5), (3, 2, 3), {"strides": [2], "pads": [1, 0]}),
    "2d": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "2d extra": ((1, 3, 4, 4), (3, 2, 3, 3), {"strides": [2, 3], "output_padding": [1, 2]}),
    "2d dilated": ((1, 2, 4, 4), (2, 2, 3, 3), {"dilations": [2, 2]}),
    "2d grouped": ((1, 4, 4, 4), (4, 2, 3, 3), {"group": 2}),
    "2d same": ((1, 2, 4, 4), (2, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "2d shaped": ((1, 2, 4, 4), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    "3d": ((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {"strides": [2, 2, 2]}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name: str) -> None:
    x, weight, attributes = TRANSPOSED[name]
    group = attributes.get("group", 1)
    stored = [floats(*weight, seed=1), floats(weight[1] * group, seed=2)]
    compare(*single("ConvTranspose", [floats(*x)], stored, **attributes))


POOLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "1d": ((1, 2, 9), {"kernel_shape": [3], "strides": [2]}),
    "2d": ((1, 2, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "2d uneven": ((1, 2, 7, 7), {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0]}),
    "2d same": ((1, 2, 7, 7), {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER"}),
    "2d ceil": ((1, 2, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "2d ceil padded": (
        (1, 1, 6, 6),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    "2d ceil past the end": (
        (1, 1, 4, 4),
        {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 1},
    ),
    "3d": ((1, 2, 5, 5, 5), {"kernel_shape": [2, 2, 2], "strides": [2, 1, 2]}),
}


@pytest.mark.parametrize("name", POOLS)
def test_max_pool(name: str) -> None:
    x, attributes = POOLS[name]
    compare(*single("MaxPool", [floats(*x)], **attributes))


def test_dilated_max_pool() -> None:
    compare(*single("MaxPool", [floats(1, 2, 9, 9)], kernel_shape=[3, 3], dilations=[2, 2]))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", POOLS)
def test_average_pool(name: str, count: int) -> None:
    x, attributes = POOLS[name]
    compare(*single("AveragePool", [floats(*x)], count_include_pad=count, **attributes))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 2, 4)])
def test_global_pool(op: str, shape: tuple[int, ...]) -> None:
    compare(*single(op, [floats(*shape)]))


def test_batch_norm() -> None:
    stored = [floats(3, seed=s, low=0.5) for s in range(4)]
    compare(*single("BatchNormalization", [floats(2, 3, 4, 4)], stored, epsilon=1e-3))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("outputs", [1, 3])
def test_layer_norm(axis: int, outputs: int) -> None:
    inner = (3, 4) if axis == 1 else (4,)
    stored = [floats(*inner, seed=1), floats(*inner, seed=2)]
    data = [floats(2, 3, 4)]
    compare(*single("LayerNormalization", data, stored, outputs=outputs, axis=axis))
    compare(*single("LayerNormalization", data, stored[:1], axis=axis))


def test_instance_norm() -> None:
    compare(*single("InstanceNormalization", [floats(2, 3, 4, 5)], [floats(3), floats(3, seed=1)]))


def test_group_norm_by_its_definition() -> None:
    stored = [floats(4), floats(4, seed=1)]
    compare(*single("GroupNormalization", [floats(2, 4, 3)], stored, opset=21, num_groups=2))


def test_local_response_norm() -> None:
    compare(*single("LRN", [floats(1, 5, 3, 3)], size=3, alpha=0.2, beta=0.6, bias=1.5))


@pytest.mark.parametrize("p", [1, 2])
def test_lp_norm(p: int) -> None:
    compare(*single("LpNormalization", [floats(2, 3, 4)], axis=1, p=p))


MATMULS = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 1, 3, 4), (5, 4, 2))]
MATMULS += [((3, 4), (4,)), ((4,), (4,))]


@pytest.mark.parametrize(("left", "right"), MATMULS)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    compare(*single("MatMul", [floats(*left), floats(*right, seed=1)]))


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(transposed: tuple[int, int]) -> None:
    a = floats(4, 3) if transposed[0] else floats(3, 4)
    b = floats(5, 4, seed=1) if transposed[1] else floats(4, 5, seed=1)
    flags = {"transA": transposed[0], "transB": transposed[1]}
    compare(*single("Gemm", [a], [b, floats(5, seed=2)], alpha=0.5, beta=1.5, **flags))
    compare(*single("Gemm", [a], [b], **flags))


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "ij,ij->i", "bhqd, bhkd -> bhqk"])
def test_einsum(equation: str) -> None:
    sizes = dict(zip("bijkhqd", (2, 3, 4, 5, 2, 3, 4)))
    terms = equation.replace(" ", "").split("->")[0].split(",")
    arrays = [floats(*(sizes[c] for c in term), seed=i) for i, term in enumerate(terms)]
    compare(*single("Einsum", arrays, equation=equation))


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduction(kind: str) -> None:
    x = floats(2, 3, 4, low=0.5)
    axes = np.array([0, -1])
    compare(*single(f"Reduce{kind}", [x], [axes]))
    compare(*single(f"Reduce{kind}", [x], keepdims=0))
    compare(*single(f"Reduce{kind}", [x], opset=12, axes=[1], keepdims=0))


def test_reduction_over_no_axes_does_nothing_on_demand() -> None:
    none = np.array([], "int64")
    compare(*single("ReduceSum", [floats(2, 3)], [none], noop_with_empty_axes=1))
    compare(*single("ReduceSum", [floats(2, 3)], [none]))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg(op: str, last: int) -> None:
    x = whole(3, 8, high=3).astype("float32")
    compare(*single(op, [x], axis=1, select_last_index=last))
    compare(*single(op, [x], axis=0, keepdims=0, select_last_index=last))


@pytest.mark.parametrize("flags", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_cumulative_sum(flags: tuple[int, int]) -> None:
    attributes = {"exclusive": flags[0], "reverse": flags[1]}
    compare(*single("CumSum", [floats(3, 5)], [np.array(1)], **attributes))


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int) -> None:
    x = whole(3, 8, high=5).astype("float32")
    compare(*single("TopK", [x], [np.array([4])], outputs=2, axis=1, largest=largest))


def test_batch_stays_symbolic_through_a_convolutional_net() -> None:
    nodes = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a s s s s", "n"),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "p", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f d", "y"),
    ]
    stored = {
        "w": floats(4, 3, 3, 3),
        "b": floats(4),
        "s": floats(4, low=0.5),
        "d": floats(4, 5, seed=2),
    }
    proto = model(nodes, {"x": ("float32", ("n", 3, None, None))}, ("y",), stored)
    graph = compare(proto, {"x": floats(2, 3, 6, 8)})
    (entry,) = graph.signature.functions
    assert entry.inputs[0].shape == ("n", 3, "x_2", "x_3")
    assert entry.outputs[0].shape == ("n", 5)
