"""Every layer of GraphBuilder against PyTorch: what it computes, and the gradients of its weights.

Each case is compiled once, as a trainer with an open batch; the loss is the squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from nexus_compiler import GraphBuilder
from nexus_compiler.frontend.builder.layers import activation as layers
from nexus_runtime import load

F = torch.nn.functional
Weights = Mapping[str, torch.Tensor]
Case = tuple[tuple[int | None, ...], Callable[[GraphBuilder], GraphBuilder], Callable]

LINE, IMAGE, STEPS = (None, 4, 11), (None, 4, 8, 7), (None, 5, 6)
BATCH = 3


def dense(x: torch.Tensor, p: Weights, name: str) -> torch.Tensor:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def recurrent(kind: type, x: torch.Tensor, p: Weights, name: str) -> torch.Tensor:
    """PyTorch's layer with our weights, whose gradients it must hand on: hence functional."""
    units = p[f"{name}.state_weight"].shape[0]
    module = kind(x.shape[2], units, batch_first=True)
    state_bias = p.get(f"{name}.state_bias", torch.zeros_like(p[f"{name}.bias"]))
    values = {
        "weight_ih_l0": p[f"{name}.input_weight"].T,
        "weight_hh_l0": p[f"{name}.state_weight"].T,
        "bias_ih_l0": p[f"{name}.bias"],
        "bias_hh_l0": state_bias,
    }
    return torch.func.functional_call(module, values, (x,))[0]


def attention(
    x: torch.Tensor, memory: torch.Tensor, p: Weights, name: str, heads: int, causal: bool = False
) -> torch.Tensor:
    def head(value: torch.Tensor, part: str) -> torch.Tensor:
        wide = value @ p[f"{name}.{part}_weight"] + p[f"{name}.{part}_bias"]
        return wide.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = head(x, "query"), head(memory, "key"), head(memory, "value")
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    joined = mixed.transpose(1, 2).flatten(2)
    return joined @ p[f"{name}.output_weight"] + p[f"{name}.output_bias"]


def pooled(build: Callable, reference: Callable, shape: tuple = IMAGE) -> Case:
    """A pool behind weights, so that its gradient is looked at: one slope a channel."""
    column = (1, 4, *([1] * (len(shape) - 2)))
    return (
        shape,
        lambda g: build(g.prelu(init=2.0)),
        lambda x, p: reference(F.relu(x) + p["prelu_1.slope"].reshape(column) * x.clamp(max=0)),
    )


def batch_normal(x: torch.Tensor, p: Weights) -> torch.Tensor:
    return F.batch_norm(x, None, None, p["b.scale"], p["b.offset"], training=True)


ACTIVATIONS: dict[str, Callable] = {
    "elu": F.elu,
    "exp": torch.exp,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softmax": lambda x: torch.softmax(x, -1),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanh": torch.tanh,
}

CASES: dict[str, Case] = {
    "dense over steps": (STEPS, lambda g: g.dense(3), lambda x, p: dense(x, p, "dense_1")),
    "shared dense": (
        (None, 6),
        lambda g: g.dense(6, name="d").dense(6, share="d", activation="tanh"),
        lambda x, p: dense(dense(x, p, "d"), p, "d").tanh(),
    ),
    "conv1d": (
        LINE,
        lambda g: g.conv1d(6, 3, stride=2, padding=1, groups=2),
        lambda x, p: F.conv1d(x, p["conv1d_1.weight"], p["conv1d_1.bias"], 2, 1, 1, 2),
    ),
    "conv1d, causal by hand": (
        LINE,
        lambda g: g.conv1d(3, 3, dilation=2, padding="same"),
        lambda x, p: F.conv1d(x, p["conv1d_1.weight"], p["conv1d_1.bias"], 1, "same", 2),
    ),
    "conv2d, same, strided": (
        IMAGE,
        lambda g: g.conv2d(3, (3, 2), padding="same", stride=2),
        lambda x, p: F.conv2d(F.pad(x, (0, 1, 0, 1)), p["conv2d_1.weight"], p["conv2d_1.bias"], 2),
    ),
    "conv2d, dilated, without bias": (
        IMAGE,
        lambda g: g.conv2d(3, 2, dilation=(2, 3), bias=False),
        lambda x, p: F.conv2d(x, p["conv2d_1.weight"], dilation=(2, 3)),
    ),
    "depthwise conv2d behind another": (
        IMAGE,
        lambda g: g.conv2d(4, 1, name="a").conv2d(4, 3, groups=4, padding=1, name="b"),
        lambda x, p: F.conv2d(
            F.conv2d(x, p["a.weight"], p["a.bias"]), p["b.weight"], p["b.bias"], 1, 1, 1, 4
        ),
    ),
    "conv1d transposed": (
        LINE,
        lambda g: g.conv1d(3, 2, name="a").conv1d_transposed(
            2, 4, stride=3, padding=1, output_padding=1, name="b"
        ),
        lambda x, p: F.conv_transpose1d(
            F.conv1d(x, p["a.weight"], p["a.bias"]), p["b.weight"], p["b.bias"], 3, 1, 1
        ),
    ),
    "conv2d transposed": (
        IMAGE,
        lambda g: g.conv2d(3, 2, name="a").conv2d_transposed(2, (3, 2), stride=2, name="b"),
        lambda x, p: F.conv_transpose2d(
            F.conv2d(x, p["a.weight"], p["a.bias"]), p["b.weight"], p["b.bias"], 2
        ),
    ),
    "max pool 1d": pooled(
        lambda g: g.max_pool1d(3, stride=2), lambda x: F.max_pool1d(x, 3, 2), LINE
    ),
    "max pool 2d, padded": pooled(
        lambda g: g.max_pool2d(3, stride=2, padding=1), lambda x: F.max_pool2d(x, 3, 2, 1)
    ),
    "avg pool 1d": pooled(lambda g: g.avg_pool1d(2), lambda x: F.avg_pool1d(x, 2), LINE),
    "avg pool 2d, padded": pooled(
        lambda g: g.avg_pool2d((3, 2), stride=2, padding=(1, 0)),
        lambda x: F.avg_pool2d(x, (3, 2), 2, (1, 0), count_include_pad=False),
    ),
    "global pools": pooled(
        lambda g: g.branch(lambda h: h.global_avg_pool(), lambda h: h.global_max_pool()),
        lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1),
    ),
    "batch norm": (
        IMAGE,
        lambda g: g.conv2d(3, 2, name="c").batch_norm(name="b"),
        lambda x, p: batch_normal(F.conv2d(x, p["c.weight"], p["c.bias"]), p),
    ),
    "batch norm of features": (
        (None, 6),
        lambda g: g.dense(3).batch_norm(name="b"),
        lambda x, p: batch_normal(dense(x, p, "dense_1"), p),
    ),
    "layer norm": (
        STEPS,
        lambda g: g.dense(6).layer_norm(name="n"),
        lambda x, p: F.layer_norm(dense(x, p, "dense_1"), (6,), p["n.scale"], p["n.offset"]),
    ),
    "rms norm": (
        STEPS,
        lambda g: g.dense(6).rms_norm(name="n"),
        lambda x, p: F.rms_norm(dense(x, p, "dense_1"), (6,), p["n.scale"], 1e-5),
    ),
    "group norm": (
        IMAGE,
        lambda g: g.prelu(name="r").group_norm(2, name="n"),
        lambda x, p: F.group_norm(F.prelu(x, p["r.slope"]), 2, p["n.scale"], p["n.offset"]),
    ),
    "lstm": (
        STEPS,
        lambda g: g.lstm(4),
        lambda x, p: recurrent(torch.nn.LSTM, x, p, "lstm_1")[:, -1],
    ),
    "lstm both ways": (
        STEPS,
        lambda g: g.branch(
            lambda h: h.lstm(3, sequences=True, name="f"),
            lambda h: h.lstm(3, sequences=True, backwards=True, name="b"),
            axis=-1,
        ),
        lambda x, p: torch.cat(
            [
                recurrent(torch.nn.LSTM, x, p, "f"),
                recurrent(torch.nn.LSTM, x.flip(1), p, "b").flip(1),
            ],
            -1,
        ),
    ),
    "gru": (
        STEPS,
        lambda g: g.gru(4, sequences=True, name="g").gru(3),
        lambda x, p: recurrent(torch.nn.GRU, recurrent(torch.nn.GRU, x, p, "g"), p, "gru_1")[:, -1],
    ),
    "attention": (
        STEPS,
        lambda g: g.positions(name="p").attention(2, name="a"),
        lambda x, p: attention(x + p["p.table"], x + p["p.table"], p, "a", 2),
    ),
    "causal attention": (
        STEPS,
        lambda g: g.attention(3, causal=True, name="a"),
        lambda x, p: attention(x, x, p, "a", 3, causal=True),
    ),
    "attention to a memory": (
        STEPS,
        lambda g: g.dense(4, name="m").at("x").slice(0, 2).attention(2, memory="m", name="a"),
        lambda x, p: attention(x[:, :2], dense(x, p, "m"), p, "a", 2),
    ),
    "moved about": (
        IMAGE,
        lambda g: (
            g.prelu(name="r")
            .zero_pad2d((0, 1, 2, 0))
            .upsample2d((1, 2))
            .permute(3, 1, 2)
            .reshape(9, -1)
            .slice(1, 8)
            .slice(2, 30, axis=2)
            .flatten()
        ),
        lambda x, p: (
            F.interpolate(F.pad(F.prelu(x, p["r.slope"]), (2, 0, 0, 1)), scale_factor=(1, 2))
            .permute(0, 3, 1, 2)
            .reshape(-1, 9, 72)[:, 1:8, 2:30]
            .flatten(1)
        ),
    ),
    "branches": (
        (None, 6),
        lambda g: (
            g.dense(5, activation="relu", name="trunk")
            .residual(lambda h: h.dense(5).activation("tanh"))
            .name("left")
            .at("trunk")
            .dense(5, bias=False, name="right")
            .add("left", "trunk")
            .multiply("left")
            .subtract("trunk")
            .maximum("right")
        ),
        lambda x, p: branches(x, p),  # noqa: PLW0108 (defined below)
    ),
    "activations": (
        (None, 6),
        lambda g: g.dense(5).branch(
            *(lambda h, f=f: h.activation(f) for f in ACTIVATIONS),
            lambda h: h.activation("elu", alpha=0.7),
        ),
        lambda x, p: torch.cat(
            [
                *(f(dense(x, p, "dense_1")) for f in ACTIVATIONS.values()),
                F.elu(dense(x, p, "dense_1"), 0.7),
            ],
            1,
        ),
    ),
}


def branches(x: torch.Tensor, p: Weights) -> torch.Tensor:
    trunk = dense(x, p, "trunk").relu()
    left = trunk + dense(trunk, p, "dense_1").tanh()
    right = trunk @ p["right.weight"]
    return torch.maximum((right + left + trunk) * left - trunk, right)


def test_every_activation_is_checked() -> None:
    assert set(ACTIVATIONS) == set(layers.ACTIVATIONS)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_that_of_torch(name: str, tmp_path: Path) -> None:
    shape, build, reference = CASES[name]
    network = build(GraphBuilder(seed=3).input("x", shape))
    network.build_training(tmp_path / "t.nxa", loss="mse", optimizer="sgd")
    module = load(tmp_path / "t.nxa")
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, *shape[1:])).astype(np.float32)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in module.parameters.items()}
    value = reference(torch.tensor(x), p)
    assert tuple(value.shape[1:]) == network.shape[1:]
    if "batch norm" not in name:
        output = module.run("predict", {"x": x})["output"]
        np.testing.assert_allclose(output, value.detach(), rtol=1e-4, atol=2e-6)
    labels = random.standard_normal(value.shape).astype(np.float32)
    loss = ((value - torch.tensor(labels)) ** 2).flatten(1).mean(1).sum()
    loss.backward()
    given = {"x": x, "labels": labels, "seed": np.uint32(0), "row": np.int64(0)}
    found = module.run("gradients", given)
    assert float(found["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for key, tensor in p.items():
        if "running" not in key:
            expected = tensor.grad
            np.testing.assert_allclose(found[f"grad:{key}"], expected, rtol=1e-3, atol=1e-5)
