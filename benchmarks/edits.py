"""The edits of `incremental.py`: networks with one layer of another width, as PyTorch and as ONNX.

The ONNX file is written from the module itself, layer by layer and without an exporter, so that all
contenders compute the same function of the same weights, and names, order and weights can be edited
one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn


@dataclass(frozen=True)
class Model:
    """A network with one layer that is edited.

    Attributes:
        kind: "resnet" or "transformer".
        layers: of a transformer.
        width, length: of a transformer, or classes and side of the image.
        usual: the width of the edited layer before the edit.
    """

    kind: str
    width: int
    length: int
    usual: int
    layers: int = 0

    def module(self, width: int | None = None, seed: int = 0) -> nn.Sequential:
        """The network; the edited layer is `width` wide. Its other weights follow from `seed`."""
        torch.manual_seed(seed)
        if self.kind == "resnet":
            small = self.length < 224
            found = networks.resnet18(10, small=True) if small else networks.resnet50()
            if width is not None:
                blocks = [one for one in found if isinstance(one, networks.Residual)]
                _widen(blocks[len(blocks) // 2 + 1].body, width)
        else:
            found = networks.transformer(self.layers, self.width, self.length)
            if width is not None:
                layer = found[self.layers // 3]
                layer.up = nn.Linear(self.width, width)
                layer.down = nn.Linear(width, self.width)
        return found.eval()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input."""
        image = (1, 3, self.length, self.length)
        return image if self.kind == "resnet" else (1, self.length, self.width)

    def input(self) -> np.ndarray:
        """The same for all."""
        return np.random.default_rng(0).standard_normal(self.shape).astype(np.float32)


FULL = {
    "resnet50": Model("resnet", 1000, 224, 256),
    "transformer24": Model("transformer", 256, 64, 1024, 24),
}
QUICK = {
    "resnet18 of 32 x 32": Model("resnet", 10, 32, 256),
    "transformer4": Model("transformer", 64, 16, 256, 4),
}
MODELS = FULL | QUICK


def _widen(body: nn.Module, width: int) -> None:
    """Make the inner channels of a residual block's body `width`."""
    parts = [part for part in body if isinstance(part, nn.Sequential)]
    for place, part in enumerate(parts):
        old = part[0]
        before = width if place else old.in_channels
        after = old.out_channels if place == len(parts) - 1 else width
        part[0] = nn.Conv2d(before, after, old.kernel_size, old.stride, old.padding, bias=False)
        part[1] = nn.BatchNorm2d(after)


@dataclass
class Writer:
    """Writes a module of `networks` as ONNX.

    Attributes:
        prefix: of every name.
        backwards: whether lines that do not depend on one another change places.
    """

    prefix: str = ""
    backwards: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    weights: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def write(self, module: nn.Sequential, shape: Sequence[int], path: Path) -> Path:
        """Write `module` with an input of `shape` to `path`."""
        given, made = f"{self.prefix}x", f"{self.prefix}y"
        last = self.module("", module, given)
        self.nodes.append(helper.make_node("Identity", [last], [made]))
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "main",
            [helper.make_tensor_value_info(given, kind, list(shape))],
            [helper.make_tensor_value_info(made, kind, [1, module[-1].out_features])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, str(path))
        return path

    def node(self, operator: str, *reads: str, **attributes: Any) -> str:
        """The name of the result of one operator."""
        name = f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(reads), [name], **attributes))
        return name

    def weight(self, name: str, value: torch.Tensor | np.ndarray) -> str:
        """The name of a constant."""
        name = f"{self.prefix}{name}"
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def module(self, name: str, module: nn.Module, x: str) -> str:
        """The name of what `module` makes of `x`."""
        handler = getattr(self, f"_{type(module).__name__.lower()}")
        return handler(name, module, x)

    def _all(self, name: str, module: nn.Module, *tensors: str) -> list[str]:
        return [self.weight(f"{name}.{one}", getattr(module, one)) for one in tensors]

    def _sequential(self, name: str, module: nn.Sequential, x: str) -> str:
        for place, part in module.named_children():
            x = self.module(f"{name}.{place}" if name else place, part, x)
        return x

    def _conv2d(self, name: str, module: nn.Conv2d, x: str) -> str:
        pads = [*module.padding, *module.padding]
        weights = self._all(name, module, "weight")
        return self.node("Conv", x, *weights, strides=module.stride, pads=pads)

    def _batchnorm2d(self, name: str, module: nn.BatchNorm2d, x: str) -> str:
        weights = self._all(name, module, "weight", "bias", "running_mean", "running_var")
        return self.node("BatchNormalization", x, *weights, epsilon=module.eps)

    def _layernorm(self, name: str, module: nn.LayerNorm, x: str) -> str:
        weights = self._all(name, module, "weight", "bias")
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=module.eps)

    def _linear(self, name: str, module: nn.Linear, x: str) -> str:
        weight = self.weight(f"{name}.weight", module.weight.detach().numpy().T)
        return self.node("Add", self.node("MatMul", x, weight), *self._all(name, module, "bias"))

    def _relu(self, name: str, module: nn.ReLU, x: str) -> str:
        return self.node("Relu", x)

    def _maxpool2d(self, name: str, module: nn.MaxPool2d, x: str) -> str:
        size, stride, pad = module.kernel_size, module.stride, module.padding
        pads = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("MaxPool", x, **pads)

    def _adaptiveavgpool2d(self, name: str, module: nn.Module, x: str) -> str:
        return self.node("GlobalAveragePool", x)

    def _flatten(self, name: str, module: nn.Module, x: str) -> str:
        return self.node("Flatten", x)

    def _identity(self, name: str, module: nn.Module, x: str) -> str:
        return x

    def _residual(self, name: str, module: networks.Residual, x: str) -> str:
        parts = {"body": module.body, "skip": module.skip}
        made = {one: self.module(f"{name}.{one}", parts[one], x) for one in self._order(parts)}
        return self.node("Relu", self.node("Add", made["body"], made["skip"]))

    def _order(self, parts: Any) -> list[str]:
        return list(reversed(parts)) if self.backwards else list(parts)

    def _encoder(self, name: str, module: networks.Encoder, x: str) -> str:
        found: dict[str, str] = {}
        for one in self._order({"q": 0, "k": 0, "v": 0}):
            made = self._linear(f"{name}.{one}", getattr(module, one), x)
            split = np.array([0, 0, module.heads, -1], np.int64)
            made = self.node("Reshape", made, self.weight(f"{name}.{one}.split", split))
            perm = [0, 2, 3, 1] if one == "k" else [0, 2, 1, 3]
            found[one] = self.node("Transpose", made, perm=perm)
        size = module.q.out_features // module.heads
        scale = self.weight(f"{name}.scale", np.array(size**-0.5, np.float32))
        scores = self.node("Mul", self.node("MatMul", found["q"], found["k"]), scale)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), found["v"])
        merged = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        join = self.weight(f"{name}.join", np.array([0, 0, -1], np.int64))
        out = self._linear(f"{name}.out", module.out, self.node("Reshape", merged, join))
        x = self._layernorm(f"{name}.first", module.first, self.node("Add", x, out))
        up = self.node("Gelu", self._linear(f"{name}.up", module.up, x))
        down = self._linear(f"{name}.down", module.down, up)
        return self._layernorm(f"{name}.second", module.second, self.node("Add", x, down))


def write(model: Model, path: Path, width: int | None = None, seed: int = 0, **how: Any) -> Path:
    """`model` as an ONNX file; `how` is of `Writer`."""
    return Writer(**how).write(model.module(width, seed), model.shape, path)
