from __future__ import annotations

import numpy as np
import pytest

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
