"""Attention as one kernel: every form in which it arrives, against its definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schedule_support import MACHINES, graph, modules, walk
from tvm import relax, tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.fuse_attention import FuseAttention
from nexus_compiler.passes.legalize import Legalize

Array = np.ndarray[Any, Any]
NORMAL = np.finfo(np.float32)


def kernels(shapes: Any, build: Any, **options: int) -> list[tirx.PrimFunc]:
    steps = (FuseAttention(), Legalize(), Fuse(), Schedule(**options))
    functions = base.run(graph(shapes, build).module, steps).functions.values()
    return [function for function in functions if isinstance(function, tirx.PrimFunc)]


def families(found: list[tirx.PrimFunc]) -> list[str]:
    return [str(kernel.attrs["nexus.family"]) for kernel in found]


def definition(
    q: Array, k: Array, v: Array, change: Callable[[Array], Array] = lambda s: s
) -> Array:
    with np.errstate(all="ignore"):
        scores = change(q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64))
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True) @ v.astype(np.float64)


def agree(found: Array, expected: Array, values: Array) -> None:
    """Weights are positive and sum to one: errors are in units of the largest value.

    exp turns an absolute error of a score into a relative one of a weight.
    """
    finite = np.abs(values[np.isfinite(values)])
    bound = 500 * NORMAL.eps * finite.max(initial=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def numbers(*shapes: tuple[int, ...]) -> list[Array]:
    source = np.random.default_rng(3)
    return [source.standard_normal(shape).astype(np.float32) for shape in shapes]


def run(root: Path, shapes: Any, build: Any, arrays: list[Array], expected: Array) -> None:
    for module in modules(root, graph(shapes, build)):
        agree(np.asarray(module(*arrays)), expected, arrays[2])


def plain(q: Any, k: Any, v: Any) -> relax.Expr:
    scores = op.matmul(q, op.permute_dims(k, [0, 1, 3, 2]))
    return op.matmul(op.nn.softmax(op.multiply(scores, relax.const(0.25, "float32"))), v)


@pytest.mark.parametrize(
    "rows, keys, steps, wide",
    [
        (7, 13, 16, 24),
        (17, 64, 64, 64),
        (131, 257, 19, 33),
        (300, 401, 8, 16),
        (1, 1009, 40, 36),
        (3, 77, 5, 7),
        (5, 2, 3, 2),
    ],
)
def test_sizes(tmp_path: Path, rows: int, keys: int, steps: int, wide: int) -> None:
    shapes = [(2, 3, rows, steps), (2, 3, keys, steps), (2, 3, keys, wide)]
    for options in MACHINES:
        found = kernels(shapes, plain, **options)
        assert families(found) == ["attention"]
        if rows * keys < 3000:
            walk(found[0], {})
    arrays = numbers(*shapes)
    run(tmp_path, shapes, plain, arrays, definition(*arrays, change=lambda s: s / 4))


@pytest.mark.parametrize("rows, keys", [(1, 5), (9, 9), (40, 130), (33, 700), (1, 600)])
def test_open_sizes(tmp_path: Path, rows: int, keys: int) -> None:
    shapes = [(1, 2, "n", 16), (1, 2, "m", 16), (1, 2, "m", 16)]
    for options in MACHINES:
        found = kernels(shapes, plain, **options)
        assert families(found) == ["attention"]
        if rows * keys < 100:
            walk(found[0], {"n": rows, "m": keys})
    arrays = numbers((1, 2, rows, 16), (1, 2, keys, 16), (1, 2, keys, 16))
    run(tmp_path, shapes, plain, arrays, definition(*arrays, change=lambda s: s / 4))


@pytest.mark.parametrize("rows, keys", [(20, 50), (20, 500), (1, 50), (1, 1500)])
def test_masks_that_are_added(tmp_path: Path, rows: int, keys: int) -> None:
    """Whole blocks, the first ones, the last ones, and whole rows are hidden."""
    shapes = [(1, 2, rows, 16), (1, 2, keys, 16), (1, 2, keys, 16), (1, 1, rows, keys)]

    def build(q: Any, k: Any, v: Any, mask: Any) -> relax.Expr:
        scores = op.matmul(q, op.permute_dims(k, [0, 1, 3, 2]))
        return op.matmul(op.nn.softmax(op.add(scores, mask)), v)

    arrays = numbers(*shapes)
    for hidden in (slice(0, keys * 3 // 4), slice(keys // 4, keys), slice(0, keys)):
        mask = np.where(arrays[3] > 1, -np.inf, arrays[3]).astype(np.float32)
        mask[..., rows // 2 :, hidden] = -np.inf
        expected = definition(*arrays[:3], change=lambda s, mask=mask: s + mask)
        assert np.isnan(expected).any() == (hidden == slice(0, keys))
        run(tmp_path, shapes, build, [*arrays[:3], mask], expected)
    lowest = np.full_like(arrays[3], NORMAL.min)
    run(
        tmp_path,
        shapes,
        build,
        [*arrays[:3], lowest],
        definition(*arrays[:3], change=lambda s: 0 * s),
    )


@pytest.mark.parametrize("rows, keys", [(12, 40), (12, 400), (1, 40)])
def test_causal_capped_and_shared(tmp_path: Path, rows: int, keys: int) -> None:
    """Later keys hidden by a condition, scores bent by tanh, four heads of two keys."""
    shapes = [(2, 4, rows, 16), (2, 2, keys, 16), (2, 2, keys, 16)]

    def shared(x: Any) -> relax.Expr:
        wide = op.broadcast_to(op.expand_dims(x, [2]), (2, 2, 2, keys, 16))
        return op.reshape(wide, (2, 4, keys, 16))

    def build(q: Any, k: Any, v: Any) -> relax.Expr:
        scores = op.matmul(q, op.permute_dims(shared(k), [0, 1, 3, 2]))
        two = relax.const(2.0, "float32")
        scores = op.multiply(op.tanh(op.divide(scores, two)), two)
        place = op.expand_dims(op.arange(0, rows, 1, "int64"), [1])
        seen = op.less_equal(op.arange(0, keys, 1, "int64"), place)
        scores = op.where(seen, scores, relax.const(-np.inf, "float32"))
        return op.matmul(op.nn.softmax(scores), shared(v))

    arrays = numbers(*shapes)
    repeated = [np.repeat(array, 2, axis=1) for array in arrays[1:]]
    hidden = np.arange(keys) > np.arange(rows)[:, None]

    def change(scores: Array) -> Array:
        return np.where(hidden, -np.inf, np.tanh(scores / 2) * 2)

    assert "attention" in families(kernels(shapes, build))
    run(tmp_path, shapes, build, arrays, definition(arrays[0], *repeated, change=change))


@pytest.mark.parametrize("rows", [1, 24])
def test_heads_are_cut_and_put_together_in_the_kernel(tmp_path: Path, rows: int) -> None:
    shapes = [(2, rows, 48), (2, 29, 48), (2, 29, 48)]

    def heads(x: Any) -> relax.Expr:
        count = int(x.ty.shape[1])
        return op.permute_dims(op.reshape(x, (2, count, 3, 16)), [0, 2, 1, 3])

    def build(q: Any, k: Any, v: Any) -> relax.Expr:
        found = op.permute_dims(plain(heads(q), heads(k), heads(v)), [0, 2, 1, 3])
        return op.reshape(found, (2, rows, 48))

    found = kernels(shapes, build)
    assert families(found) == ["attention"] and "matmul_intermediate" not in found[0].script()
    arrays = numbers(*shapes)
    cut = [a.reshape(2, -1, 3, 16).transpose(0, 2, 1, 3) for a in arrays]
    expected = definition(*cut, change=lambda s: s / 4).transpose(0, 2, 1, 3).reshape(2, rows, 48)
    run(tmp_path, shapes, build, arrays, expected)


def test_old_and_new_keys_are_not_put_together(tmp_path: Path) -> None:
    shapes = [(1, 2, 1, 16), *[(3, 1, 2, 30, 16)] * 2, *[(1, 2, 1, 16)] * 2]

    def grown(past: Any, new: Any) -> relax.Expr:
        layer = op.strided_slice(past, [0], [1], [2])
        return op.concat([op.squeeze(layer, [0]), new], 2)

    def build(q: Any, old_k: Any, old_v: Any, k: Any, v: Any) -> relax.Expr:
        return plain(q, grown(old_k, k), grown(old_v, v))

    assert families(kernels(shapes, build)) == ["attention"]
    arrays = numbers(*shapes)
    whole = [np.concatenate([arrays[i][1], arrays[i + 2]], 2) for i in (1, 2)]
    run(tmp_path, shapes, build, arrays, definition(arrays[0], *whole, change=lambda s: s / 4))


@pytest.mark.parametrize("rows, keys", [(8, 30), (8, 300), (1, 30), (1, 900)])
@pytest.mark.parametrize("odd", [1e4, -1e4, np.inf, -np.inf, np.nan])
def test_large_and_odd_scores(tmp_path: Path, rows: int, keys: int, odd: float) -> None:
    shapes = [(1, 1, rows, 16), (1, 1, keys, 16), (1, 1, keys, 16)]
    arrays = numbers(*shapes)
    arrays[0][0, 0, rows // 2, 3] = odd
    expected = definition(*arrays, change=lambda s: s / 4)
    run(tmp_path, shapes, plain, arrays, expected)


def test_rows_may_be_cleared(tmp_path: Path) -> None:
    """ONNX's Attention: a query that sees no key gets zeros."""
    shapes = [(1, 2, 6, 16), (1, 2, 20, 16), (1, 2, 20, 16), (1, 1, 6, 20)]

    def build(q: Any, k: Any, v: Any, mask: Any) -> relax.Expr:
        scores = op.add(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])), mask)
        some = op.greater(op.max(mask, [-1], True), relax.const(-np.inf, "float32"))
        zero = relax.const(0.0, "float32")
        return op.matmul(op.where(some, op.nn.softmax(scores), zero), v)

    assert "attention" in families(kernels(shapes, build))
    arrays = numbers(*shapes)
    arrays[3][0, 0, 4] = -np.inf
    expected = definition(*arrays[:3], change=lambda s: s + arrays[3])
    expected[:, :, 4] = 0
    run(tmp_path, shapes, build, arrays, expected)


def test_what_others_read_stays() -> None:
    """Weights that are a result, or go through a network of their own, keep their tensor."""
    shapes = [(1, 2, 8, 16)] * 3

    def both(q: Any, k: Any, v: Any) -> relax.Expr:
        shares = op.nn.softmax(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])))
        return op.add(op.matmul(shares, v), op.sum(shares, [-1], True))

    def doubled(q: Any, k: Any, v: Any) -> relax.Expr:
        shares = op.nn.softmax(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])))
        return op.matmul(op.multiply(shares, shares), v)

    for build in (both, doubled):
        assert "attention" not in families(kernels(shapes, build))
