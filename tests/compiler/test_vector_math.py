"""Elementary functions in vectors: against float64, over random bits and what is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from scipy import special
from tvm import s_tir, te, tirx

from nexus_compiler.codegen.llvm import vector_math

_COUNT, _LANES = 1 << 18, 16
_SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 88.72, 88.73, -87.4, -103.9, 3.4e38]
# What is meant, and by how many units in the last place the result may be off.
CASES = {
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "sigmoid": (special.expit, 3),
    "tanh": (np.tanh, 6),
    "erf": (special.erf, 6),
    "atan": (np.arctan, 3),
    "sinh": (np.sinh, 4),
    "cosh": (np.cosh, 4),
}


def inputs() -> np.ndarray:
    source = np.random.default_rng(0)
    anything = source.integers(0, 2**32, _COUNT // 2, np.uint32).view(np.float32)
    usual = source.uniform(-110, 110, _COUNT // 4), source.uniform(-4, 4, _COUNT // 8)
    parts = [anything, *usual, np.resize(_SPECIAL, _COUNT // 8)]
    return np.concatenate(parts).astype(np.float32)


def compiled(name: str, dtype: str = "float32") -> Callable[[np.ndarray], np.ndarray]:
    x = te.placeholder((_COUNT,), dtype, "x")
    y = te.compute((_COUNT,), lambda i: getattr(te, name)(x[i]), "y")
    schedule = s_tir.Schedule(vector_math.expand(te.create_prim_func([x, y])))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    schedule.vectorize(schedule.split(loop, [None, _LANES])[1])
    library: Any = tvm.compile(schedule.mod, target="llvm")

    def run(values: np.ndarray) -> np.ndarray:
        result = tvm.runtime.tensor(np.empty_like(values))
        library["main"](tvm.runtime.tensor(values), result)
        return result.numpy()

    return run


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_function(name: str) -> None:
    reference, units = CASES[name]
    values = inputs()
    found, exact = compiled(name)(values), reference(values.astype(np.float64))
    rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(rounded))
    np.testing.assert_array_equal(np.signbit(found[exact == 0]), np.signbit(exact[exact == 0]))
    normal = np.isfinite(rounded) & (np.abs(rounded) >= np.finfo(np.float32).tiny)
    error = np.abs(found[normal] - exact[normal]) / np.spacing(np.abs(rounded[normal]))
    assert error.max() <= units
    tiny = np.isfinite(rounded) & ~normal
    assert np.abs(found[tiny] - exact[tiny]).max(initial=0) <= np.finfo(np.float32).tiny


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_half_precision_is_rounded_once(name: str) -> None:
    """It is computed in float32, so that only a tie may go the other way."""
    x = np.resize(np.arange(1 << 16, dtype=np.uint16).view(np.float16), _COUNT)
    found, exact = compiled(name, "float16")(x), CASES[name][0](x.astype(np.float64))
    rounded = exact.astype(np.float16)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(found[np.isinf(rounded)], rounded[np.isinf(rounded)])
    step = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert (np.abs(found[finite].astype(np.float64) - exact[finite]) / step).max() <= 0.51


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_call_is_left(dtype: str) -> None:
    x = te.placeholder((4,), dtype, "x")
    y = te.compute((4,), lambda i: te.exp(te.tanh(x[i])) + te.log(x[i]) + te.erf(x[i]), "y")
    script = vector_math.expand(te.create_prim_func([x, y])).script()
    assert not any(f"T.{name}(" in script for name in CASES)


def test_functions_deep_in_each_other_stay_calls() -> None:
    """TVM would take minutes for them."""
    x = te.placeholder((4,), "float32", "x")
    y = te.compute((4,), lambda i: te.exp(te.tanh(te.erf(x[i]))), "y")
    function = te.create_prim_func([x, y])
    assert vector_math.expand(function).same_as(function)


def test_what_a_branch_computes_stays_in_it() -> None:
    x = te.placeholder((4,), "float32", "x")
    y = te.compute((8,), lambda i: tirx.if_then_else(i < 4, te.exp(x[i]), tirx.const(0.0)), "y")
    library: Any = tvm.compile(vector_math.expand(te.create_prim_func([x, y])), target="llvm")
    result = tvm.runtime.tensor(np.ones(8, np.float32))
    library["main"](tvm.runtime.tensor(np.zeros(4, np.float32)), result)
    np.testing.assert_allclose(result.numpy(), [1, 1, 1, 1, 0, 0, 0, 0], rtol=1e-6)


def test_other_types_stay() -> None:
    x = te.placeholder((4,), "float64", "x")
    function = te.create_prim_func([x, te.compute((4,), lambda i: te.exp(x[i]), "y")])
    assert vector_math.expand(function).same_as(function)
