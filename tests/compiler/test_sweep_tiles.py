"""Which tiles windows over channels get."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler.codegen.choices import Guide
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
