"""Whether a result is what a case asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_compiler.verify.conformance.cases import Case


def difference(case: Case, found: Sequence[Any]) -> str:
    """What is wrong with the outputs `found`; "" where nothing is."""
    if len(found) != len(case.outputs):
        return f"{len(found)} outputs, not {len(case.outputs)}"
    for index, (got, want) in enumerate(zip(found, case.outputs)):
        if reason := _differs(got, want, case):
            return f"output {index}: {reason}"
    return ""


def _differs(got: Any, want: Any, case: Case) -> str:
    if want is None or got is None:
        return "" if want is got else f"{type(got).__name__}, not {type(want).__name__}"
    if isinstance(want, list):
        if not isinstance(got, list | tuple) or len(got) != len(want):
            return f"no sequence of {len(want)}"
        return next((r for g, w in zip(got, want) if (r := _differs(g, w, case))), "")
    if isinstance(got, list | tuple):
        return "a sequence, not a tensor"
    return _tensors(np.asarray(got), np.asarray(want), case)


def _tensors(got: np.ndarray, want: np.ndarray, case: Case) -> str:
    if got.dtype != want.dtype and not {got.dtype.kind, want.dtype.kind} <= set("OUST"):
        return f"it is {got.dtype}, not {want.dtype}"
    if got.shape != want.shape:
        return f"its shape is {list(got.shape)}, not {list(want.shape)}"
    if want.dtype.kind in "OUST":
        same = [_text(a) == _text(b) for a, b in zip(got.flat, want.flat)]
        return "" if all(same) else "other strings"
    if want.dtype.kind in "biu" or want.dtype.name in {"int4", "uint4", "int2", "uint2"}:
        wrong = got.astype("int64" if want.dtype.kind != "u" else want.dtype) != want.astype(
            "int64" if want.dtype.kind != "u" else want.dtype
        )
        return "" if case.drawn else _shown(got, want, wrong)
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    close = np.isclose(
        got.astype(wide), want.astype(wide), rtol=case.rtol, atol=case.atol, equal_nan=True
    )
    return "" if case.drawn else _shown(got, want, ~close)


def _shown(got: np.ndarray, want: np.ndarray, wrong: np.ndarray) -> str:
    if not wrong.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ, "
        f"first at {list(place)}: {got[place]}, not {want[place]}"
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
