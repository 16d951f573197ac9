from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_runtime import guards
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

SPEC = FunctionSpec(
    "main",
    inputs=(TensorSpec("x", "float32", ("batch", 4)), TensorSpec("y", "int64", ("batch",))),
    outputs=(TensorSpec("z", "float32", ("2*batch",)),),
)


def arrays(batch: int = 3, width: int = 4, rows: int | None = None) -> dict[str, np.ndarray]:
    return {
        "x": np.zeros((batch, width), np.float32),
        "y": np.zeros(batch if rows is None else rows, np.int64),
    }


def test_sizes_of_open_dimensions() -> None:
    assert SPEC.check(arrays(3)) == {"batch": 3}
    assert SPEC.check(arrays(0)) == {"batch": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (arrays(width=5), "input 'x' is 5 long on axis 1, but must be 4"),
        (arrays(rows=2), "input 'y' is 2 long on axis 0, but must be 3 (dimension 'batch')"),
        ({"x": arrays()["x"]}, "input 'y' is missing"),
        ({**arrays(), "xx": arrays()["x"]}, "'main' has no input 'xx'"),
        ({**arrays(), "x": np.zeros((3, 4))}, "input 'x' is float64, but the model takes float32"),
        ({**arrays(), "x": np.zeros(3, np.float32)}, "input 'x' has 1 dimensions [3]"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SPEC.check(given)
    assert message in caught.value.message


def test_unknown_function_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean main"):
        Signature((SPEC,)).function("mian")


def test_guards_are_checked_and_named() -> None:
    spec = msgspec.structs.replace(SPEC, guards=("batch <= 8", "batch % 2 == 0"))
    assert spec.check(arrays(6)) == {"batch": 6}
    with pytest.raises(InputError) as caught:
        spec.check(arrays(10))
    told = "input 'x' is 10 long on axis 0 (dimension 'batch'), but 'main' needs batch <= 8"
    assert caught.value.message == told
    with pytest.raises(InputError, match="'main' needs batch % 2 == 0"):
        spec.check(arrays(3))


def test_a_guard_over_two_dimensions_names_both() -> None:
    spec = FunctionSpec(
        "main",
        (TensorSpec("x", "float32", ("rows",)), TensorSpec("y", "float32", (2, "past"))),
        (),
        guards=("past == 2*rows + 1",),
    )
    given = {"x": np.zeros(3, np.float32), "y": np.zeros((2, 7), np.float32)}
    assert spec.check(given) == {"rows": 3, "past": 7}
    given["y"] = given["y"][:, 1:]
    with pytest.raises(InputError, match="'y' is 6 long on axis 1 .* and input 'x' is 3 long"):
        spec.check(given)


def test_guards_on_unknown_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="no input has a dimension 'rows'"):
        msgspec.structs.replace(SPEC, guards=("rows < 3",))


@given(st.integers(0, 99), st.integers(0, 9))
def test_conditions_are_pythons(a: int, b: int) -> None:
    condition = "not (a % b == 1 or max(a, 2*b) - 1 < 7) and a // b >= -b"
    wanted = b > 0 and not (a % b == 1 or max(a, 2 * b) - 1 < 7) and a // b >= -b
    assert guards.holds(condition, {"a": a, "b": b}) == wanted
    assert set(guards.dimensions(condition)) == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    ["", "a <", "a.b", "a[0]", "f(a)", "min(a)", "max(a, key=b)", "2 ** a", "a << 9", "'a' < b",
     "1.5 < a", "lambda: a", "(" * 300 + "a" + ")" * 300, "a + " * 900 + "a", "[a]", "a := 3",
     "99999999999999999999 > a"],
)  # fmt: skip
def test_other_code_is_no_condition(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        guards.dimensions(text)
