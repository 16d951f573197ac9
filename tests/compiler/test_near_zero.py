"""Functions that are all but a line near zero, from every frontend: against float64, in digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_models import single
from torch_models import F, nn, torch

import nexus_compiler
from nexus_runtime import load

xp = nexus_compiler.array_api
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


# What is meant, and by how many units in the last place of float32 it may be off.
REFERENCES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "log1p": (np.log1p, 4),
    "expm1": (np.expm1, 3),
    "atanh": (np.arctanh, 6),
    "softplus": (softplus, 4),
}
TORCH = {"log1p": torch.log1p, "expm1": torch.expm1, "atanh": torch.atanh, "softplus": F.softplus}


def inputs(name: str, dtype: str) -> np.ndarray:
    """Every size down to the smallest normal number, both signs, and what is no number."""
    source = np.random.default_rng(0)
    smallest = {"float16": -14, "float32": -126, "float64": -300}[dtype]
    sizes = 2.0 ** source.uniform(smallest, -0.01, 2000)
    usual = source.uniform(-0.95, 0.95 if name == "atanh" else 20, 2000)
    odd = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
    values = np.concatenate([sizes, -sizes, usual, odd]).astype(dtype)
    return values[values > -80] if name == "softplus" else values  # below, float32 ends


def check(name: str, found: np.ndarray, x: np.ndarray, units: float) -> None:
    """`units` in the last place of the type of `x`; signs of zeros, infinities and NaN too."""
    with np.errstate(all="ignore"):
        exact = REFERENCES[name][0](x.astype(np.float64))
        rounded = exact.astype(x.dtype)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(rounded))
    np.testing.assert_array_equal(np.signbit(found[exact == 0]), np.signbit(exact[exact == 0]))
    finite = np.isfinite(rounded)
    error = np.abs(found[finite].astype(np.float64) - exact[finite])
    step = np.spacing(np.maximum(np.abs(rounded[finite]), np.finfo(x.dtype).tiny))
    assert (error / step.astype(np.float64)).max() <= units


def run(graph: Any, x: np.ndarray) -> np.ndarray:
    return load(nexus_compiler.compile(graph), num_threads=1)(x)


class Whole(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", REFERENCES)
def test_of_pytorch(name: str, dtype: str) -> None:
    x = inputs(name, dtype)
    model = Whole(TORCH[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = nexus_compiler.capture(model, (torch.from_numpy(x),))
    # Half precision is computed in float32, and rounded once; softplus adds in it.
    units = REFERENCES[name][1] if dtype == "float32" else 1.5
    check(name, run(graph, x), x, units)


def test_of_integers() -> None:
    """PyTorch takes them for floats."""
    model = Whole(lambda x: torch.log1p(x) + torch.atanh(x * 0))
    x = np.arange(7)
    graph = nexus_compiler.capture(model, (torch.from_numpy(x),))
    np.testing.assert_allclose(run(graph, x), np.log1p(x), rtol=1e-6)


@pytest.mark.parametrize("name", ["atanh", "softplus"])
def test_of_onnx(name: str) -> None:
    x = inputs(name, "float32")
    proto, _ = single(name.capitalize(), [x])
    check(name, run(nexus_compiler.capture(proto), x), x, REFERENCES[name][1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["log1p", "expm1", "atanh"])
def test_of_traced_code(name: str, dtype: str) -> None:
    x = inputs(name, dtype)
    found = nexus_compiler.jit(lambda: getattr(xp, name)(xp.asarray(x)))()
    check(name, np.asarray(found), x, REFERENCES[name][1])
