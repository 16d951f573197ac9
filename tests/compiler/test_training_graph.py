"""The training step: gradients, dropout and optimisers against PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_compiler import GraphBuilder
from nexus_runtime import Module, load
from nexus_runtime.errors import UserError

BATCH = 24


def network(rate: float = 0.5) -> GraphBuilder:
    return (
        GraphBuilder()
        .input("features", (None, 20))
        .dense(16, activation="relu")
        .dropout(rate)
        .dense(5, activation="softmax")
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Module]:
    def built(builder: GraphBuilder, **options: Any) -> Module:
        path = tmp_path_factory.mktemp("training") / "t.nxa"
        builder.build_training(path, **options)
        return load(path)

    return built


@pytest.fixture(scope="module")
def module(build: Callable[..., Module]) -> Module:
    return build(network())


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features = random.standard_normal((BATCH, 20)).astype(np.float32)
    return features, random.integers(0, 5, BATCH)


def gradients(
    module: Module, data: tuple[np.ndarray, np.ndarray], start: int, stop: int, seed: int = 5
) -> dict[str, np.ndarray]:
    return module.run(
        "gradients",
        {
            "features": data[0][start:stop],
            "labels": data[1][start:stop],
            "seed": np.uint32(seed),
            "row": np.int64(start),
        },
    )


def torch_gradients(
    module: Module, data: tuple[np.ndarray, np.ndarray]
) -> tuple[float, dict[str, np.ndarray]]:
    p = {k: torch.tensor(v, requires_grad=True) for k, v in module.parameters.items()}
    hidden = torch.relu(torch.tensor(data[0]) @ p["dense_1.weight"] + p["dense_1.bias"])
    logits = hidden @ p["dense_2.weight"] + p["dense_2.bias"]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(data[1]), reduction="sum")
    loss.backward()
    return loss.item(), {k: v.grad.numpy() for k, v in p.items()}


def test_without_dropout_gradients_are_those_of_torch(
    build: Callable[..., Module], data: tuple[np.ndarray, np.ndarray]
) -> None:
    plain = build(network(rate=0.0))
    loss, expected = torch_gradients(plain, data)
    found = gradients(plain, data, 0, BATCH)
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)
    probabilities = plain.run("predict", {"features": data[0]})["output"]
    assert int(found["correct"]) == int((probabilities.argmax(1) == data[1]).sum())
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"grad:{name}"], value, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, BATCH), max_size=3), seed=st.integers(0, 2**32 - 1))
def test_a_split_batch_has_the_gradients_of_the_whole(
    module: Module, data: tuple[np.ndarray, np.ndarray], cuts: list[int], seed: int
) -> None:
    edges = [0, *sorted(cuts), BATCH]
    parts = [gradients(module, data, a, b, seed) for a, b in itertools.pairwise(edges)]
    whole = gradients(module, data, 0, BATCH, seed)
    for name, expected in whole.items():
        total = sum(part[name] for part in parts)
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-4)


def finalise(bits: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser on Python's own integers."""
    out = []
    for value in bits.reshape(-1).tolist():
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            value = ((value ^ (value >> shift)) * factor) & 0xFFFFFFFF
        out.append(value ^ (value >> 16))
    return np.array(out, np.uint64).reshape(bits.shape)


def test_dropout_is_the_documented_hash(
    build: Callable[..., Module], data: tuple[np.ndarray, np.ndarray]
) -> None:
    rate, seed, layer, start = 0.25, 2**32 - 3, 1, 7
    builder = GraphBuilder().input("features", (None, 20)).dense(6).dropout(rate)
    module = build(builder, loss="mse")
    labels = np.zeros((BATCH - start, 6), np.float32)
    given = {"features": data[0][start:], "labels": labels}
    found = module.run("gradients", {**given, "seed": np.uint32(seed), "row": np.int64(start)})
    rows = np.arange(start, BATCH, dtype=np.uint64)[:, None]
    counter = rows * np.uint64(6) + np.arange(6, dtype=np.uint64)
    key = finalise(np.array([(seed + (layer + 1) * 0x9E3779B9) & 0xFFFFFFFF], np.uint64))
    mask = np.where(finalise(counter ^ key) >= round(rate * 2**32), 1 / (1 - rate), 0)
    p = module.parameters
    value = (data[0][start:] @ p["dense_1.weight"] + p["dense_1.bias"]) * mask
    assert float(found["loss"]) == pytest.approx((value**2).mean(1).sum(), rel=1e-5)


def test_dropout_drops_as_often_as_it_says(build: Callable[..., Module]) -> None:
    builder = GraphBuilder().input("x", (None, 500)).dropout(0.3)
    module = build(builder, loss="mse")
    ones, zeros = np.ones((200, 500), np.float32), np.zeros((200, 500), np.float32)
    losses = []
    for seed in range(3):
        given = {"x": ones, "labels": zeros, "seed": np.uint32(seed), "row": np.int64(0)}
        kept = float(module.run("gradients", given)["loss"]) * 0.7**2 / 200
        losses.append(kept)
        assert kept == pytest.approx(0.7, abs=0.01)
    assert len(set(losses)) == 3, "each seed has its own mask"
    np.testing.assert_array_equal(module.run("predict", {"x": ones})["output"], ones)


OPTIMIZERS: dict[str, tuple[str, dict[str, float], Callable]] = {
    "adam": ("adam", {}, lambda p: torch.optim.Adam(p, lr=0.01)),
    "adamw": (
        "adam",
        {"weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    "sgd": ("sgd", {"momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_are_those_of_torch(name: str, build: Callable[..., Module]) -> None:
    kind, options, make = OPTIMIZERS[name]
    module = build(network(), optimizer=kind, options=options)
    reference = {k: torch.tensor(v) for k, v in module.parameters.items()}
    theirs = make(list(reference.values()))
    params = dict(module.parameters)
    states = {s.name: np.zeros(s.shape, s.dtype) for s in module.manifest.training.states}
    random = np.random.default_rng(3)
    for step in range(1, 6):
        grads = {k: random.standard_normal(v.shape).astype(np.float32) for k, v in params.items()}
        for key, tensor in reference.items():
            tensor.grad = torch.tensor(grads[key])
        theirs.step()
        given = {"step": np.float32(step), "learning_rate": np.float32(0.01), **states}
        given |= {f"grad:{k}": v for k, v in grads.items()}
        found = module.run("update", given, parameters=params)
        params = {k: found[f"param:{k}"] for k in params}
        states = {k: found[k] for k in states}
    for key, tensor in reference.items():
        np.testing.assert_allclose(params[key], tensor.numpy(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cross_entropi"}, "unknown loss 'cross_entropi'"),
        ({"optimizer": "adan"}, "unknown optimiser 'adan'"),
        ({"options": {"beta": 1}}, "adam has no option 'beta'"),
    ],
)
def test_unknown_choices_name_the_nearest(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        network().build_training(tmp_path / "t.nxa", **options)


def test_cross_entropy_needs_a_softmax(tmp_path: Path) -> None:
    builder = GraphBuilder().input("x", (None, 4)).dense(3)
    with pytest.raises(UserError, match="needs a network that ends in softmax"):
        builder.build_training(tmp_path / "t.nxa", loss="cross_entropy")
    assert not (tmp_path / "t.nxa").exists()
