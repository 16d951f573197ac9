"""ONNX Runtime's own operators agree with its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import capture, compare, floats, model, node, reference, whole

from nexus_runtime.errors import UnsupportedOperator

MICROSOFT = "com.microsoft"


def built(
    kind: str, inputs: dict[str, np.ndarray | None], stored: str, outputs: str, **attributes: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node; the inputs whose names are in `stored` are constants."""
    names = " ".join(name if array is not None else "_" for name, array in inputs.items())
    domain = attributes.pop("domain", MICROSOFT)
    made = node(kind, names, outputs, domain=domain, **attributes)
    given = {name: array for name, array in inputs.items() if array is not None}
    constants = {name: array for name, array in given.items() if name in stored.split()}
    feeds = {name: array for name, array in given.items() if name not in constants}
    shapes = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
    wanted = [name for name in outputs.split() if name != "_"]
    proto = model([made], shapes, wanted, constants, 17, [MICROSOFT])
    for value in proto.graph.output:
        value.ClearField("type")
    for value, result in zip(proto.graph.output, reference(proto, feeds)):
        element = helper.np_dtype_to_tensor_dtype(result.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, result.shape))
    return proto, feeds


def agrees(
    kind: str,
    inputs: dict[str, np.ndarray | None],
    stored: str = "",
    outputs: str = "y",
    tol: float = 1e-5,
    **attributes: Any,
) -> None:
    compare(*built(kind, inputs, stored, outputs, **attributes), tol=tol)


def test_activations() -> None:
    x, bias = {"x": floats(2, 3, 4)}, {"b": floats(4, seed=1)}
    agrees("Gelu", {**x})
    agrees("BiasGelu", {**x, **bias})
    agrees("FastGelu", {**x, **bias}, tol=1e-4)
    agrees("QuickGelu", {**x}, alpha=1.5)


@pytest.mark.parametrize("flags", [{"transA": 1}, {"transB": 1, "alpha": 0.5}])
def test_fused_matmul(flags: dict[str, Any]) -> None:
    a, b = floats(2, 3, 4), floats(2, 4, 5, seed=1)
    a = a.transpose(0, 2, 1).copy() if "transA" in flags else a
    b = b.transpose(0, 2, 1).copy() if "transB" in flags else b
    agrees("FusedMatMul", {"a": a, "b": b}, **flags)


def test_fused_gemm() -> None:
    inputs = {"a": floats(3, 4), "b": floats(5, 4, seed=1), "c": floats(5, seed=2)}
    agrees(
        "FusedGemm", {**inputs}, transB=1, beta=0.5, activation="LeakyRelu", activation_alpha=0.1
    )
    agrees("FusedGemm", {**inputs}, transB=1, activation="Relu")


ACTIVATED: dict[str, dict[str, Any]] = {
    "relu": {"activation": "Relu"},
    "leaky": {"activation": "LeakyRelu", "activation_params": [0.2]},
    "clip": {"activation": "Clip", "activation_params": [-0.5, 0.7]},
    "hard": {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
}


@pytest.mark.parametrize("name", ACTIVATED)
def test_fused_conv(name: str) -> None:
    inputs = {"x": floats(1, 2, 5, 5), "w": floats(3, 2, 3, 3, seed=1), "b": floats(3, seed=2)}
    rest = {"z": floats(1, 3, 5, 5, seed=3)} if name == "relu" else {}
    agrees("FusedConv", {**inputs, **rest}, "w b", pads=[1, 1, 1, 1], **ACTIVATED[name])


def test_norms() -> None:
    x, skip, scale = floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8, seed=2)
    inputs = {"x": x, "skip": skip, "g": scale, "b": floats(8, seed=3), "c": floats(8, seed=4)}
    agrees("SkipLayerNormalization", {**inputs}, "g b c", "y _ _ s", epsilon=1e-5)
    simple = {"x": x, "skip": skip, "g": scale, "c": floats(8, seed=4)}
    agrees("SkipSimplifiedLayerNormalization", {**simple}, "g c", "y _ _ s", epsilon=1e-5)
    agrees("SimplifiedLayerNormalization", {"x": x, "g": scale}, "g", domain="", epsilon=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_embeddings(masked: bool) -> None:
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], "int32") if masked else None
    inputs = {
        **{"ids": whole(2, 4, dtype="int32"), "segments": whole(2, 4, high=2, dtype="int32")},
        **{"words": floats(10, 6), "places": floats(8, 6, seed=1), "parts": floats(2, 6, seed=2)},
        **{"g": floats(6, seed=3), "b": floats(6, seed=4), "mask": mask},
    }
    agrees("EmbedLayerNormalization", inputs, "words places parts g b", "y lengths")


HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


def past(kind: int, batch: int = 2, length: int = 3, heads: int = HEADS) -> np.ndarray:
    return floats(batch, heads, length, SIZE, seed=kind)


MASKS: dict[str, np.ndarray | None] = {
    "none": None,
    "lengths": np.array([3, 2], "int32"),
    "ends and starts": np.array([3, 2, 1, 0], "int32"),
    "raw": np.array([[1, 1, 0], [1, 0, 1]], "int32"),
    "matrix": np.random.default_rng(0).integers(0, 2, (2, 3, 3)).astype("int32"),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention(name: str) -> None:
    inputs = {
        **{"x": floats(2, 3, 6), "w": floats(6, 3 * WIDTH, seed=1, low=-1, high=1)},
        **{"b": floats(3 * WIDTH, seed=2), "mask": MASKS[name]},
    }
    attributes = {"num_heads": HEADS, "unidirectional": int(name == "raw")}
    agrees("Attention", inputs, "w b", tol=2e-5, **attributes)


def test_attention_with_a_past() -> None:
    inputs = {
        **{"x": floats(2, 3, 6), "w": floats(6, 3 * WIDTH, seed=1), "b": floats(3 * WIDTH, seed=2)},
        **{"mask": None, "past": np.stack([past(3), past(4)])},
    }
    agrees("Attention", inputs, "w b", "y p", tol=2e-5, num_heads=HEADS, unidirectional=1)


@pytest.mark.parametrize("kind", ["plain", "cross", "cached"])
def test_multi_head_attention(kind: str) -> None:
    rows = 3 if kind != "cross" else 5
    inputs: dict[str, np.ndarray | None] = {
        "q": floats(2, 3, WIDTH),
        "k": floats(2, rows, WIDTH, seed=1),
        "v": floats(2, rows, WIDTH, seed=2),
        "b": floats(3 * WIDTH, seed=3),
    }
    if kind == "cross":
        inputs["mask"] = whole(2, rows, high=2, dtype="int32")
        inputs["bias"] = floats(1, HEADS, 3, rows, seed=4)
    if kind == "cached":
        inputs |= {"mask": None, "bias": None, "pk": past(5), "pv": past(6)}
    outputs = "y k2 v2" if kind == "cached" else "y"
    agrees("MultiHeadAttention", inputs, "b", outputs, tol=2e-5, num_heads=HEADS)


GROUPED: dict[str, tuple[int, int, int, dict[str, Any]]] = {  # new, past, total
    "prompt": (5, 0, 5, {}),
    "next token": (1, 4, 5, {"do_rotary": 1}),
    "a shared buffer": (1, 8, 5, {"do_rotary": 1, "rotary_interleaved": 1}),
    "window and cap": (6, 0, 6, {"local_window_size": 2, "softcap": 5.0, "scale": 0.3}),
}


@pytest.mark.parametrize("name", GROUPED)
def test_group_query_attention(name: str) -> None:
    heads, groups, size, packed = 4, 2, 16, name == "next token"
    length, before, total, attributes = GROUPED[name]
    q, k, v = (floats(2, length, n * size, seed=i) for i, n in enumerate((heads, groups, groups)))
    empty = (2, groups, before, size)
    inputs: dict[str, np.ndarray | None] = {
        "q": np.concatenate([q, k, v], 2) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
        "pk": floats(*empty, seed=3) if before else None,
        "pv": floats(*empty, seed=4) if before else None,
        "ends": np.full(2, total - 1, "int32"),
        "total": np.int32(total).reshape(()),
    }
    if "do_rotary" in attributes:
        angles = np.outer(np.arange(16), 10.0 ** -np.arange(size // 2)).astype("float32")
        inputs |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    attributes = {"num_heads": heads, "kv_num_heads": groups, **attributes}
    agrees("GroupQueryAttention", inputs, "total cos sin", "y pk2 pv2", tol=2e-5, **attributes)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved: int) -> None:
    angles = np.outer(np.arange(9), 10.0 ** -np.arange(2)).astype("float32")
    table = {"cos": np.cos(angles), "sin": np.sin(angles)}
    flags: dict[str, Any] = {"interleaved": interleaved}
    inputs = {"x": floats(2, 3, WIDTH), "at": whole(2, 3, high=9)}
    agrees("RotaryEmbedding", {**inputs, **table}, "cos sin", **flags)
    inputs = {"x": floats(2, HEADS, 3, SIZE), "at": np.array([4])}
    agrees("RotaryEmbedding", {**inputs, **table}, "cos sin", **flags)


def test_what_is_not_handled_is_refused() -> None:
    made = node("MultiHeadAttention", "q", num_heads=HEADS, domain=MICROSOFT)
    proto = model([made], {"q": ("float32", (2, 3, HEADS, 3, SIZE))}, domains=[MICROSOFT])
    with pytest.raises(UnsupportedOperator, match="packed queries"):
        capture(proto)


@pytest.mark.parametrize(("bits", "rows", "zeros"), [(4, 64, True), (4, 48, False), (8, 32, True)])
def test_matrices_of_few_bits(bits: int, rows: int, zeros: bool) -> None:
    columns, block = 3, 16
    blocks = -(-rows // block)
    numbers = np.random.default_rng(0)
    packed = numbers.integers(0, 256, (columns, blocks, block * bits // 8)).astype("uint8")
    points = numbers.integers(0, 256, (columns, -(-blocks * bits // 8))).astype("uint8")
    inputs = {
        **{"x": floats(2, 5, rows), "w": packed, "s": floats(columns, blocks, low=0.01, high=0.1)},
        "z": points if zeros else None,
    }
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": block}
    agrees("MatMulNBits", inputs, "w s z", tol=2e-5, **attributes)
