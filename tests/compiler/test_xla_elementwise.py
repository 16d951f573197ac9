"""Elementwise operators, reductions and products: XLA against TVM's llvm."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax
from xla_support import Case, Suite, bools, case, floats, whole

op = relax.op
X, Y = floats(3, 4), floats(3, 4, seed=1)
POSITIVE = floats(3, 4, low=0.1, high=3)
SMALL = floats(3, 4, low=-0.9, high=0.9)
I, J = whole(3, 4, low=-9, high=9), whole(3, 4, low=1, high=5, seed=1)
U, V = whole(3, 4, high=2**32, dtype="uint32"), whole(3, 4, high=2**32, dtype="uint32", seed=1)
SHIFT = whole(3, 4, high=32, dtype="uint32", seed=2)
B, C = bools(3, 4), bools(3, 4, seed=1)
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -1.5, 2.5, 3.5, -0.5], "float32")


def words(text: str) -> list[str]:
    return text.split()


UNARY: dict[str, np.ndarray] = {
    **dict.fromkeys(words("acosh log rsqrt sqrt"), POSITIVE + np.float32(1)),
    **dict.fromkeys(words("acos asin atanh"), SMALL),
    **dict.fromkeys(words("abs asinh atan ceil cos cosh erf exp floor negative"), X),
    **dict.fromkeys(words("round sigmoid sign sin sinh square tan tanh trunc"), X),
    **dict.fromkeys(words("isfinite isinf isnan"), ODD),
    "bitwise_not": I,
    "logical_not": B,
}
FLOAT = words(
    "add atan2 divide equal floor_divide floor_mod greater greater_equal less less_equal "
    "log_add_exp maximum minimum mod multiply not_equal subtract"
)
INTEGER = words(
    "add bitwise_and bitwise_or bitwise_xor divide equal floor_divide floor_mod greater less "
    "maximum minimum mod multiply subtract"
)

CASES: dict[str, Case] = {
    **{name: case(getattr(op, name), array) for name, array in UNARY.items()},
    **{f"{name}_float": case(getattr(op, name), X, Y) for name in FLOAT},
    **{f"{name}_int": case(getattr(op, name), I, J) for name in INTEGER},
    **{
        f"{name}_uint": case(getattr(op, name), U, V)
        for name in words("add subtract multiply bitwise_and bitwise_or bitwise_xor")
    },
    **{
        f"{name}_bool": case(getattr(op, name), B, C)
        for name in words("logical_and logical_or logical_xor")
    },
    "power": case(op.power, POSITIVE, Y),
    "left_shift": case(op.left_shift, U, SHIFT),
    "right_shift": case(op.right_shift, U, SHIFT),
    "right_shift_signed": case(op.right_shift, I, J),
    "round_half": case(op.round, ODD[3:]),
    "abs_int": case(op.abs, I),
    "sign_int": case(op.sign, I),
    "broadcast": case(op.add, floats(3, 1), floats(4)),
    "with_constant": case(lambda x: op.multiply(x, relax.const(0.5, "float32")), X),
    "ewise_fma": case(op.ewise_fma, X, Y, POSITIVE, expected=lambda x, y, z: x * y + z),
    "where": case(op.where, B, X, Y),
    "where_broadcast": case(op.where, bools(3, 1), X, floats(4)),
    "clip": case(lambda x: op.clip(x, -0.5, 1), X),
    "clip_int": case(lambda x: op.clip(x, -3, 3), I),
    "cast_int": case(lambda x: op.astype(x, "int32"), X),
    "cast_int64": case(lambda x: op.astype(x, "int64"), X),
    "cast_half": case(lambda x: op.astype(x, "float16"), X),
    "cast_double": case(lambda x: op.astype(x, "float64"), X),
    "cast_float": case(lambda x: op.astype(x, "float32"), I),
    "cast_from_bool": case(lambda x: op.astype(x, "float32"), B),
    "cast_narrow": case(lambda x: op.astype(x, "uint8"), whole(5, high=1000)),
    "no_grad": case(op.grad.no_grad, X),
    "sum": case(op.sum, X),
    "sum_axis": case(lambda x: op.sum(x, axis=[-1], keepdims=True), X),
    "sum_int": case(lambda x: op.sum(x, axis=1), I),
    "prod": case(lambda x: op.prod(x, axis=0), X),
    "mean": case(lambda x: op.mean(x, axis=[0, 1]), X),
    "mean_keep": case(lambda x: op.mean(x, axis=1, keepdims=True), X),
    "max": case(lambda x: op.max(x, axis=0), X),
    "min": case(op.min, I),
    "variance": case(lambda x: op.variance(x, axis=1), X),
    "std": case(lambda x: op.std(x, axis=[0]), X),
    "argmax": case(lambda x: op.argmax(x, axis=1), X),
    "argmax_ties": case(lambda x: op.argmax(x, axis=0, keepdims=True), whole(5, 4, high=2)),
    "argmax_all": case(op.argmax, X),
    "argmin": case(lambda x: op.argmin(x, axis=-1), I),
    "median": case(lambda x: op.median(x, axis=[1]), X),
    "median_all": case(op.median, X),
    "cumsum": case(lambda x: op.cumsum(x, axis=1), X),
    "cumsum_flat": case(op.cumsum, I),
    "cumsum_wide": case(lambda x: op.cumsum(x, axis=0, dtype="int64"), I),
    "cumsum_exclusive": case(lambda x: op.cumsum(x, axis=1, exclusive=True), X),
    "cumprod": case(lambda x: op.cumprod(x, axis=0), X),
    "cumprod_exclusive": case(lambda x: op.cumprod(x, axis=0, exclusive=True), X),
    "collapse_sum_to": case(lambda x: op.collapse_sum_to(x, (1, 4)), floats(2, 3, 4)),
    "collapse_sum_like": case(op.collapse_sum_like, floats(2, 3, 4), floats(3, 1)),
    "matmul": case(op.matmul, floats(3, 5), floats(5, 2)),
    "matmul_batched": case(op.matmul, floats(2, 1, 3, 5), floats(4, 5, 2)),
    "matmul_vector": case(op.matmul, floats(5), floats(2, 5, 3)),
    "matmul_dot": case(op.matmul, floats(5), floats(5, seed=1)),
    "matmul_int8": case(
        lambda x, y: op.matmul(x, y, out_dtype="int32"),
        whole(3, 64, low=-128, high=128, dtype="int8"),
        whole(64, 2, low=-128, high=128, dtype="int8"),
    ),
    "linear": case(op.linear, floats(3, 5), floats(2, 5), floats(2)),
    "einsum": case(
        lambda x, y: op.einsum((x, y), "bij,bkj->bik"), floats(2, 3, 4), floats(2, 5, 4)
    ),
    "outer": case(op.outer, floats(3), floats(4)),
}
SUITE = Suite(CASES)


@pytest.mark.parametrize("name", CASES)
def test_equals_tvm(name: str) -> None:
    SUITE.check(name)


def test_unsigned_arithmetic_wraps_around() -> None:
    def rotate(x):
        thirteen, nineteen = relax.const(13, "uint32"), relax.const(19, "uint32")
        mixed = op.multiply(x, relax.const(0xCD9E8D57, "uint32"))
        return op.bitwise_or(op.left_shift(mixed, thirteen), op.right_shift(mixed, nineteen))

    mixed = U * np.uint32(0xCD9E8D57)
    expected = (mixed << np.uint32(13)) | (mixed >> np.uint32(19))
    (actual,) = Suite({"rotate": case(rotate, U)}).run("rotate")
    np.testing.assert_array_equal(actual, expected)


def test_half_products_accumulate_in_the_wanted_dtype() -> None:
    left, right = floats(2, 512).astype("float16"), floats(512, 2, seed=1).astype("float16")
    made = case(lambda x, y: op.matmul(x, y, out_dtype="float32"), left, right)
    (actual,) = Suite({"main": made}).run("main")
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, left.astype("f8") @ right.astype("f8"), atol=1e-3)


def test_mean_of_integers_truncates_and_keeps_the_dtype() -> None:
    (actual,) = Suite({"main": case(lambda x: op.mean(x, axis=1), I)}).run("main")
    np.testing.assert_array_equal(actual, np.trunc(I.sum(1) / 4).astype("int32"))
