"""Which kernels no schedule knows, over the models of the zoo and the networks of the benchmarks.

`benchmarks/` tells how much of the time they take; here only the list must not grow.
"""

from __future__ import annotations

import pytest
import zoo
from tvm import tirx

from nexus_compiler import targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.codegen.llvm import work
from nexus_compiler.frontend import capture
from nexus_compiler.frontend.builder import GraphBuilder
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes import base, pipelines
from nexus_compiler.training.graph import training_graph
from nexus_runtime.work import NAIVE

# Kernels by the operators that they compute, for each model. To shorten a list is progress: the
# test says which entries are no longer true.
KNOWN: dict[str, set[str]] = {}
KNOWN_IN_TRAINING = {
    "kernel equal cast",  # argmax of the prediction against the label
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ocr-detect": {"x": (1, 3, 160, 160)},
    "ocr-orient": {"x": (1, 3, 48, 192)},
    "ocr-recognise": {"x": (1, 3, 48, 320)},
    "magika": {"bytes": (1, 2048)},
}


def families(graph: CapturedGraph, target: str) -> dict[str, str]:
    """The family of each kernel by its operators; nothing is built."""
    spec = targets.load(target)
    module = base.run(graph.module, pipelines.common())
    room = room_for(spec)
    module = base.run(module, (*room.graph_passes(spec), *room.region_passes(spec)))
    told = [
        work.describe(function, str(variable.name_hint))
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    ]
    # Of two kernels with equal operators the naive one counts.
    return {k.label: k.family for k in sorted(told, key=lambda k: k.family == NAIVE)}


@pytest.mark.parametrize("target", ["x86-64-v4", "cortex-a72"])
@pytest.mark.parametrize("name", SHAPES)
def test_no_more_kernels_fall_through(name: str, target: str) -> None:
    found = families(capture(zoo.fetch(name), shapes=SHAPES[name]), target)
    assert len(set(found.values()) - {NAIVE}) > 1, "several families are at work"
    naive = {label for label, family in found.items() if family == NAIVE}
    assert naive == KNOWN.get(name, set())


def test_no_more_kernels_fall_through_in_training() -> None:
    builder = GraphBuilder().input("x", (None, 3, 16, 16)).conv2d(8, 3, padding=1, bias=False)
    builder = builder.batch_norm().activation("relu").max_pool2d(2)
    builder = builder.conv2d(16, 3, stride=2, padding=1, activation="relu")
    builder = builder.global_avg_pool().flatten().dense(16, activation="gelu").layer_norm()
    builder = builder.dense(10, activation="softmax")
    graph = training_graph(builder, loss="cross_entropy", optimizer="adam", options={})
    found = families(graph, "x86-64-v4")
    naive = {label for label, family in found.items() if family == NAIVE}
    assert naive == KNOWN_IN_TRAINING
