"""Which tiles windows over channels get."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from nexus_compiler.codegen.choices import Guide
from nexus_compiler.codegen.llvm.schedules import kernel, sweep, tiles
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.sweep_tiles import Line, choose

AVX512, AVX2, NEON = (512, 32), (256, 16), (128, 32)
LINES = st.builds(
    Line,
    taps=st.integers(1, 11),
    lines=st.integers(1, 11),
    step=st.integers(1, 3),
    borders=st.booleans(),
)


def _machine(unit: tuple[int, int], met: dict[str, tuple[str, ...]] | None = None) -> Machine:
    return Machine(*unit, parallel_work=1 << 20, guide=Guide(met=met))


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from((AVX512, AVX2, NEON)),
    rows=st.none() | st.integers(1, 300),
    columns=st.integers(1, 700),
    line=LINES,
)
def test_the_sums_leave_half_of_the_registers_to_the_pixels(
    unit: tuple[int, int], rows: int | None, columns: int, line: Line
) -> None:
    machine = _machine(unit)
    tiling = choose(rows, columns, "float32", line, machine)
    assert tiling.lanes == machine.lanes("float32")
    assert 1 <= tiling.rows * tiling.vectors <= unit[1] // 2
    assert rows is None or tiling.rows <= rows


@pytest.mark.parametrize("rows", (None, 14))
def test_only_known_lines_are_worth_measuring(rows: int | None) -> None:
    met: dict[str, tuple[str, ...]] = {}
    machine = _machine(AVX512, met)
    first = choose(rows, 96, "float32", Line(taps=3, lines=3, step=1, borders=True), machine)
    if rows is None:
        assert not met
    else:
        assert met["tile"][0] == first.name
        assert 1 < len(met["tile"]) == len(set(met["tile"]))


def test_a_line_that_fits_is_one_tile() -> None:
    """The loads of taps are shared by the whole line, and nobody looks at borders."""
    line = Line(taps=3, lines=3, step=1, borders=True)
    assert choose(7, 960, "float32", line, _machine(AVX512)).rows == 7


@pytest.mark.parametrize("shared", (True, False))
def test_taps_that_all_pixels_share_get_the_tile_of_a_product(shared: bool) -> None:
    """A sum over input channels loads vectors of weights alone; a depthwise one pixels as well."""
    size, channels, filters = 8, 24, 64
    inner = channels if shared else filters
    x = te.placeholder((size + 1, size + 1, inner), name="x")
    w = te.placeholder((2, 2, *((channels,) if shared else ()), filters), name="w")
    y, z, c = (te.reduce_axis((0, n), name) for n, name in ((2, "y"), (2, "z"), (channels, "c")))

    def element(row, column, out):  # type: ignore[no-untyped-def]
        if shared:
            return te.sum(x[row + y, column + z, c] * w[y, z, c, out], axis=[y, z, c])
        return te.sum(x[row + y, column + z, out] * w[y, z, out], axis=[y, z])

    made = te.create_prim_func([x, w, te.compute((size, size, filters), element)])
    met: dict[str, tuple[str, ...]] = {}
    machine = _machine(AVX512, met)
    assert sweep.schedule(kernel.read(made), machine) is not None
    product = tiles.candidates(size, filters, "float32", machine)
    assert (met["tile"] == tuple(one.name for one in product)) is shared
