"""Which kernels no schedule knows, and how much of a model's time they can be at most.

Over the models of the zoo, networks of the benchmarks and of other kinds, and a training step.
Nothing is run: times are counted work over what a machine can do, so that the test says the same on
every machine. Plain loops are taken to be slow and everything else to be as fast as AVX-512 allows:
shares are too large rather than too small.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import tvm
import zoo
from torch import nn
from tvm import relax, tirx

from nexus_compiler import pipeline, targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.codegen.llvm import work
from nexus_compiler.frontend import capture
from nexus_compiler.frontend.builder import GraphBuilder
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes import base
from nexus_compiler.training.graph import training_graph
from nexus_runtime.work import NAIVE, Kernel

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import networks

# Operations and bytes a second: of one core that does its best, and of plain loops.
_BEST, _PLAIN = (240e9, 100e9), (1e9, 4e9)
_SHARE = 0.01
# Kernels by the operators that they compute, for each model. To shorten a list is progress: the
# test says which entries are no longer true.
KNOWN: dict[str, set[str]] = {}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ocr-detect": {"x": (1, 3, 160, 160)},
    "ocr-orient": {"x": (1, 3, 48, 192)},
    "ocr-recognise": {"x": (1, 3, 48, 320)},
    "magika": {"bytes": (1, 2048)},
}
NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (lambda: networks.mlp(784, 256, 10), (32, 784)),
    "lenet": (networks.lenet, (1, 1, 28, 28)),
    "bert": (networks.Encoder, (1, 128, 768)),
    "residual": (lambda: networks.Residual(_body(), 64, 128, 2), (1, 64, 56, 56)),
    "groups": (lambda: nn.Conv2d(128, 128, 3, padding=1, groups=32), (1, 128, 56, 56)),
    "segmentation": (lambda: nn.Conv2d(64, 1, 3, padding=1), (1, 64, 128, 128)),
    "speech": (lambda: nn.Conv1d(256, 256, 31, padding=15, groups=16), (1, 256, 200)),
    "volume": (lambda: nn.Conv3d(4, 16, 3, padding=1), (1, 4, 16, 32, 32)),
    "recurrent": (lambda: nn.LSTM(64, 64, batch_first=True), (4, 8, 64)),
    "norms": (lambda: nn.Sequential(nn.GroupNorm(8, 64), nn.InstanceNorm2d(64)), (1, 64, 28, 28)),
}


def _body() -> nn.Module:
    return nn.Sequential(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1))


@dataclass(frozen=True)
class Found:
    """A kernel, how often it is called, and the time that its calls take at most or at least."""

    kernel: Kernel
    seconds: float

    @property
    def naive(self) -> bool:
        return self.kernel.family == NAIVE


def kernels(graph: CapturedGraph, target: str) -> list[Found]:
    """All kernels but those that run once, at load; nothing is built."""
    spec = targets.load(target)
    room = room_for(spec)
    module = pipeline.common(graph)
    module = base.run(module, (*room.graph_passes(spec), *room.region_passes(spec)))
    calls = _calls(module)
    return [
        Found(kernel, calls[name] * _seconds(kernel))
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc) and calls[name := str(variable.name_hint)]
        for kernel in [work.describe(function, name)]
    ]


def _calls(module: tvm.IRModule) -> Counter[str]:
    found: Counter[str] = Counter()

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call):
            parts = (node.op, *node.args[:1])
            found.update(str(p.name_hint) for p in parts if isinstance(p, tvm.ir.GlobalVar))

    for variable, function in module.functions.items():
        if isinstance(function, relax.Function) and not variable.name_hint.endswith("__prepare"):
            relax.analysis.post_order_visit(function, visit)
    return found


def _seconds(kernel: Kernel) -> float:
    arithmetic, memory = _PLAIN if kernel.family == NAIVE else _BEST
    elements = [math.prod(map(int, re.findall(r"\d+", s.partition("[")[2]))) for s in kernel.shapes]
    flops = kernel.flops if isinstance(kernel.flops, int) else 0
    if kernel.family == NAIVE:
        # At least a look at everything: what a loop over pairs does is not counted as operations.
        return max(flops, sum(elements)) / arithmetic + 4 * sum(elements) / memory
    moved = kernel.bytes if isinstance(kernel.bytes, int) else 0
    return max(flops / arithmetic, moved / memory)


def check(name: str, graph: CapturedGraph, target: str = "x86-64-v4") -> list[Found]:
    """What is slow is known, and of no weight."""
    found = kernels(graph, target)
    assert {one.kernel.label for one in found if one.naive} == KNOWN.get(name, set())
    total = sum(one.seconds for one in found)
    slow = {one.kernel.label: one.seconds / total for one in found if one.naive}
    assert all(share <= _SHARE for share in slow.values()), slow
    return found


@pytest.mark.parametrize("target", ["x86-64-v4", "cortex-a72"])
@pytest.mark.parametrize("name", SHAPES)
def test_models_of_the_zoo(name: str, target: str) -> None:
    graph = capture(zoo.fetch(name), shapes=SHAPES[name])
    found = check(name, graph, target)
    assert len({one.kernel.family for one in found}) > 1, "several are at work"


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    make, shape = NETWORKS[name]
    with torch.no_grad():
        check(name, capture(make().eval(), args=(torch.zeros(shape),)))


def test_the_decoder() -> None:
    network = networks.Decoder(1).eval()
    args = (torch.zeros(1, 1, dtype=torch.int64), torch.zeros(2, 1, 12, 127, 64))
    with torch.no_grad():
        check("decoder", capture(network, args=args))


def test_a_training_step() -> None:
    builder = GraphBuilder().input("x", (None, 3, 32, 32)).conv2d(32, 3, padding=1, bias=False)
    builder = builder.batch_norm().activation("relu").max_pool2d(2)
    builder = builder.conv2d(64, 3, stride=2, padding=1, activation="relu")
    builder = builder.global_avg_pool().flatten().dense(64, activation="gelu").layer_norm()
    builder = builder.dense(10, activation="softmax")
    options: Any = {"loss": "cross_entropy", "optimizer": "adam", "options": {}}
    check("training", training_graph(builder, batch_size=32, **options))
