"""The gradients that a graph asks for agree with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_models import Arrays, floats, model, node
from onnx_pipeline import Model

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator

TRAINING = "ai.onnx.preview.training"


def grad(inputs: str, outputs: str, xs: str, y: str, zs: str = "") -> onnx.NodeProto:
    more = {"zs": zs.split()} if zs else {}
    return node("Gradient", inputs, outputs, domain=TRAINING, xs=xs.split(), y=y, **more)


def built(
    nodes: Sequence[onnx.NodeProto],
    feeds: Arrays,
    outputs: Mapping[str, Sequence[int]],
    stored: Arrays | None = None,
) -> onnx.ModelProto:
    inputs = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
    proto = model(nodes, inputs, list(outputs), stored, 18, [TRAINING])
    for value in proto.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, outputs[value.name]))
    return proto


def agrees(proto: onnx.ModelProto, feeds: Arrays, wanted: Sequence[torch.Tensor]) -> None:
    for got, other in zip(Model(proto).run(feeds), wanted, strict=True):
        np.testing.assert_allclose(got, other.detach().numpy(), rtol=1e-5, atol=1e-6)


def torches(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, requires_grad=True) for array in arrays]


NET = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("Mul", "t b", "y")]


@pytest.mark.parametrize("stored", [False, True])
def test_a_layer(stored: bool) -> None:
    """Of weights that are inputs, and of such that are stored."""
    x, w, b = floats(3, 4), floats(4, 5, seed=1), floats(5, seed=2)
    weights = {"w": w, "b": b}
    feeds = {"x": x} if stored else {"x": x, **weights}
    nodes = [*NET, grad("w b x", "dw db", "w b", "y", "x")]
    outputs = {"dw": w.shape, "db": b.shape}
    proto = built(nodes, feeds, outputs, weights if stored else None)
    tx, tw, tb = torches(x, w, b)
    result = (torch.tanh(tx @ tw) * tb).sum()
    agrees(proto, feeds, torch.autograd.grad(result, [tw, tb]))


def test_an_intermediate_tensor_and_an_output_that_nobody_wants() -> None:
    feeds = {"x": floats(3, 4), "w": floats(4, 5, seed=1), "b": floats(5, seed=2)}
    nodes = [*NET, grad("b h", "_ dh", "b h", "y")]
    h = torch.tensor(feeds["x"] @ feeds["w"], requires_grad=True)
    wanted = torch.autograd.grad((torch.tanh(h) * torch.tensor(feeds["b"])).sum(), [h])
    agrees(built(nodes, feeds, {"dh": (3, 5)}), feeds, wanted)


def test_at_other_values_than_those_of_the_graph() -> None:
    feeds = {"x": floats(3, 4), "w": floats(4, 5, seed=1), "b": floats(5, seed=2)}
    feeds["h1"] = floats(3, 5, seed=3)
    nodes = [*NET, grad("h1 b", "dh db", "h b", "y")]
    h, b = torches(feeds["h1"], feeds["b"])
    wanted = torch.autograd.grad((torch.tanh(h) * b).sum(), [h, b])
    agrees(built(nodes, feeds, {"dh": (3, 5), "db": (5,)}), feeds, wanted)


def test_two_names_of_one_tensor_are_two_variables() -> None:
    feeds = {"x": floats(4)}
    nodes = [node("Identity", "x", "z"), node("Mul", "x z", "y"), grad("z", "dz", "z", "y")]
    agrees(built(nodes, feeds, {"dz": (4,)}), feeds, [torch.tensor(feeds["x"])])


def test_stored_scalars() -> None:
    feeds = {"x": floats(4)}
    nodes = [node("Mul", "x s", "y"), grad("s x", "ds", "s", "y", "x")]
    proto = built(nodes, feeds, {"ds": ()}, {"s": np.array(3, "float32")})
    agrees(proto, feeds, [torch.tensor(feeds["x"].sum())])


def test_gradients_of_gradients() -> None:
    feeds = {"x": floats(4)}
    nodes = [
        node("Mul", "x x", "q"),
        node("Mul", "q x", "y"),
        grad("x", "first", "x", "y"),
        grad("x", "second", "x", "first"),
    ]
    (x,) = torches(feeds["x"])
    wanted = [3 * x * x, 6 * x]
    agrees(built(nodes, feeds, {"first": (4,), "second": (4,)}), feeds, wanted)


def test_what_y_does_not_depend_on() -> None:
    feeds = {"x": floats(4), "z": floats(3)}
    nodes = [node("Neg", "x", "y"), grad("x z", "dx dz", "x z", "y")]
    wanted = [-torch.ones(4), torch.zeros(3)]
    agrees(built(nodes, feeds, {"dx": (4,), "dz": (3,)}), feeds, wanted)


def test_dropout_has_one_mask() -> None:
    feeds = {"x": floats(64)}
    stored = {"r": np.array(0.5, "float32"), "on": np.array(True)}
    nodes = [node("Dropout", "x r on", "y", seed=3), grad("x", "dx", "x", "y")]
    proto = built(nodes, feeds, {"y": (64,), "dx": (64,)}, stored)
    case = Model(proto)
    assert [spec.name for spec in case.main.inputs] == ["x"]
    y, dx = case.run(feeds)
    np.testing.assert_allclose(y, dx * feeds["x"], rtol=1e-6)
    assert 0 < (dx == 0).sum() < 64


CASES = Path(onnx.__file__).parent / "backend" / "test" / "data" / "simple"


@pytest.mark.parametrize("name", ["add", "add_and_mul"])
def test_cases_of_onnx(name: str) -> None:
    folder = CASES / f"test_gradient_of_{name}"
    proto = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    feeds = {v.name: tensor(data / f"input_{i}.pb") for i, v in enumerate(proto.graph.input)}
    wanted = [tensor(data / f"output_{i}.pb") for i in range(len(proto.graph.output))]
    agrees(proto, feeds, [torch.tensor(array) for array in wanted])


def tensor(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load_tensor(path))


def test_a_network_with_a_loss() -> None:
    """A convolution, a pool and a loss, for any number of images."""
    weights = {"k": floats(3, 2, 3, 3, seed=1), "w": floats(12, 5, seed=2), "b": floats(5, seed=3)}
    feeds = {"x": floats(4, 2, 6, 6), "t": np.array([1, 4, 0, 2])}
    nodes = [
        node("Conv", "x k", "c"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f w b", "g"),
        node("SoftmaxCrossEntropyLoss", "g t", "loss"),
        grad("k w b x t", "dk dw db", "k w b", "loss", "x t"),
    ]
    outputs: dict[str, Sequence[int]] = {f"d{name}": a.shape for name, a in weights.items()}
    proto = built(nodes, feeds, {"loss": (), **outputs}, weights)
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    k, w, b = torches(*weights.values())
    hidden = torch.relu(torch.conv2d(torch.tensor(feeds["x"]), k))
    rows = torch.max_pool2d(hidden, 2).flatten(1) @ w + b
    loss = torch.nn.functional.cross_entropy(rows, torch.tensor(feeds["t"]))
    agrees(proto, feeds, [loss, *torch.autograd.grad(loss, [k, w, b])])


def body() -> onnx.GraphProto:
    info: Callable[..., Any] = helper.make_tensor_value_info
    return helper.make_graph(
        [node("Identity", "go", "on"), node("Mul", "s s", "t")],
        "body",
        [info("i", 7, ()), info("go", 9, ()), info("s", 1, (4,))],
        [info("on", 9, ()), info("t", 1, (4,))],
    )


REFUSED: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "inputs": ([node("Neg", "x", "y"), grad("x", "g", "x", "y", "n")], "it has 1 inputs"),
    "integers": ([node("Neg", "n", "y"), grad("n", "g", "n", "y")], "'n' is int64"),
    "nothing": ([grad("x", "g", "x", "y")], "no node of its graph makes 'y'"),
    "loop": (
        [node("Loop", "n _ x", "y", body=body()), grad("x", "g", "x", "y")],
        "loops and branches have no gradient",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    nodes, message = REFUSED[name]
    feeds = {"x": floats(4), "n": np.array(3)}
    with pytest.raises(UnsupportedOperator, match=message):
        capture(built(nodes, feeds, {"g": (4,)}))
