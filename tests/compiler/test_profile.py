"""What a kernel has to do, what it took, and what the machine could have done."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import te, tirx, topi

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder
from nexus_compiler.codegen.llvm import work as accounts
from nexus_compiler.profile import kernels, peaks, plot
from nexus_compiler.profile.roofline import Roofline
from nexus_runtime import work
from nexus_runtime.executors.base import CallTime
from nexus_runtime.work import Kernel, Memory, Work

MACHINE = Roofline("test", 1, {"float32": 100.0, "int8": 400.0}, {1024: 200.0, 1 << 20: 10.0})


def account(*tensors: te.Tensor) -> dict[str, object]:
    return accounts.measure(te.create_prim_func(list(tensors)))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 9))
def test_a_product_is_counted_exactly(m: int, n: int, k: int) -> None:
    a, b = te.placeholder((m, k), "float32"), te.placeholder((k, n), "float32")
    said = account(a, b, topi.matmul(a, b))
    assert said[accounts.FLOPS] == 2 * m * n * k
    assert said[accounts.BYTES] == 4 * (m * k + k * n + m * n)
    assert said[accounts.DTYPE] == "float32"


def test_open_sizes_are_counted_when_they_are_known() -> None:
    rows = tirx.Var("rows", "int64")
    a, b = te.placeholder((rows, 8), "float32"), te.placeholder((8, 3), "float32")
    said = account(a, b, topi.matmul(a, b))
    shapes = ((5, 8), (8, 3), (5, 3))
    flops, moved = str(said[accounts.FLOPS]), str(said[accounts.BYTES])
    assert "rows" not in flops, "names of dimensions would tell equal kernels apart"
    assert work.count(flops, shapes) == 2 * 5 * 8 * 3
    assert work.count(moved, shapes) == 4 * (5 * 8 + 8 * 3 + 5 * 3)


def test_a_gather_reads_little_of_its_table() -> None:
    table, index = te.placeholder((1000, 16), "float32"), te.placeholder((2,), "int64")
    said = account(table, index, topi.take(table, index, axis=0))
    assert said[accounts.FLOPS] == 0, "indices and their limits are no work"
    assert said[accounts.BYTES] == 2 * 16 * 4 + 2 * 16 * 4 + 2 * 8


def test_padding_is_not_work_but_what_it_feeds_is() -> None:
    x, w = te.placeholder((1, 4, 8, 8), "float32"), te.placeholder((6, 4, 3, 3), "float32")
    said = account(x, w, topi.nn.conv2d(x, w, 1, 1, 1))
    assert said[accounts.FLOPS] == 2 * 6 * 8 * 8 * 4 * 3 * 3


def test_products_of_small_integers_are_int8() -> None:
    a, b = te.placeholder((4, 8), "int8"), te.placeholder((8, 4), "int8")
    k = te.reduce_axis((0, 8), "k")
    product = te.compute(
        (4, 4),
        lambda i, j: te.sum(a[i, k].astype("int32") * b[k, j].astype("int32"), axis=k),
    )
    assert account(a, b, product)[accounts.DTYPE] == "int8"


def said(flops: int | str | None, size: int | str | None, dtype: str = "float32") -> Kernel:
    return Kernel("matmul", "matmul", ("float32[n]",), dtype, flops, size)


def test_kernels_are_held_against_the_roof_that_bounds_them() -> None:
    told = Work(
        {
            "k_much": said("p0_0 * 1000", 512),
            "k_wide": said(8, "p0_0 * 4"),
            "k_narrow": said(1000, 512, "int8"),
        },
        {"main": Memory(0, 0)},
    )
    run = [
        CallTime("k_much", 2e-6, ((100,),)),
        CallTime("k_wide", 1e-4, ((100_000,),)),
        CallTime("k_much", 4e-6, ((100,),)),
        CallTime("k_narrow", 1e-8, ((4,),)),
        CallTime("k_new", 1e-9, ()),
    ]
    rows = {row.name: row for row in kernels.summarise([run], told, MACHINE)}
    much, wide = rows["k_much"], rows["k_wide"]
    assert (much.calls, much.flops, much.bound) == (2, 100_000, "compute")
    assert much.roofline == pytest.approx(1e-6 / 3e-6)
    assert (wide.bytes, wide.bound) == (400_000, "memory")
    assert wide.roofline == pytest.approx(400_000 / 10e9 / 1e-4)
    assert rows["k_narrow"].roofline == pytest.approx(512 / 200e9 / 1e-8)
    assert rows["k_new"].roofline is None, "nothing is made up about an unknown kernel"
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert next(iter(rows)) == "k_wide", "the one that takes longest first"


def test_medians_are_over_runs_and_sums_over_calls() -> None:
    told = Work({"k": said(1, 1)}, {})
    runs = [[CallTime("k", s, ()), CallTime("k", 10 * s, ())] for s in (1.0, 2.0, 9.0)]
    (row,) = kernels.summarise(runs, told, MACHINE)
    assert (row.calls, row.seconds) == (2, 2.0 + 20.0)


def test_the_plot_is_svg_with_a_circle_a_kernel() -> None:
    told = Work({"k": said(1000, 100), "copy": said(0, 100)}, {})
    runs = [[CallTime("k", 1e-6, ()), CallTime("copy", 1e-6, ())]]
    drawn = plot.roofline_svg("a < b", kernels.summarise(runs, told, MACHINE), MACHINE)
    root = ET.fromstring(drawn)
    titles = [node.text or "" for node in root.iter() if node.tag.endswith("title")]
    assert titles == ["matmul float32[n]: 1.0 GFLOP/s, 50.0%"]


@pytest.fixture(scope="module")
def artifact() -> nexus_runtime.Artifact:
    builder = GraphBuilder().input("x", (None, 24)).dense(16, activation="relu").dense(4)
    return nexus_compiler.compile(builder)


def test_every_kernel_that_runs_is_told_of(artifact: nexus_runtime.Artifact) -> None:
    module = nexus_runtime.load(artifact, num_threads=1)
    told = artifact.work(module.target)
    assert told is not None
    x = np.ones((5, 24), np.float32)
    expected = module(x)
    runs = module.trace("main", {"x": x}, rounds=3)
    assert len(runs) == 3
    np.testing.assert_array_equal(module(x), expected)  # tracing leaves no trace
    rows = kernels.summarise(runs, told, MACHINE)
    products = [row for row in rows if "matmul" in row.label]
    assert {row.flops for row in products} == {5 * 16 * (2 * 24 + 2), 5 * 4 * (2 * 16 + 1)}
    assert all(row.family == "matmul" and row.seconds > 0 for row in products)
    assert {row.family for row in rows} == {"matmul", "host"}


def test_the_planned_memory_is_told() -> None:
    builder = GraphBuilder().input("x", (8, 24)).dense(16, activation="relu").dense(4)
    told = nexus_compiler.compile(builder).work("native")
    assert told is not None
    assert told.memory["main__run"] == Memory(fixed=8 * 16 * 4 + 8 * 4 * 4, open=0)


def test_profile_measures_the_machine_once(
    artifact: nexus_runtime.Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nexus_compiler.cli.main import _run

    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    path = artifact.save(tmp_path / "net.nxa")
    command = ["bench", str(path), "--profile", "--threads", "1", "--rounds", "3"]
    assert _run([*command, "--json", "--plot", str(tmp_path / "roof.svg")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["gflops"]["float32"] > 0
    assert (tmp_path / "roof.svg").read_text().startswith("<svg")
    (kept,) = (tmp_path / "cache" / "roofline-v1").iterdir()
    before = kept.stat().st_mtime_ns
    assert _run(command) == 0
    table = capsys.readouterr().out
    assert "of roofline" in table
    assert "matmul add relu" in table
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "--against", "onnxruntime"), "--profile and --against are two things"),
        (("--plot", "roof.svg"), "--plot draws what --profile measures"),
    ],
)
def test_options_that_do_not_go_together(
    artifact: nexus_runtime.Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    from nexus_compiler.cli.main import _run

    path = artifact.save(tmp_path / "net.nxa")
    assert _run(["bench", str(path), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("threads", [1, 2])
def test_the_machine_is_measured_with_any_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "TRIALS", 1)
    monkeypatch.setattr(peaks, "SECONDS", 0.0)
    assert peaks._arithmetic("float32", 4, threads) > 0
    assert peaks._triad(49152, threads) > 0
