"""Norms over groups of channels and means, against float64; and reshapes, which call nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schedule_support import check, graph, modules
from tvm import relax, tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm.donate import Donate
from nexus_compiler.codegen.llvm.pack import LegalizePacked
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.weights import DONATED

Array = np.ndarray[Any, Any]


def grouped(x: Array, scale: Array, offset: Array, groups: int, channel: int) -> Array:
    """In float64, channels second."""
    moved = np.moveaxis(x.astype(np.float64), channel, 1)
    rows = moved.reshape(len(x), groups, -1)
    normal = rows - rows.mean(-1, keepdims=True)
    normal /= np.sqrt(normal.var(-1, keepdims=True) + 1e-5)
    line = (1, -1, *[1] * (x.ndim - 2))
    result = normal.reshape(moved.shape) * scale.reshape(line) + offset.reshape(line)
    return np.moveaxis(result, 1, channel)


SIZES = [  # shape, the place of the channels, groups
    ((3, 12, 5, 7), 1, 4),
    ((2, 5, 7, 12), 3, 3),
    ((2, 10, 13), 1, 5),
    ((4, 14), 1, 7),
    (("n", 6, 3, 11), 1, 2),
]


@pytest.mark.parametrize("shape, channel, groups", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["group", "instance"])
def test_norms_of_groups(kind: str, shape: Any, channel: int, groups: int, tmp_path: Path) -> None:
    axes = [axis for axis in range(1, len(shape)) if axis != channel]
    if kind == "instance" and not axes:
        return
    many = groups if kind == "group" else shape[channel]

    def build(x: Any, scale: Any, offset: Any) -> Any:
        if kind == "instance":
            return op.nn.instance_norm(x, scale, offset, channel, axes)
        return op.nn.group_norm(x, scale, offset, groups, channel, axes)

    shapes = [shape, (shape[channel],), (shape[channel],)]
    check(tmp_path, shapes, build, lambda x, s, o: grouped(x, s, o, many, channel), n=3)


def test_far_from_zero(tmp_path: Path) -> None:
    # The mean of squares less the square of the mean has no digit left here.
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 9)).astype(np.float32) + np.float32(4096)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    captured = graph([x.shape, (8,), (8,)], lambda x, s, o: op.nn.group_norm(x, s, o, 2, 1, [2, 3]))
    wanted = grouped(x, ones, zeros, 2, 1)
    for module in modules(tmp_path, captured):
        # Sums of 324 numbers near 4096 are 2^-13 of a unit away, in each of 64 partial sums less.
        np.testing.assert_allclose(np.asarray(module(x, ones, zeros)), wanted, atol=4096 * 2**-21)


@pytest.mark.parametrize("axes", [[1], [0], [0, 2], [1, 2], None])
@pytest.mark.parametrize("shape", [(3, 7, 101), ("n", 5, 64)])
def test_means(shape: Any, axes: Any, tmp_path: Path) -> None:
    over = None if axes is None else tuple(axes)
    check(
        tmp_path,
        [shape],
        lambda x: op.add(op.mean(op.multiply(x, x), axes, keepdims=True), x),
        lambda x: (x.astype(np.float64) ** 2).mean(over, keepdims=True) + x,
        n=4,
    )


def kernels(captured: CapturedGraph) -> dict[str, str]:
    """The family of each kernel."""
    module = base.run(captured.module, (LegalizePacked(), Fuse(), Schedule()))
    found = {v.name_hint: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    return {name: str(function.attrs["nexus.family"]) for name, function in found.items()}


def test_reshapes_within_a_function_are_views(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return op.matmul(op.reshape(op.sum(x, 0), (5, 3)), op.reshape(op.sum(x, 0), (3, 5)))

    captured = graph([(4, 15)], build)
    assert "view" in kernels(captured).values()
    (native, *_) = modules(tmp_path, captured)
    (calls,) = native.trace(native.main.name, {"x0": np.ones((4, 15), np.float32)})
    assert not any(call.arguments == ((15,), (5, 3)) for call in calls)
    check(tmp_path, [(4, 15)], build, lambda x: x.sum(0).reshape(5, 3) @ x.sum(0).reshape(3, 5))


def test_what_is_written_over_is_not_seen_through_a_view() -> None:
    # The reader of the view runs first, though the graph has it last.
    block = relax.BlockBuilder()
    old = relax.Var("old", relax.TensorType((2, 6), "float32"))
    with block.function("main", [old], attrs={DONATED: [0, -1]}):
        with block.dataflow():
            seen = block.emit(op.reshape(old, (3, 4)))
            new = block.emit(op.add(old, relax.const(1.0)))
            total = block.emit(op.sum(seen, 1))
            output = block.emit_output(relax.Tuple([new, total]))
        block.emit_func_output(output)
    steps = (LegalizePacked(), Schedule(), Donate())
    (body,) = base.run(block.get(), steps)["main"].body.blocks
    names = [b.value.op.name for b in body.bindings if isinstance(b.value, relax.Call)]
    assert names == ["relax.call_tir", "relax.call_tir", "relax.call_tir_inplace"]
