"""Sorts and scans: kernels of the CPU room that are written with their loops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime.artifact import Artifact
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

X = np.random.default_rng(0).permutation(24).reshape(4, 6).astype(np.float32)


def built(
    operator: Callable[[relax.Var], relax.Expr],
    root: Path,
    shape: tuple[int | str, ...] = ("n", 6),
    dtype: str = "float32",
) -> Artifact:
    """One operator over `shape`, with one result."""
    sizes = [tirx.Var(size, "int64") if isinstance(size, str) else size for size in shape]
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(sizes, dtype))
    with block.function("main", [x]):
        with block.dataflow():
            result = block.emit(operator(x))
            output = block.emit_output(relax.Tuple([result]))
        block.emit_func_output(output)
    out = tuple(f"m{i}" for i in range(result.ty.ndim))
    outputs = (TensorSpec("y", str(result.ty.dtype.dtype), out),)
    function = FunctionSpec("main", (TensorSpec("x", dtype, shape),), outputs)
    graph = CapturedGraph(block.get(), Signature((function,)), {})
    options = nexus_compiler.CompileOptions(store=LocalStore(root))
    return nexus_compiler.compile(graph, options=options)


CASES = {
    "sort": (lambda x: relax.op.sort(x, axis=1), np.sort(X, axis=1)),
    "sort down": (lambda x: relax.op.sort(x, axis=1, descending=True), -np.sort(-X, axis=1)),
    "argsort": (lambda x: relax.op.argsort(x, axis=1), np.argsort(X, axis=1)),
    "topk": (lambda x: relax.op.topk(x, k=2, axis=1, ret_type="values"), -np.sort(-X, 1)[:, :2]),
    "cumsum": (lambda x: relax.op.cumsum(x, axis=1), np.cumsum(X, axis=1)),
    "cumprod": (lambda x: relax.op.cumprod(x, axis=0), np.cumprod(X, axis=0)),
}


@pytest.mark.parametrize("name", CASES)
def test_results(name: str, tmp_path: Path) -> None:
    operator, expected = CASES[name]
    np.testing.assert_allclose(
        nexus_runtime.load(built(operator, tmp_path))(X), expected, rtol=1e-6
    )


def test_they_run_without_the_compiler(tmp_path: Path) -> None:
    path = built(CASES["sort"][0], tmp_path).save(tmp_path / "sort.nxa")
    code = (
        "import sys, numpy, nexus_runtime; x = numpy.ones((2, 6), 'float32')\n"
        f"print(nexus_runtime.load({str(path)!r})(x).sum(), 'tvm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12.0", "False"]


def elements(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """With many equal ones, and all that is special about the type."""
    source = np.random.default_rng(1)
    if dtype.startswith("float"):
        x = source.normal(size=shape) * 3
        x = np.where(source.random(shape) < 0.4, np.round(x), x)
        special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-44, -1e-44]
        return np.where(source.random(shape) < 0.1, source.choice(special, shape), x).astype(dtype)
    ends = np.iinfo(dtype)
    x = source.integers(ends.min, ends.max, shape, dtype, endpoint=True)
    x = np.where(source.random(shape) < 0.5, x % np.array(5, dtype), x)
    limits = np.array([ends.min, ends.max], dtype)
    return np.where(source.random(shape) < 0.1, source.choice(limits, shape), x).astype(dtype)


def in_order(x: np.ndarray, axis: int, *, down: bool) -> np.ndarray:
    """The places of elements, by comparing pairs; NaN is greater than every number."""
    rows = np.moveaxis(x, axis, -1)
    one, other = rows[..., :, None], rows[..., None, :]
    less = (one < other) | (~np.isnan(one) & np.isnan(other))
    less = np.swapaxes(less, -1, -2) if down else less
    equal = ~less & ~np.swapaxes(less, -1, -2)
    places = np.arange(rows.shape[-1])
    before = np.swapaxes(less, -1, -2) | (equal & (places[None, :] < places[:, None]))
    return np.moveaxis(np.argsort(before.sum(-1), axis=-1, kind="stable"), -1, axis)


DTYPES = ["float64", "float32", "float16", "int64", "uint64", "int32", "uint32", "uint8", "int8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 20), (2, 150, 3)], ids=["counting", "digits"])
@pytest.mark.parametrize("down", [False, True])
def test_order_of_each_type(dtype: str, shape: tuple[int, ...], down: bool, tmp_path: Path) -> None:
    x = elements(dtype, shape)
    found = nexus_runtime.load(
        built(
            lambda x: relax.op.argsort(x, axis=1, descending=down, dtype="int64"),
            tmp_path,
            shape,
            dtype,
        )
    )(x)
    np.testing.assert_array_equal(found, in_order(x, 1, down=down))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
@pytest.mark.parametrize(("k", "count"), [(3, 40), (1, 600), (9, 600), (20, 600), (150, 200)])
@pytest.mark.parametrize("largest", [False, True])
def test_the_first_of_each_type(
    dtype: str, k: int, count: int, largest: bool, tmp_path: Path
) -> None:
    x = elements(dtype, (2, count))
    found = nexus_runtime.load(
        built(
            lambda x: relax.op.topk(x, k, 1, "indices", largest, "int64"), tmp_path, x.shape, dtype
        )
    )(x)
    np.testing.assert_array_equal(found, in_order(x, 1, down=largest)[:, :k])


@pytest.mark.parametrize("values", [np.zeros, np.arange, lambda n: -np.arange(n)])
def test_the_first_of_rows_that_leave_much(values: Any, tmp_path: Path) -> None:
    """Of equal elements all may be among the first."""
    x = np.broadcast_to(values(1000), (2, 1000)).astype(np.float32).copy()
    found = nexus_runtime.load(
        built(
            lambda x: relax.op.topk(x, 12, 1, "indices", largest=True, dtype="int64"),
            tmp_path,
            x.shape,
        )
    )(x)
    np.testing.assert_array_equal(found, in_order(x, 1, down=True)[:, :12])


@pytest.mark.parametrize("kind", ["argsort", "topk"])
def test_open_sizes(kind: str, tmp_path: Path) -> None:
    """Rows of few and of many elements, and none at all."""
    operators = {
        "argsort": lambda x: relax.op.argsort(x, axis=0, dtype="int64"),
        "topk": lambda x: relax.op.topk(x, 4, 0, "indices", largest=False, dtype="int64"),
    }
    module = nexus_runtime.load(built(operators[kind], tmp_path, ("n", "m")))
    for shape in [(4, 3), (30, 2), (200, 2), (700, 1), (5, 0)]:
        x = elements("float32", shape)
        wanted = in_order(x, 0, down=False)
        np.testing.assert_array_equal(module(x), wanted[:4] if kind == "topk" else wanted)


@pytest.mark.parametrize("axis", [0, 1, 2, None])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("product", [False, True])
def test_scans_along_each_axis(
    axis: int | None, exclusive: bool, product: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (3, 5, 70)).astype(np.int32)
    make = relax.op.cumprod if product else relax.op.cumsum
    found = nexus_runtime.load(
        built(lambda x: make(x, axis, "int64", exclusive), tmp_path, ("n", 5, "m"), "int32")
    )(x)
    combine = np.cumprod if product else np.cumsum
    wanted = combine(x, axis=axis, dtype=np.int64)
    if exclusive:
        before = np.full_like(np.take(wanted, [0], axis or 0), int(product))
        kept = np.take(wanted, range(wanted.shape[axis or 0] - 1), axis or 0)
        wanted = np.concatenate([before, kept], axis or 0)
    np.testing.assert_array_equal(found, wanted)
