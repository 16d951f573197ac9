"""Fourier transforms agree with NumPy, their helpers with ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_models import Arrays, capture, compare, execute, floats, model, node, single

from nexus_runtime.errors import UnsupportedOperator


def agrees(proto: Any, feeds: Arrays, tol: float = 2e-5) -> None:
    """With ONNX's reference: ONNX Runtime has no inverse one-sided transform."""
    wanted = ReferenceEvaluator(proto).run(None, dict(feeds))
    for got, expected in zip(execute(capture(proto), feeds), wanted, strict=True):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=tol, atol=tol * np.abs(expected).max())


DFTS: dict[str, tuple[tuple[int, ...], int | None, int, dict[str, int]]] = {
    "real": ((2, 10, 1), None, -2, {}),
    "complex": ((2, 9, 2), None, 1, {}),
    "first axis": ((6, 3, 2), None, 0, {}),
    "one side": ((1, 4, 7, 1), None, 2, {"onesided": 1}),
    "longer": ((2, 5, 1), 8, 1, {}),
    "shorter": ((2, 9, 2), 4, 1, {}),
    "inverse": ((2, 8, 2), None, -2, {"inverse": 1}),
    "inverse of one side": ((2, 5, 2), None, 1, {"inverse": 1, "onesided": 1}),
    "inverse of one side, odd": ((2, 5, 2), 9, 1, {"inverse": 1, "onesided": 1}),
    "inverse of one side, cut": ((2, 9, 2), 6, 1, {"inverse": 1, "onesided": 1}),
}


@pytest.mark.parametrize("name", DFTS)
def test_fourier(name: str) -> None:
    shape, length, axis, attributes = DFTS[name]
    stored = [None if length is None else np.int64(length).reshape(()), np.int64(axis).reshape(())]
    agrees(*single("DFT", [floats(*shape)], stored, opset=20, **attributes))


def test_fourier_of_opset_17() -> None:
    agrees(*single("DFT", [floats(2, 3, 8, 1)], opset=17, axis=2, onesided=1))


def test_fourier_needs_a_known_length() -> None:
    proto = model([node("DFT", "x")], {"x": ("float32", [1, "n", 1])}, opset=20)
    with pytest.raises(UnsupportedOperator, match="depends on the input"):
        capture(proto)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("size", [32, "n"])
def test_short_time_fourier(onesided: int, size: Any) -> None:
    made = node("STFT", "x step window", onesided=onesided)
    window = np.hanning(8).astype("float32")
    constants = {"step": np.int64(5).reshape(()), "window": window}
    proto = model([made], {"x": ("float32", [2, size, 1])}, constants=constants)
    compare(proto, {"x": floats(2, 32, 1)}, tol=3e-5)


def test_short_time_fourier_without_window() -> None:
    stored = [np.int64(4).reshape(()), None, np.int64(8).reshape(())]
    compare(*single("STFT", [floats(1, 20, 1)], stored), tol=3e-5)


@pytest.mark.parametrize("kind", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_window(kind: str, periodic: int) -> None:
    nodes = [node(kind, "n", "w", periodic=periodic), node("Mul", "x w")]
    constants = {"n": np.int64(10).reshape(())}
    proto = model(nodes, {"x": ("float32", [10])}, constants=constants)
    compare(proto, {"x": floats(10)}, tol=3e-5)


def test_mel_weights() -> None:
    # Large enough that they are not folded by ONNX's reference.
    names = "bins length rate low high"
    numbers = [np.int64(n).reshape(()) for n in (128, 2048, 16000)]
    numbers += [np.float32(f).reshape(()) for f in (20.0, 7600.0)]
    nodes = [node("MelWeightMatrix", names, "m"), node("MatMul", "x m")]
    constants = dict(zip(names.split(), numbers))
    agrees(model(nodes, {"x": ("float32", [2, 1025])}, constants=constants), {"x": floats(2, 1025)})


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("remembers", [False, True])
def test_causal_convolution(taps: int, remembers: bool) -> None:
    past = floats(2, 3, taps - 1, seed=3) if remembers else None
    stored = [floats(3, 1, taps, seed=1), floats(3, seed=2)]
    arrays = [floats(2, 3, 6), *stored, *([past] if remembers else [])]
    options = {"opset": 27, "outputs": 2, "activation": "silu"}
    proto, feeds = single("CausalConvWithState", arrays, **options)
    wanted = ReferenceEvaluator(proto).run(None, dict(feeds))
    for got, expected in zip(execute(capture(proto), feeds), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
