"""The walk through the loops of a kernel sees stray accesses, and what is not written once."""

from __future__ import annotations

import pytest
from schedule_support import walk
from tvm import tirx
from tvm.script import tirx as T


def kernel(first: int, turns: int, *, twice: bool = False) -> tirx.PrimFunc:
    """y[i] = x[i + first] for i below `turns` of 6; x has 8 elements."""

    @T.prim_func(private=True, s_tir=True)
    def copied(x: T.Buffer((8,), "float32"), y: T.Buffer((6,), "float32")):
        with T.sblock("root"):
            T.reads()
            T.writes()
            for i in range(turns):
                y[0 if twice else i] = x[i + first]

    return copied


def test_accesses_within_bounds_are_fine() -> None:
    walk(kernel(2, 6), {})


@pytest.mark.parametrize("first, turns", [(3, 6), (-1, 6), (0, 7)])
def test_stray_accesses_are_seen(first: int, turns: int) -> None:
    with pytest.raises(AssertionError, match=r"\[.*\] of \("):
        walk(kernel(first, turns), {})


@pytest.mark.parametrize("turns, twice", [(5, False), (6, True)])
def test_elements_are_written_once(turns: int, twice: bool) -> None:
    with pytest.raises(AssertionError, match="not written exactly once"):
        walk(kernel(0, turns, twice=twice), {})
