"""The namespace against NumPy: whole families in one region, so that few things are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import nexus_compiler as nexus
from nexus_runtime.errors import ShapeError

xp = nexus.array_api
ODD = [-np.inf, -3.5, -1.5, -1.0, -0.5, -0.0, 0.0, 1e-9, 0.5, 1.0, 2.5, 7.0, np.inf, np.nan]
INTS = [-7, -3, -1, 0, 1, 2, 3, 7]


def agree(ours: dict[str, Any], theirs: dict[str, Any], rtol: float = 1e-12) -> None:
    for name, expected in theirs.items():
        found = np.asarray(ours[name])
        assert found.dtype == expected.dtype, name
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-15, err_msg=name)


def both(function: Callable[[Any], dict[str, Any]]) -> None:
    """Compare one region of a whole family with NumPy, which has the standard's names."""
    with np.errstate(all="ignore"):
        agree(nexus.jit(lambda: function(xp))(), function(np))


def test_functions_of_one_float() -> None:
    names = (
        "acos acosh asin asinh atan atanh cos cosh exp expm1 log log1p log2 log10 reciprocal sin "
        "sinh sqrt tan tanh abs negative positive sign square ceil floor round trunc isfinite "
        "isinf isnan signbit"
    )
    x = np.asarray(ODD)
    both(lambda n: {name: getattr(n, name)(n.asarray(x)) for name in names.split()})


def test_functions_of_two_floats() -> None:
    names = (
        "add subtract multiply divide floor_divide remainder pow maximum minimum atan2 copysign "
        "hypot logaddexp less less_equal greater greater_equal equal not_equal"
    )
    keep = [one for one in ODD if np.isfinite(one)]
    x, y = np.asarray(keep)[:, None], np.asarray([one for one in keep if one])[None, :]
    both(lambda n: {k: getattr(n, k)(n.asarray(x), n.asarray(y)) for k in names.split()})


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint32"])
def test_functions_of_integers(dtype: str) -> None:
    names = (
        "add subtract multiply floor_divide remainder maximum minimum less equal bitwise_and "
        "bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift"
    )
    x = np.asarray(INTS).astype(dtype)[:, None]
    y = np.abs(np.asarray(INTS)).astype(dtype)[None, :]

    def family(n: Any) -> dict[str, Any]:
        a, b = n.asarray(x), n.asarray(y)
        found = {k: getattr(n, k)(a, b) for k in names.split()}
        return found | {"invert": n.bitwise_invert(a), "sign": n.sign(a), "pow": n.pow(a, b % 4)}

    both(family)


def test_reductions() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    x[1, 2, 3] = np.nan

    def family(n: Any) -> dict[str, Any]:
        a, found = n.asarray(x), {}
        for name in ("sum", "prod", "max", "min", "mean", "std", "var", "all", "any"):
            found[name] = getattr(n, name)(a)
            found[f"{name} 1"] = getattr(n, name)(a, axis=1, keepdims=True)
            found[f"{name} 0 2"] = getattr(n, name)(a, axis=(0, 2))
        for name in ("argmax", "argmin"):
            found[name] = getattr(n, name)(a)
            found[f"{name} 1"] = getattr(n, name)(a, axis=1)
        found["cumulative_sum"] = n.cumulative_sum(a, axis=1, include_initial=True)
        found["cumulative_prod"] = n.cumulative_prod(a, axis=2)
        found["sort"], found["argsort"] = n.sort(a, axis=0), n.argsort(a, axis=2, stable=True)
        found["count"] = n.count_nonzero(a > 0, axis=0)
        return found

    both(family)


def test_movement() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)

    def family(n: Any) -> dict[str, Any]:
        a = n.asarray(x)
        return {
            "flip": n.flip(a, axis=(0, 2)),
            "roll": n.roll(a, (1, -2), axis=(1, 2)),
            "roll all": n.roll(a, 5),
            "tile": n.tile(a, (2, 1, 1, 2)),
            "repeat": n.repeat(a, 2, axis=1),
            "moveaxis": n.moveaxis(a, 0, 2),
            "stack": n.stack([a, a + 1.0], axis=1),
            "concat": n.concat([a, a], axis=None),
            "squeeze": n.squeeze(a[:, :1, :], axis=1),
            "tril": n.tril(a, k=-1),
            "triu": n.triu(a, k=1),
            "unstack": n.unstack(a, axis=1)[2],
            "diff": n.diff(a, axis=1, n=2),
            "mesh": n.meshgrid(n.arange(3), n.arange(2))[0],
            "broadcast": n.broadcast_to(a[:, :1, :], (2, 5, 4)),
        }

    both(family)


def test_products() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 3, 4)), draw.standard_normal((4, 5))
    i = draw.integers(-99, 99, (3, 3)).astype("int16")

    def family(n: Any) -> dict[str, Any]:
        x, y = n.asarray(a), n.asarray(b)
        return {
            "matmul": x @ y,
            "vector": y.T @ y[:, 0],
            "transposed": n.matrix_transpose(x),
            "tensordot": n.tensordot(x, y, axes=1),
            "axes": n.tensordot(x, x, axes=((0, 2), (0, 2))),
            "vecdot": n.vecdot(x, x[:1, ...]),
            "integers": n.asarray(i) @ n.asarray(i),
        }

    both(family)


def test_indexing() -> None:
    x = np.arange(60).reshape(3, 4, 5)
    keys: list[Any] = [1, (slice(None, None, -2),), (..., 3), (0, slice(1, 3), -1), (slice(2, 0),)]
    keys += [(slice(-1, None, -1), 2), (slice(None), slice(3, None, -2), slice(0, 9, 3))]
    pairs = [([2, 0], [1, -1]), ([[0], [2]], [1, 3])]

    def family(n: Any) -> dict[str, Any]:
        a = n.asarray(x)
        found = {str(key): a[key] for key in keys}
        found |= {str(p): a[n.asarray(p[0]), n.asarray(p[1]), :] for p in pairs}
        found["middle"] = a[:, n.asarray([3, 0]), :]
        found["new"] = a[:, None, 0, :]
        found["take"] = n.take(a, n.asarray([1, 1, 0]), axis=2)
        found["along"] = n.take_along_axis(a, n.argsort(-a, axis=1), axis=1)
        return found

    both(family)


def test_what_depends_on_data() -> None:
    x = np.asarray([3, 1, 3, 0, 1])
    a = xp.asarray(x)
    agree(
        {"mask": a[a > 1], "values": xp.unique_values(a)},
        {"mask": x[x > 1], "values": np.unique(x)},
    )
    agree({"nonzero": xp.nonzero(a)[0]}, {"nonzero": np.nonzero(x)[0]})
    assert [one.tolist() for one in xp.unique_counts(a)] == [[0, 1, 3], [1, 2, 2]]
    assert xp.searchsorted(xp.asarray([1.0, 2.0]), xp.asarray([2.0, 0.0, 9.0])).tolist() == [
        1,
        0,
        2,
    ]


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_promotion_is_that_of_the_strict_reference(data: st.DataObject) -> None:
    strict = pytest.importorskip("array_api_strict")
    names = st.sampled_from(["bool", "int8", "int64", "uint8", "uint64", "float32", "float64"])
    left, right = data.draw(names), data.draw(names)
    shapes = data.draw(arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3))
    a, b = (np.ones(s, d) for s, d in zip(shapes.input_shapes, (left, right)))
    name = data.draw(st.sampled_from(["add", "bitwise_and", "less", "divide", "equal"]))
    try:
        expected = getattr(strict, name)(strict.asarray(a), strict.asarray(b))
    except TypeError:
        with pytest.raises(TypeError):
            getattr(xp, name)(xp.asarray(a), xp.asarray(b))
        return
    found = getattr(xp, name)(xp.asarray(a), xp.asarray(b))
    assert (str(found.dtype), found.shape) == (str(expected.dtype).split(".")[-1], expected.shape)


def test_integers_that_overflow_wrap_below_64_bits() -> None:
    a, b = xp.asarray([200, 100], dtype="uint8"), xp.asarray([100, 120], dtype="int8")
    found = [a + a, a * a, a - xp.asarray([201, 0], dtype="uint8"), b + b]
    assert [one.tolist() for one in found] == [[144, 200], [64, 16], [255, 100], [-56, -16]]


def test_division_of_integers_by_zero_does_not_end_the_process() -> None:
    least = np.iinfo("int64").min
    a, b = xp.asarray([7, least]), xp.asarray([0, -1])
    assert (a // b).tolist()[0] == 0
    assert (a % b).tolist() == [0, 0]


def test_mistakes_are_found_at_the_call() -> None:
    a, b = xp.ones((2, 3)), xp.ones((4,))
    with pytest.raises(ShapeError, match=r"add: shapes \(2, 3\) and \(4,\)"):
        a + b
    with pytest.raises(ShapeError, match=r"matmul: inner sizes of shapes \(2, 3\) and \(4,\)"):
        a @ b
    with pytest.raises(ShapeError, match=r"reshape: shape \(2, 3\) cannot become \(4, 2\)"):
        xp.reshape(a, (4, 2))
    with pytest.raises(TypeError, match="complex128 is not supported"):
        xp.asarray(np.ones(2, complex))
    with pytest.raises(TypeError, match="int64 and float32 do not promote"):
        xp.asarray([1]) + a
    with pytest.raises(TypeError, match="Python float"):
        xp.asarray([1]) * 0.5
    with pytest.raises(TypeError):
        a + np.ones((2, 3))
    with pytest.raises(IndexError, match="index 5 is out of range for axis 1"):
        a[0, 5]
    with pytest.raises(TypeError, match="sqrt takes real floating"):
        xp.sqrt(xp.asarray([1]))


def test_constants_that_are_no_numbers() -> None:
    assert xp.full((2,), float("inf")).tolist() == [np.inf, np.inf]
    assert np.isnan(float(xp.mean(xp.zeros((0,)))))
    assert np.isnan(float(xp.var(xp.asarray(float("nan")))))
    assert xp.signbit(xp.tanh(xp.asarray(-0.0)))


def test_what_no_program_ran_is_not_computed() -> None:
    x = xp.asarray(np.ones(3))
    dropped = xp.exp(x)
    kept = x + 1.0
    del dropped
    assert kept.tolist() == [2.0, 2.0, 2.0]
