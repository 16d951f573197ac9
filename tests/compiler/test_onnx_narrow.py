"""Elements of 8 bits and less, and bfloat16: casts in both directions for every number there is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import nexus_runtime
from nexus_compiler.pipeline import compile
from nexus_runtime.errors import UnsupportedOperator
from nexus_runtime.tensors import BITS, dtype_of

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FLOATS = [name for name in BITS if "float" in name]
WHOLE = [name for name in BITS if "int" in name]


def number(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype_of(dtype)))


def run(kind: str, x: np.ndarray, result: str, **attributes: object) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], **attributes)],
        "net",
        [helper.make_tensor_value_info("x", number(x.dtype.name), x.shape)],
        [helper.make_tensor_value_info("y", number(result), [None] * x.ndim)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    return np.asarray(nexus_runtime.load(compile(model))(x))


def cast(x: np.ndarray, to: str, **attributes: object) -> np.ndarray:
    return run("Cast", x, to, to=number(to), **attributes)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    wide = np.float64
    np.testing.assert_array_equal(found.astype(wide), expected.astype(wide))
    signs = np.signbit(found.astype(wide)) == np.signbit(expected.astype(wide))
    assert (signs | np.isnan(expected.astype(wide))).all()


@pytest.mark.parametrize("dtype", BITS)
def test_every_code_is_read(dtype: str) -> None:
    codes = np.arange(1 << BITS[dtype], dtype=np.uint8).view(dtype_of(dtype))
    assert_same(cast(codes, "float32"), codes.astype(np.float32))


@pytest.mark.parametrize("dtype", [name for name in FLOATS if name != "float8_e8m0fnu"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_every_half_is_rounded(dtype: str, saturate: int) -> None:
    with np.errstate(invalid="ignore"):
        if saturate and dtype != "float4_e2m1fn":
            expected = numpy_helper.saturate_cast(HALVES, dtype_of(dtype))
        else:
            expected = HALVES.astype(dtype_of(dtype))
    found = cast(HALVES, dtype, saturate=saturate)
    assert_same(found[~np.isnan(HALVES)], expected[~np.isnan(HALVES)])
    assert_same(np.abs(found.astype("f4")), np.abs(expected.astype("f4")))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two(mode: str, saturate: int) -> None:
    x = np.float32([0, 1e-38, 0.124, 0.25, 0.375, 0.38, 1, 1.5, 3, 3e38, np.inf, np.nan, -3])
    expected = numpy_helper.to_float8e8m0(x, bool(saturate), mode)
    assert_same(cast(x, "float8_e8m0fnu", saturate=saturate, round_mode=mode), expected)


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_wrap(dtype: str) -> None:
    x = np.linspace(-20, 20, 81).astype(np.float32)
    assert_same(cast(x, dtype), x.astype(dtype_of(dtype)))
    x = np.arange(-20, 20, dtype=np.int64)
    assert_same(cast(x, dtype), x.astype(dtype_of(dtype)))


def test_bfloat16_goes_in_and_out() -> None:
    x = HALVES[np.isfinite(HALVES)].astype(np.float32) * np.float32(1.0009765625)
    assert_same(cast(x, "bfloat16"), x.astype(ml_dtypes.bfloat16))
    narrow = x.astype(ml_dtypes.bfloat16)
    assert_same(cast(narrow, "float32"), narrow.astype(np.float32))
    assert_same(run("Neg", narrow, "bfloat16"), -narrow)


def test_moves_keep_the_type() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.float8_e5m2)
    assert_same(run("Transpose", x, "float8_e5m2", perm=[1, 0]), x.T)


def test_arithmetic_on_bits_is_refused() -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.INT4, [3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.INT4, [3])
    shape = numpy_helper.from_array(np.int64([3]), "shape")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Tile", ["r", "shape"], ["t"]),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "net", [x], [y], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    with pytest.raises(UnsupportedOperator, match="its input 0 is int4"):
        compile(model)
