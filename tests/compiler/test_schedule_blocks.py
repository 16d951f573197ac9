"""Products whose steps are taken in blocks, and loops that are simple once divisions are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from schedule_support import check, scheduled
from tvm import IRModule, te
from tvm.relax import op

from nexus_compiler.codegen.llvm import pack
from nexus_compiler.codegen.llvm.schedule import schedule
from nexus_compiler.codegen.llvm.schedules import blocks
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import Tiling

MACHINE = Machine(512, 32, 32768)


@pytest.mark.parametrize("m, n, k", [(67, 21, 12), (70, 40, 24), (64, 96, 10), (33, 130, 8)])
def test_small_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, m: int, n: int, k: int
) -> None:
    # Blocks of a size that a walk through every turn can afford.
    monkeypatch.setattr(blocks, "_PANEL", 512)
    shapes = [(2, m, k), (2, n, k)]
    kernels = scheduled(shapes, lambda a, b: op.einsum([a, b], "bik,bjk->bij"), vector_bits=512)
    assert any("kept" in kernel.script() for kernel in kernels)
    check(
        tmp_path,
        shapes,
        lambda a, b: op.einsum([a, b], "bik,bjk->bij"),
        lambda a, b: np.einsum("bik,bjk->bij", a, b),
    )


@pytest.mark.parametrize("m, n, k", [(128, 96, 768), (65, 200, 1536), (16, 50, 3072)])
def test_packed_weights(m: int, n: int, k: int) -> None:
    x = te.placeholder((m, k), "float32", "x")
    width = 96
    panels = te.placeholder((-(-n // width), k, width), "float32", "panels")
    naive = te.create_prim_func([x, panels, pack.matmul(x, panels, n)])
    kernel = schedule(naive, MACHINE)
    assert "kept" in kernel.script()
    module = IRModule({"main": kernel.with_attr("global_symbol", "main")})
    run = tvm.tirx.build(module, target="llvm")["main"]
    source = np.random.default_rng(0)
    left, right = (
        source.standard_normal(s).astype("float32") for s in ((m, k), (-(-n // width), k, width))
    )
    result = tvm.runtime.empty((m, n), "float32")
    run(tvm.runtime.tensor(left), tvm.runtime.tensor(right), result)
    weights = np.concatenate(list(right.astype("float64")), axis=1)[:, :n]
    bound = np.abs(left) @ np.abs(weights) * k * np.finfo("float32").eps
    assert (np.abs(result.numpy() - left @ weights) <= bound).all()


def test_only_where_a_panel_is_large_and_read_often() -> None:
    tiling = Tiling(4, 6, 16)

    def found(steps: int, rows: int, panels: int = 32) -> blocks.Blocks | None:
        return blocks.blocks(steps, 1, -(-rows // 4), panels, tiling, "float32", None)

    assert found(256, 128) is None
    assert found(3072, 8) is None
    assert found(3067, 128) is None  # a prime: no even parts
    long = found(3072, 128)
    assert long is not None and (long.count, long.steps, long.group) == (8, 384, 32)
    lines = blocks.blocks(96, 32, 32, 32, tiling, "float32", None)
    assert lines is not None and (lines.count, lines.steps) == (8, 12)  # of 32 steps each
    few = found(3072, 128, panels=2)
    assert few is not None and few.group == 16  # cores need tasks, of 64 rows or more


def test_divisions_of_a_reshape_that_no_subscript_reaches_are_gone() -> None:
    def heads(x: Any) -> Any:
        return op.permute_dims(op.reshape(x, (1, 20, 6, 8)), [0, 2, 1, 3])

    (kernel,) = scheduled([(1, 20, 48)], heads)
    load = kernel.script().split("=")[-1]
    assert "% T.int64(48)" not in load and "// T.int64(48)" not in load


def test_rows_of_a_layer_norm_stay_in_one_loop() -> None:
    def norm(x: Any, scale: Any, shift: Any) -> Any:
        return op.nn.layer_norm(x, scale, shift, axes=[-1])

    (kernel,) = scheduled([(6, 64), (64,), (64,)], norm)
    # The variance runs along the row; the mean, which follows the kept axis, is one number of it.
    assert 'T.sblock("columns")' not in kernel.script()
    loops = [
        line for line in kernel.script().splitlines() if "(T.int64(6))" in line and "for" in line
    ]
    assert len(loops) == 1


@pytest.mark.parametrize("rows, columns", [(64, 96), (33, 40), (32, 64), (31, 70)])
def test_transpositions_in_squares(tmp_path: Path, rows: int, columns: int) -> None:
    shape = (3, rows, columns)
    turn = (0, 2, 1)
    (kernel,) = scheduled([shape], lambda x: op.permute_dims(x, list(turn)))
    assert ("T.Shuffle(" in kernel.script()) == (rows >= 32 and columns >= 32)
    check(tmp_path, [shape], lambda x: op.permute_dims(x, list(turn)), lambda x: x.transpose(turn))
