"""GraphBuilder's names, branches, several inputs and outputs, initial weights, files, messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder
from nexus_compiler.frontend.builder.initial import NAMED, Normal, Uniform
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import ArtifactError, NexusError, ShapeError


def dense() -> GraphBuilder:
    return GraphBuilder().input("x", (None, 4)).dense(6, activation="relu", name="a")


def image() -> GraphBuilder:
    return GraphBuilder().input("image", (None, 3, 8, 8))


def two_towers() -> GraphBuilder:
    """Two inputs through the same weights, two outputs."""
    return (
        GraphBuilder()
        .input("left", (None, 4))
        .dense(3, name="tower")
        .name("l")
        .input("right", ("batch", 4))
        .dense(3, share="tower", name="r")
        .output("r")
        .multiply("l", name="product")
        .output("product")
    )


def test_several_inputs_outputs_and_shared_weights(tmp_path: Path) -> None:
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    module = nexus_runtime.load(nexus_compiler.compile(two_towers(), options=options))
    left, right = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    p = module.parameters
    assert set(p) == {"tower.weight", "tower.bias"}
    found = module(left=left, right=right)
    a, b = (x @ p["tower.weight"] + p["tower.bias"] for x in (left, right))
    assert list(found) == ["r", "product"]
    np.testing.assert_allclose(found["r"], b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["product"], a * b, rtol=1e-5, atol=1e-6)


def test_a_layers_name_means_its_activation(tmp_path: Path) -> None:
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    network = dense().dense(2).at("a")
    found = nexus_runtime.load(nexus_compiler.compile(network, options=options))
    assert (found(np.ones((3, 4), np.float32)) >= 0).all()
    assert network.tensor().name == dense().at("a").tensor().name == "activation_1"


def test_summary_of_branches(snapshot: Callable[[str, str], None]) -> None:
    network = (
        image()
        .conv2d(8, 3, padding="same", bias=False)
        .batch_norm()
        .activation("relu", name="stem")
        .residual(lambda g: g.conv2d(8, 3, padding=1, activation="relu", name="c"))
        .conv2d(8, 3, padding=1, share="c")
        .concat("stem")
        .global_avg_pool()
        .dense(10, activation="softmax")
    )
    snapshot("builder_branches", network.summary() + "\n")
    tokens = GraphBuilder().input("tokens", (None, None), dtype="int64").embedding(50, 8)
    snapshot("builder_open", tokens.attention(2).layer_norm().dense(2).summary() + "\n")


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
)
def test_windows_make_the_shapes_of_torch(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    builder = GraphBuilder().input("x", (None, 2, size, size + 1))
    x = torch.zeros(1, 2, size, size + 1)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    try:
        expected = torch.nn.Conv2d(2, 3, kernel, **options)(x).shape
    except RuntimeError:
        with pytest.raises(ShapeError, match="does not fit"):
            builder.conv2d(3, kernel, **options)
        return
    assert builder.conv2d(3, kernel, **options).shape[1:] == tuple(expected[1:])
    same = builder.conv2d(3, kernel, stride=stride, dilation=dilation, padding="same").shape
    assert same[2:] == (-(-size // stride), -(-(size + 1) // stride))


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    data=st.data(),
)
def test_transposed_windows_make_the_shapes_of_torch(
    size: int, kernel: int, stride: int, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, (kernel - 1) // 2))
    more = data.draw(st.integers(0, stride - 1))
    theirs = torch.nn.ConvTranspose1d(2, 3, kernel, stride, padding, more)
    ours = (
        GraphBuilder()
        .input("x", (None, 2, size))
        .conv1d_transposed(3, kernel, stride=stride, padding=padding, output_padding=more)
    )
    assert ours.shape[1:] == tuple(theirs(torch.zeros(1, 2, size)).shape[1:])


@pytest.mark.parametrize("name", NAMED)
def test_initial_weights_spread_as_they_say(name: str) -> None:
    network = GraphBuilder().input("x", (None, 300)).dense(200, init=name)
    weight = network.parameters()["dense_1.weight"]
    std = {
        "glorot_normal": (2 / 500) ** 0.5,
        "glorot_uniform": (2 / 500) ** 0.5,
        "he_normal": (2 / 300) ** 0.5,
        "he_uniform": (2 / 300) ** 0.5,
        "lecun_normal": (1 / 300) ** 0.5,
        "normal": 0.05,
        "ones": 0,
        "orthogonal": 300**-0.5,
        "uniform": 0.1 / 12**0.5,
        "zeros": 0,
    }[name]
    assert weight.std() == pytest.approx(std, rel=0.02)
    if name == "orthogonal":
        np.testing.assert_allclose(weight.T @ weight, np.eye(200), atol=1e-5)


def test_initial_weights_a_layer() -> None:
    network = (
        GraphBuilder()
        .input("x", (None, 300))
        .dense(40, init=Normal(std=0.5, mean=3), bias_init=0.25)
        .dense(9, init=Uniform(2, 4))
    )
    found = network.parameters()
    assert found["dense_1.weight"].mean() == pytest.approx(3, abs=0.02)
    assert (found["dense_1.bias"] == 0.25).all()
    assert found["dense_2.weight"].min() >= 2
    forget = GraphBuilder().input("x", (None, 2, 3)).lstm(2).parameters()["lstm_1.bias"]
    assert forget.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_weights_go_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.safetensors"
    changed = {name: value + 1 for name, value in dense().parameters().items()}
    dense().save_weights(path, changed)
    found = dense().load_weights(path)
    for name, value in changed.items():
        np.testing.assert_array_equal(found.parameters()[name], value)
        np.testing.assert_array_equal(found.to_graph().params[name], value)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]
    deeper = found.dense(2).parameters()
    np.testing.assert_array_equal(deeper["a.bias"], changed["a.bias"])
    assert deeper["dense_1.weight"].shape == (6, 2)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    dense().save_weights(path)
    other = GraphBuilder().input("x", (None, 5)).dense(6, name="a").dense(2, name="b")
    with pytest.raises(ShapeError) as caught:
        other.load_weights(path)
    for part in (r"'a.weight' must be (5, 6), not (4, 6)", "'b.weight' (6, 2) is missing"):
        assert part in caught.value.message
    with pytest.raises(ShapeError, match=r"weight 'a.bias' \(6,\) is unexpected"):
        GraphBuilder().input("x", (None, 4)).dense(6, name="a", bias=False).load_weights(path)
    path.write_bytes(b"torn")
    for broken in (path, tmp_path / "none"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            dense().load_weights(broken)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: dense().at("b"), "there is no tensor 'b'\nhint: .*a"),
    (lambda: dense().name("a"), "a tensor 'a' already"),
    (lambda: dense().name("a.b"), "no name for a tensor"),
    (lambda: dense().dense(3, name="x"), "a tensor 'x' already"),
    (lambda: dense().output("a").output("a"), "'a' is an output already"),
    (lambda: dense().output("b"), "there is no tensor 'b'"),
    (
        lambda: dense().add("x"),
        r"add needs tensors of one shape, not \(batch, 6\) and",
    ),
    (lambda: dense().add(), "needs the name of another tensor"),
    (lambda: dense().concat("x", axis=0), "behind the batch"),
    (lambda: image().concat("image").flatten().concat("image"), "differ in dimension 1 only"),
    (lambda: dense().branch(lambda g: g, merge="ad"), "did you mean add"),
    (lambda: dense().branch(), "branch needs a path"),
    (lambda: dense().residual(lambda g: g.dense(2)), r"\(batch, 2\) and \(batch, 6\)"),
    (lambda: dense().dense(3, share="a"), r"weights of 'a' are weight \(4, 6\)"),
    (lambda: dense().dense(3, share="c"), "there is no layer 'c'"),
    (lambda: image().batch_norm(name="b").group_norm(3, share="b"), "keeps statistics"),
    (lambda: dense().dense(3, init="he_norm"), "did you mean he_normal"),
    (lambda: dense().dense(3, bias_init="orthogonal").parameters(), "two dimensions or more"),
    (lambda: dense().input("y", (None, 2), dtype="int8"), "cannot be int8"),
    (lambda: GraphBuilder().input("i", (1,), dtype="int64").dense(2), "'i' is int64"),
    (lambda: dense().reshape(4, 2), r"6 values of a sample of \(batch, 6\) do not fit \(4, 2\)"),
    (lambda: image().permute(1, 2), "no order of the dimensions 1 to 3"),
    (lambda: image().slice(2, 9, axis=2), r"\[2:9\] is no range of dimension 2"),
    (lambda: image().conv2d(4, 3, groups=2), "2 groups must divide the 3 channels"),
    (lambda: image().conv2d(4, 3, padding="full"), "not 'full'"),
    (lambda: image().conv2d(4, (3, 3, 3)), "takes 2 numbers"),
    (lambda: image().conv2d(4, 3, stride=0), "from 1 on"),
    (lambda: image().conv1d(4, 3), r"conv1d needs .* not \(batch, 3, 8, 8\)"),
    (lambda: image().conv2d_transposed(4, 3, output_padding=1), "must be below the stride"),
    (lambda: image().max_pool2d(2, padding=2), "must be below the window"),
    (lambda: image().group_norm(2), "2 groups must divide the channels"),
    (lambda: image().batch_norm(momentum=0), "momentum is above 0"),
    (lambda: image().lstm(4), r"lstm needs \(batch, steps, features\)"),
    (lambda: GraphBuilder().input("x", (None, 65, 2)).gru(4), "64 at most, .* has 65"),
    (lambda: GraphBuilder().input("x", (None, 5, 6)).attention(4), "4 heads must divide"),
    (lambda: dense().attention(2), "attention needs"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_refused_at_the_call(call: Callable, message: str) -> None:
    with pytest.raises(NexusError, match=message):
        call()
