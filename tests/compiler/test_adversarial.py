"""Operators on NaN, infinities, denormals, numbers near the limits, nothing, and odd strides.

Against their definitions in float64, within what the dtype allows. All operators are one module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
from schedule_support import TARGETS
from tvm import relax, tirx
from tvm.relax import op

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

Array = np.ndarray[Any, Any]
COLUMNS = 37
FLOAT = np.finfo(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((COLUMNS, 5)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """An operator.

    Attributes:
        build: its Relax.
        define: what it means, in float64.
        steps: roundings (in units in the last place) that its result may be away.
        sums: its error is in units of the largest of these, not of the result.
        leaves_out: kinds of inputs that it answers in another way; the reason is beside it.
    """

    build: Callable[[Any], Any]
    define: Callable[[Array], Array]
    steps: int = 0
    sums: Callable[[Array], Array] | None = None
    leaves_out: tuple[str, ...] = ()


# Squares of the largest numbers are infinite.
_OVERFLOW = ("large", "at the limits")


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _norm(x: Array) -> Array:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)


def _size(x: Array) -> Array:
    return np.abs(x).sum(1)


def _ones(x: Array) -> Array:
    return np.ones(len(x))


def _layer_norm(x: Any) -> Any:
    ones, zeros = (relax.const(np.full(COLUMNS, v, np.float32)) for v in (1, 0))
    return op.nn.layer_norm(x, ones, zeros, axes=[-1])


# Where a product leaves the numbers, and whether it comes back, depends on its order.
_PRODUCTS = ("denormal", "large", "at the limits", "beyond exp")


def _not_nothing(x: Any) -> Any:
    """There is no largest of nothing."""
    return op.concat([x, op.negative(x)], 0)


def _pool(x: Any) -> Any:
    image = op.expand_dims(x, [0, 1])
    return op.squeeze(op.nn.max_pool2d(image, (1, 3), (1, 2), (0, 1)), [0, 1])


def _windows(x: Array) -> Array:
    wide = np.pad(x, ((0, 0), (1, 1)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(wide, 3, axis=1)[:, ::2].max(-1)


CASES = {
    "abs": Case(op.abs, np.abs),
    "negative": Case(op.negative, np.negative),
    "floor": Case(op.floor, np.floor),
    "ceil": Case(op.ceil, np.ceil),
    "round": Case(op.round, np.round),
    # Of NaN it is 0, as PyTorch has it.
    "sign": Case(op.sign, lambda x: np.nan_to_num(np.sign(x), nan=0)),
    "relu": Case(op.nn.relu, lambda x: np.maximum(x, 0)),
    "maximum": Case(lambda x: op.maximum(x, op.negative(x)), lambda x: np.maximum(x, -x)),
    "minimum": Case(lambda x: op.minimum(x, op.negative(x)), lambda x: np.minimum(x, -x)),
    "clip": Case(lambda x: op.clip(x, -2, 2), lambda x: np.clip(x, -2, 2)),
    "isnan": Case(op.isnan, np.isnan),
    "isinf": Case(op.isinf, np.isinf),
    "less": Case(lambda x: op.less(x, op.flip(x, 1)), lambda x: x < x[:, ::-1]),
    "unequal": Case(
        lambda x: op.not_equal(x, op.flip(x, 1)),
        lambda x: x != x[:, ::-1],
    ),
    "equal": Case(lambda x: op.equal(x, x), lambda x: ~np.isnan(x)),
    "not_equal": Case(lambda x: op.not_equal(x, x), np.isnan),
    "where": Case(
        lambda x: op.where(op.greater(x, relax.const(0.0)), x, op.flip(x, 1)),
        lambda x: np.where(x > 0, x, x[:, ::-1]),
    ),
    "transpose": Case(op.permute_dims, np.transpose),
    "sqrt": Case(op.sqrt, np.sqrt, 1),
    "divide": Case(lambda x: op.divide(relax.const(1.0), x), lambda x: 1 / x, 1),
    "square": Case(op.square, np.square, 1),
    "exp": Case(op.exp, np.exp, 2),
    "log": Case(op.log, np.log, 2),
    "tanh": Case(op.tanh, np.tanh, 7),
    "sigmoid": Case(op.sigmoid, scipy.special.expit, 4),
    "erf": Case(op.erf, scipy.special.erf, 7),
    "max": Case(lambda x: op.max(x, 1), lambda x: x.max(1)),
    "min": Case(lambda x: op.min(x, 1), lambda x: x.min(1)),
    "max of columns": Case(lambda x: op.max(x, 0, True), lambda x: x.max(0, keepdims=True)),
    "min of columns": Case(lambda x: op.min(x, 0, True), lambda x: x.min(0, keepdims=True)),
    "argmax": Case(lambda x: op.argmax(x, 1), lambda x: x.argmax(1)),
    "argmin": Case(lambda x: op.argmin(x, 1, True), lambda x: x.argmin(1, keepdims=True)),
    "argmax of columns": Case(
        lambda x: op.argmax(_not_nothing(x), 0), lambda x: np.concatenate([x, -x]).argmax(0)
    ),
    "prod": Case(lambda x: op.prod(x, 1), lambda x: x.prod(1), COLUMNS, leaves_out=_PRODUCTS),
    "largest of two": Case(
        lambda x: op.maximum(x, op.flip(x, 1)), lambda x: np.maximum(x, x[:, ::-1])
    ),
    "smallest of two": Case(
        lambda x: op.minimum(op.flip(x, 1), x), lambda x: np.minimum(x, x[:, ::-1])
    ),
    "pool": Case(_pool, _windows),
    "clip by tensors": Case(
        lambda x: op.minimum(op.maximum(x, op.negative(op.abs(x))), op.flip(x, 1)),
        lambda x: np.minimum(np.maximum(x, -np.abs(x)), x[:, ::-1]),
    ),
    "sum": Case(lambda x: op.sum(x, 1), lambda x: x.sum(1), COLUMNS, _size),
    "mean": Case(lambda x: op.mean(x, 1), lambda x: x.mean(1), COLUMNS, _size),
    "matmul": Case(
        lambda x: op.matmul(x, relax.const(WEIGHTS)),
        lambda x: x @ WEIGHTS.astype(np.float64),
        COLUMNS,
        lambda x: (np.abs(x) @ np.abs(WEIGHTS).astype(np.float64)).max(1, keepdims=True),
    ),
    "softmax": Case(lambda x: op.nn.softmax(x, 1), _softmax, COLUMNS),
    "layer_norm": Case(_layer_norm, _norm, 8 * COLUMNS, lambda x: _ones(x)[:, None], _OVERFLOW),
}


def _graph() -> CapturedGraph:
    block, rows = relax.BlockBuilder(), tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((rows, COLUMNS), "float32"))
    specs: list[TensorSpec] = []
    with block.function("main", [x]):
        with block.dataflow():
            found = [block.emit(case.build(x)) for case in CASES.values()]
            for name, value in zip(CASES, found):
                shape = tuple("n" if d is rows or str(d) == "n" else int(d) for d in value.ty.shape)
                specs.append(TensorSpec(name, str(value.ty.dtype), shape))
            output = block.emit_output(relax.Tuple(found))
        block.emit_func_output(output)
    given = (TensorSpec("x", "float32", ("n", COLUMNS)),)
    function = FunctionSpec("main", given, tuple(specs), ())
    return CapturedGraph(block.get(), Signature((function,), ()), {})


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> list[nexus_runtime.Module]:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    options = nexus_compiler.CompileOptions(store=store)
    artifact = nexus_compiler.compile(_graph(), targets=TARGETS, options=options)
    loaded: list[nexus_runtime.Module] = []
    for target in TARGETS:
        try:
            loaded.append(nexus_runtime.load(artifact, target=target))
        except nexus_runtime.DeviceError:
            continue
    return loaded


def _rows() -> Array:
    return np.random.default_rng(0).standard_normal((7, COLUMNS)).astype(np.float32)


def _with(*values: float) -> Array:
    """One of `values` in each row, at another place."""
    x = _rows()
    for row in range(len(x)):
        x[row, row * 5 % COLUMNS] = values[row % len(values)]
    return x


INPUTS: dict[str, Callable[[], Array]] = {
    "random": _rows,
    "nan": lambda: _with(np.nan, -np.nan),
    "infinite": lambda: _with(np.inf, -np.inf),
    "zeros": lambda: np.copysign(np.float32(0), _rows()),
    "denormal": lambda: _rows() * FLOAT.tiny / 8,
    "large": lambda: _rows() * np.float32(1e30),
    "at the limits": lambda: _with(FLOAT.max, FLOAT.min, FLOAT.tiny, -FLOAT.smallest_subnormal),
    "beyond exp": lambda: _with(88.7, 88.8, -87.4, -103.9, -104.1, 1000.0, -1000.0),
    "nothing": lambda: _rows()[:0],
}


def bound(case: Case, x: Array, wanted: Array) -> Array:
    """How far each element may be away; a function may lose what is below the normal numbers."""
    size = np.abs(wanted) if case.sums is None else case.sums(x) + 0 * np.abs(wanted)
    return case.steps * (FLOAT.eps * np.nan_to_num(size, nan=0, posinf=0) + FLOAT.tiny)


def assert_right(case: Case, kind: str, x: Array, found: Array) -> None:
    if kind in case.leaves_out or (kind == "nothing" and found.size):
        return
    with np.errstate(all="ignore"):
        exact = case.define(x.astype(np.float64))
        wanted = exact.astype(found.dtype)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        infinite = np.isinf(wanted)
        np.testing.assert_array_equal(found[infinite], wanted[infinite])
        rest = np.isfinite(wanted)
        apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        allowed = bound(case, x.astype(np.float64), wanted.astype(np.float64))
        assert (apart[rest] <= allowed[rest]).all(), (apart - allowed)[rest].max()


@pytest.mark.parametrize("kind", INPUTS)
def test_results_are_those_of_the_definitions(
    kind: str, modules: list[nexus_runtime.Module]
) -> None:
    x, wrong = INPUTS[kind](), dict[str, str]()
    for module in modules:
        outputs = module.run("main", {"x": x})
        for name, case in CASES.items():
            try:
                assert_right(case, kind, x, np.asarray(outputs[name]))
            except AssertionError as error:
                wrong[f"{name}, {module.target}"] = f"{error}"
    assert not wrong, "; ".join(sorted(wrong))


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "columns first": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "one place off": lambda x: np.concatenate([np.float32([0]), x.ravel()])[1:].reshape(x.shape),
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "read only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout: str, modules: list[nexus_runtime.Module]) -> None:
    x = LAYOUTS[layout](_with(np.nan, np.inf))
    for module in modules:
        found, plain = (module.run("main", {"x": a}) for a in (x, np.array(x, order="C")))
        for name in CASES:
            np.testing.assert_array_equal(found[name], plain[name])
