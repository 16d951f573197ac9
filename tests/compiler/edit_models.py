"""Small models of several kinds whose every detail can be edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nexus_compiler import GraphBuilder
from nexus_compiler.training.graph import training_graph


def mlp(
    *,
    batch: int | None = 4,
    features: int = 8,
    widths: Sequence[int] = (16, 16, 16),
    activations: Sequence[str] = ("relu", "relu", "relu"),
    biases: Sequence[bool] = (True, True, True),
    last: str = "softmax",
    shared: bool = False,
    prefix: str = "layer",
    seed: int = 0,
) -> GraphBuilder:
    """Dense layers `layer0`, `layer1`, ... and `head`; `shared`: layer2 has layer1's weights."""
    graph = GraphBuilder(seed=seed).input(f"{prefix}_x", (batch, features))
    for number, (width, function, bias) in enumerate(zip(widths, activations, biases)):
        share = f"{prefix}1" if shared and number == 2 else None
        name = f"{prefix}{number}"
        graph = graph.dense(width, activation=function, bias=bias, name=name, share=share)
    return graph.dense(3, activation=last, name=f"{prefix}_head")


def training(
    *,
    optimizer: str = "sgd",
    options: dict[str, Any] | None = None,
    loss: str = "cross_entropy",
    batch_size: int | None = None,
    **model: Any,
) -> Any:
    """Prediction, gradients and update of `mlp`, or of what `model` makes of it."""
    return training_graph(
        mlp(batch=None, **model),
        loss=loss,
        optimizer=optimizer,
        options=options or {},
        batch_size=batch_size,
    )


def residual_network(
    *,
    batch: int = 1,
    size: int = 6,
    blocks: int = 3,
    wide: int = 8,
    stem: int = 3,
    stride: int = 1,
    padding: int | str = 1,
    dilations: dict[int, int] | None = None,
    activations: dict[int, str] | None = None,
    epsilons: dict[int, float] | None = None,
    inner: dict[int, int] | None = None,
    classes: int = 4,
    prefix: str = "",
    seed: int = 0,
) -> GraphBuilder:
    """A stem, blocks of two convolutions with a way around them, and a head.

    Dictionaries say what differs in a block; of the stem, that is block -1.
    """
    graph = GraphBuilder(seed=seed).input(f"{prefix}image", (batch, 3, size, size))
    graph = graph.conv2d(wide, stem, stride=stride, padding=padding, name=f"{prefix}stem")
    graph = graph.batch_norm(name=f"{prefix}stem_norm", epsilon=(epsilons or {}).get(-1, 1e-5))
    graph = graph.activation("relu")
    for number in range(blocks):
        name = f"{prefix}block{number}"

        def path(g: GraphBuilder, name: str = name, number: int = number) -> GraphBuilder:
            filters = (inner or {}).get(number, wide)
            step = (dilations or {}).get(number, 1)
            g = g.conv2d(filters, 3, padding=step, dilation=step, name=f"{name}_a")
            g = g.batch_norm(name=f"{name}_na", epsilon=(epsilons or {}).get(number, 1e-5))
            g = g.activation((activations or {}).get(number, "relu"))
            return g.conv2d(wide, 3, padding=1, name=f"{name}_b").batch_norm(name=f"{name}_nb")

        graph = graph.residual(path).activation("relu")
    return graph.global_avg_pool().dense(classes, name=f"{prefix}head")


def transformer(
    *,
    batch: int | None = 1,
    steps: int = 6,
    size: int = 8,
    layers: int = 3,
    heads: int = 2,
    inner: dict[int, int] | None = None,
    activations: dict[int, str] | None = None,
    epsilons: dict[int, float] | None = None,
    causal: Sequence[int] = (),
    without_attention: Sequence[int] = (),
    extra: bool = False,
    prefix: str = "",
    seed: int = 0,
) -> GraphBuilder:
    """Layers of attention and of a network of two products; a last normalisation and a head."""
    graph = GraphBuilder(seed=seed).input(f"{prefix}x", (batch, steps, size))
    for number in range(layers):
        name = f"{prefix}l{number}"

        def attend(g: GraphBuilder, name: str = name, number: int = number) -> GraphBuilder:
            g = g.layer_norm(name=f"{name}_n1", epsilon=(epsilons or {}).get(number, 1e-5))
            return g.attention(heads, causal=number in causal, name=f"{name}_att")

        def think(g: GraphBuilder, name: str = name, number: int = number) -> GraphBuilder:
            function = (activations or {}).get(number, "gelu")
            g = g.layer_norm(name=f"{name}_n2", epsilon=(epsilons or {}).get(number, 1e-5))
            g = g.dense((inner or {}).get(number, 16), activation=function, name=f"{name}_up")
            return g.dense(size, name=f"{name}_down")

        if number not in without_attention:
            graph = graph.residual(attend)
        graph = graph.residual(think)
    graph = graph.layer_norm(name=f"{prefix}norm")
    if extra:
        graph = graph.dense(size, activation="tanh", name=f"{prefix}pool")
    return graph.dense(5, name=f"{prefix}head")


def recurrent(
    *,
    kind: str = "lstm",
    batch: int = 2,
    steps: int = 4,
    features: int = 4,
    units: int = 5,
    backwards: bool = False,
    classes: int = 3,
    prefix: str = "",
    seed: int = 0,
) -> GraphBuilder:
    """A recurrent layer `cell` and a `head`."""
    graph = GraphBuilder(seed=seed).input(f"{prefix}x", (batch, steps, features))
    layer = graph.lstm if kind == "lstm" else graph.gru
    graph = layer(units, backwards=backwards, name=f"{prefix}cell")
    return graph.dense(classes, name=f"{prefix}head")


def branches(
    *,
    batch: int | str = 2,
    dtype: str = "float32",
    scale: float = 0.5,
    slope: float = 0.1,
    axis: int = -1,
    order: Sequence[int] = (0, 1, 2, 3, 4, 5, 6, 7),
    swapped: bool = False,
    prefix: str = "",
    seed: int = 0,
) -> onnx.ModelProto:
    """Two products of one input, each with what follows it, and a product of their sum.

    `order` is the order in which the nodes stand in the file, `swapped` that of the sum.
    """
    random = np.random.default_rng(seed)
    shapes = {"left.w": (6, 8), "right.w": (6, 8), "last.w": (8, 3)}
    arrays = {n: random.standard_normal(s).astype(dtype) for n, s in shapes.items()}
    arrays["scale"] = np.array(scale, dtype)
    terms = ["ls", "rl"]

    def node(kind: str, reads: Sequence[str], makes: str, **attributes: Any) -> onnx.NodeProto:
        names = [prefix + name for name in (*reads, makes)]
        return helper.make_node(kind, names[:-1], names[-1:], **attributes)

    nodes = [
        node("MatMul", ["x", "left.w"], "l"),
        node("Mul", ["l", "scale"], "lm"),
        node("Sigmoid", ["lm"], "ls"),
        node("MatMul", ["x", "right.w"], "r"),
        node("LeakyRelu", ["r"], "rl", alpha=slope),
        node("Add", terms[::-1] if swapped else terms, "sum"),
        node("MatMul", ["sum", "last.w"], "p"),
        node("Softmax", ["p"], "y", axis=axis),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [nodes[place] for place in order],
        f"{prefix}net",
        [helper.make_tensor_value_info(f"{prefix}x", kind, [batch, 6])],
        [helper.make_tensor_value_info(f"{prefix}y", kind, [batch, 3])],
        [numpy_helper.from_array(array, prefix + name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
