"""Regions: how graphs are cut, what counts in a region and what does not, layers that repeat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import edit_models
import numpy as np
import pytest
from edit_models import branches, mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import reference
from tvm import IRModule, relax, tirx

from nexus_compiler import pipeline, targets
from nexus_compiler.build import CompileOptions, Memory, build_target, outlined
from nexus_compiler.codegen import inline, package
from nexus_compiler.codegen.door import room_for
from nexus_compiler.frontend import capture
from nexus_compiler.ir.dataflow import Interner, read, variables_of
from nexus_compiler.ir.region import RegionTable
from nexus_compiler.passes.cluster import clusters
from nexus_compiler.passes.layers import Layers, is_layer
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.store.local import LocalStore
from nexus_runtime import load

TARGET = "x86-64-v2"


def cut(model: Any, memory: Memory | None = None) -> Outlined:
    target = targets.load(TARGET)
    options = CompileOptions(memory=memory or Memory())
    return outlined(pipeline.common(capture(model)), target, room_for(target), options)


def digests(model: Any, memory: Memory | None = None) -> list[str]:
    found = cut(model, memory)
    return [found.regions[place.region].digest for place in found.places]


UNARY = (relax.op.nn.relu, relax.op.tanh, relax.op.sigmoid, relax.op.sum)
STEPS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=24
)


def graph(steps: list[tuple[int, int, int]], order: list[int] | None = None) -> relax.Function:
    """A graph of unary functions, sums, products, sums to a scalar, and opaque calls."""
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 4), "float32"))
    with block.function("main", [x]):
        with block.dataflow():
            made = [x]
            for kind, one, other in steps:
                a, b = made[one % len(made)], made[other % len(made)]
                if kind < 3:
                    value = UNARY[kind](a)
                elif kind == 3:
                    value = relax.op.add(a, relax.op.sum(b))
                elif kind == 4:
                    value = relax.op.matmul(a, b)
                elif kind == 5:
                    value = relax.op.call_pure_packed("somebody", a, ty_args=[x.ty])
                else:
                    value = relax.op.add(a, b)
                made.append(block.emit(value))
            last = block.emit_output(made[-1])
        block.emit_func_output(last)
    return block.get()["main"]


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_clusters_can_run_one_after_another(steps: list[tuple[int, int, int]]) -> None:
    nodes = read(graph(steps), {}, Interner())
    assert nodes is not None
    found = clusters(nodes, set())
    positions = [node.position for cluster in found for node in cluster.nodes]
    assert sorted(positions) == list(range(len(nodes))), "every node is in one cluster"
    home = {node.position: place for place, c in enumerate(found) for node in c.nodes}
    made = variables_of(nodes)
    for node in nodes:
        sources = [home[made[v].position] for v in node.reads if v in made]
        assert all(source <= home[node.position] for source in sources), "no cycle, right order"
        if node.operator is None:
            assert len(found[home[node.position]].nodes) == 1, "opaque nodes stand alone"


@settings(max_examples=40, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_count(steps: list[Any], random: Any) -> None:
    function = graph(steps)
    nodes = read(function, {}, interner := Interner())
    assert nodes is not None
    table = RegionTable(interner)
    made = variables_of(nodes)
    for cluster in clusters(nodes, set()):
        if cluster.is_opaque:
            continue
        own = {node.position for node in cluster.nodes}
        used = {n.binding.var for n in cluster.nodes if n.position == max(own)}
        shuffled: list[Any] = []
        left = list(cluster.nodes)
        while left:
            waiting = {node.position for node in left}
            ready = [
                n
                for n in left
                if not any(v in made and made[v].position in waiting for v in n.reads)
            ]
            left.remove(chosen := random.choice(ready))
            shuffled.append(chosen)
        one = table.occurrence(cluster.nodes, set(), used, {})
        other = table.occurrence(shuffled, set(), used, {})
        assert one is not None
        assert other is not None
        assert one.region is other.region


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        ({"prefix": "new"}, True),
        ({"seed": 5}, True),
        ({"order": (3, 0, 4, 1, 2, 5, 6, 7)}, True),
        ({"scale": 0.25}, False),
        ({"slope": 0.2}, False),
        ({"dtype": "float64"}, False),
        ({"batch": 3}, False),
        ({"batch": "n"}, False),
    ],
)
def test_what_counts(edit: dict[str, Any], same: bool) -> None:
    memory = Memory()
    assert (digests(branches(), memory) == digests(branches(**edit), memory)) == same
    # Signatures and digests agree: without what is remembered the answer is the same.
    assert (digests(branches()) == digests(branches(**edit))) == same


def test_which_open_sizes_are_equal_counts() -> None:
    def one(first: str, second: str) -> str:
        block = relax.BlockBuilder()
        sizes = {name: tirx.Var(name, "int64") for name in (first, second)}
        x = relax.Var("x", relax.TensorType((sizes[first], sizes[second]), "float32"))
        with block.function("main", [x]):
            with block.dataflow():
                out = block.emit_output(relax.op.tanh(relax.op.nn.relu(x)))
            block.emit_func_output(out)
        nodes = read(block.get()["main"], {}, table.interner)
        assert nodes is not None
        found = table.occurrence(nodes, set(), {nodes[-1].binding.var}, {})
        assert found is not None
        return found.region.digest

    table = RegionTable()
    assert one("n", "m") == one("rows", "columns") != one("n", "n")


def layered(module: IRModule, least_times: int = 2) -> IRModule:
    """`module` with functions for layers that come that often."""
    return Layers(least_times=least_times).apply(module)


def layers_of(model: Any, least_times: int = 2) -> list[str]:
    module = layered(pipeline.common(capture(model)), least_times)
    return [str(v.name_hint) for v, f in module.functions.items() if is_layer(f)]


def test_layers_grow_neither_kernels_nor_functions() -> None:
    small, large = (edit_models.transformer(layers=n) for n in (16, 40))
    assert len(layers_of(small, 16)) == len(layers_of(large, 16)) == 1
    assert set(cut(small).regions) == set(cut(large).regions)
    # Forty layers stand in more than twice as many places, each with its own weights.
    few, many = cut(small).places, cut(large).places
    assert len(many) > 2 * len(few)
    assert len({place.weights for place in many if place.weights}) > 40


def test_few_layers_stay_in_line() -> None:
    assert not layers_of(edit_models.transformer(layers=3), 9)


@pytest.mark.parametrize(
    "edit", [{}, {"inner": {9: 24}}, {"causal": (9,)}, {"epsilons": {0: 1e-3, 18: 1e-3}}], ids=str
)
def test_a_layer_that_is_edited_leaves_the_others_one_function(edit: dict[str, Any]) -> None:
    module = pipeline.common(capture(edit_models.transformer(layers=19, **edit)))
    (layer,) = [v for v, f in module.functions.items() if is_layer(f)]
    calls = [b.value for b in module["main"].body.blocks[0].bindings if b.value.ty is not None]
    count = sum(getattr(value, "op", None) == layer for value in calls)
    assert count >= 19 - 2 * bool(edit)


@pytest.mark.parametrize("edit", [{}, {"inner": {9: 24}}, {"causal": (9,)}], ids=str)
def test_layers_do_not_change_regions(edit: dict[str, Any]) -> None:
    graph = capture(edit_models.transformer(layers=19, **edit))
    folded = pipeline.common(graph)
    target, in_line = targets.load(TARGET), inline.layers(folded)
    assert len(in_line.functions) == len(folded.functions) - 1

    def found(module: IRModule) -> list[tuple[str, ...]]:
        options = CompileOptions(memory=Memory())
        places = outlined(module, target, room_for(target), options).places
        return [(place.region, *place.weights) for place in places]

    # But for the last: its function hands out what only the others need.
    same = [one == other for one, other in zip(found(folded), found(in_line), strict=True)]
    assert same.count(False) <= 1


def test_layers_that_share_a_weight_are_found() -> None:
    apart, shared = cut(mlp(activations=("relu",) * 3)), cut(mlp(shared=True))
    assert list(apart.regions) == list(shared.regions)
    assert [p.weights for p in shared.places][1] == [p.weights for p in shared.places][2]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_digests_are_the_same_in_every_process(hash_seed: str) -> None:
    program = (
        "import edit_models as m, test_regions as t;"
        "print(*t.digests(m.transformer(layers=2)), *t.digests(m.branches()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    own = digests(edit_models.transformer(layers=2)) + digests(branches())
    assert done.stdout.split() == own


def run(model: Any, least_times: int, path: Path, x: np.ndarray) -> np.ndarray:
    """What a build gives whose layers are functions from `least_times` repetitions on."""
    target, graph = targets.load(TARGET), capture(model)
    room, module = room_for(target), layered(pipeline.common(graph), least_times)
    options = CompileOptions(store=LocalStore(path / "store"), memory=Memory())
    made = build_target(module, graph, target, room, options)
    package.assemble(graph, module, [made], flags={}).save(path / f"{least_times}.nxa")
    return np.asarray(load(path / f"{least_times}.nxa")(x))


def test_layers_as_functions_compute_the_same(tmp_path: Path) -> None:
    model = edit_models.transformer(layers=4)
    x = np.random.default_rng(0).standard_normal((1, 6, 8)).astype("float32")
    assert layers_of(model)
    np.testing.assert_array_equal(run(model, 2, tmp_path, x), run(model, 10**6, tmp_path, x))


def test_regions_compute_what_onnx_runtime_does(tmp_path: Path) -> None:
    model = branches()
    x = np.random.default_rng(0).standard_normal((2, 6)).astype("float32")
    (wanted,) = reference(model, {"x": x})
    np.testing.assert_allclose(run(model, 2, tmp_path, x), wanted, rtol=1e-5, atol=1e-6)
