"""Sums of 16-bit numbers are taken in float32, against sums in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx_models import execute, floats, model, node, single
from torch.nn import functional

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.onnx import capture


def half(*shape: int, seed: int = 0) -> np.ndarray:
    return floats(*shape, seed=seed).astype("float16")


def run(op: str, *arrays: np.ndarray, **attributes: Any) -> np.ndarray:
    proto, feeds = single(op, arrays, **attributes)
    (result,) = execute(capture(proto), feeds)
    assert result.dtype == np.float16
    return result.astype("float64")


def exactly(got: np.ndarray, wanted: np.ndarray) -> None:
    """As close as one rounding allows: 2^-11 of a number, and float32's errors near 0."""
    np.testing.assert_allclose(got, wanted, rtol=2**-11 * 1.01, atol=1e-4)


def doubles(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(a.astype("float64")) for a in arrays)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Einsum"])
def test_products(op: str) -> None:
    a, b = half(4, 2000), half(2000, 3, seed=1)
    attributes = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    exactly(run(op, a, b, **attributes), a.astype("float64") @ b.astype("float64"))


@pytest.mark.parametrize(("rank", "groups"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_convolutions(rank: int, groups: int) -> None:
    x = half(1, 64, *[9] * rank)
    weight = half(6, 64 // groups, *[3] * rank, seed=1)
    made = getattr(functional, f"conv{rank}d")(*doubles(x, weight), groups=groups).numpy()
    exactly(run("Conv", x, weight, group=groups), made)


def test_transposed_convolution() -> None:
    x, weight = half(1, 256, 5, 5), half(256, 3, 3, 3, seed=1)
    wide, wide_weight = doubles(x, weight)
    wanted = functional.conv_transpose2d(wide, wide_weight).numpy()
    exactly(run("ConvTranspose", x, weight), wanted)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceL2", "GlobalAveragePool"])
def test_reductions(op: str) -> None:
    x = half(2, 3, 64, 64)
    wide = x.astype("float64")
    wanted = {
        "ReduceMean": wide.mean((2, 3), keepdims=True),
        "ReduceSum": wide.sum((2, 3), keepdims=True),
        "ReduceL2": np.sqrt((wide**2).sum((2, 3), keepdims=True)),
        "GlobalAveragePool": wide.mean((2, 3), keepdims=True),
    }
    options: dict[str, Any] = {} if op == "GlobalAveragePool" else {"axes": [2, 3], "opset": 12}
    exactly(run(op, x, **options), wanted[op])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 18])
def test_softmax(op: str, opset: int) -> None:
    x = half(2, 3000)
    powers = np.exp(x.astype("float64"))
    wanted = powers / powers.sum(1, keepdims=True)
    exactly(run(op, x, opset=opset, axis=1), np.log(wanted) if op == "LogSoftmax" else wanted)


def test_rounding_to_bfloat16_around_an_elementary_function() -> None:
    kinds = {"to": onnx.TensorProto.BFLOAT16}, {"to": onnx.TensorProto.FLOAT}
    steps = ["Cast", "Cast", "Exp", "Cast", "Cast"]
    names = ["x", "a", "b", "c", "d", "y"]
    nodes = [
        node(op, names[i], names[i + 1], **(kinds[(i - (i > 2)) % 2] if op == "Cast" else {}))
        for i, op in enumerate(steps)
    ]
    built = nexus_compiler.compile(model(nodes, {"x": ("float32", (64,))}))
    x = floats(64)
    rounded = x.astype(ml_dtypes.bfloat16).astype("float32")
    wanted = np.exp(rounded).astype(ml_dtypes.bfloat16).astype("float32")
    found = nexus_runtime.load(built).run("main", {"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=2**-7)
