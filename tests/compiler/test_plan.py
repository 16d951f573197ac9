"""Plans before a build, and what differs between two, region by region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from edit_models import mlp
from onnx import TensorProto, helper

import nexus_compiler
from nexus_compiler import GraphBuilder
from nexus_compiler.build import CompileOptions, Memory
from nexus_compiler.cli.main import _run
from nexus_compiler.planning.plan import BUILD, REUSE, TargetPlan
from nexus_compiler.store.local import LocalStore
from nexus_runtime.artifact import Artifact

TARGET = "x86-64-v2"


def transformer(layers: int, wide: int | None = None) -> GraphBuilder:
    graph = GraphBuilder().input("x", (1, 6, 8))
    for number in range(layers):
        inner = 24 if number == wide else 16
        graph = graph.residual(lambda g: g.layer_norm().attention(2))
        graph = graph.residual(
            lambda g, inner=inner: g.layer_norm().dense(inner, activation="relu").dense(8)
        )
    return graph


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, LocalStore]:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    options = CompileOptions(store=store, memory=Memory())
    return nexus_compiler.compile(transformer(3), targets=[TARGET], options=options), store


def planned(model: GraphBuilder, built: tuple[Artifact, LocalStore]) -> TargetPlan:
    # As a new process plans: nothing is remembered but what the store has.
    options = CompileOptions(store=built[1], memory=Memory())
    (plan,) = nexus_compiler.plan(model, targets=[TARGET], against=built[0], options=options)
    return plan


def test_the_same_model_needs_nothing(built: tuple[Artifact, LocalStore]) -> None:
    plan = planned(transformer(3), built)
    assert plan.rebuilds == 0
    assert {row.action for row in plan.regions} == {REUSE}
    assert sum(row.places for row in plan.regions) > len(plan.regions), "layers share regions"


def test_more_equal_layers_need_nothing(built: tuple[Artifact, LocalStore]) -> None:
    assert planned(transformer(9), built).rebuilds == 0


def test_one_wider_layer_is_told_down_to_the_shape(built: tuple[Artifact, LocalStore]) -> None:
    rows = [row for row in planned(transformer(3, wide=1), built).regions if row.action == BUILD]
    assert [row.origin.split(",")[0] for row in rows] == ["dense_3", "dense_4"]
    assert "weight float32[8, 16] → float32[8, 24]" in rows[0].reason
    assert all(row.seconds > 0 for row in rows)
    assert all(row.location.startswith("test_plan.py:") for row in rows)


def test_planning_builds_nothing(built: tuple[Artifact, LocalStore]) -> None:
    before = {entry.digest for entry in built[1].entries("objects")}
    planned(transformer(2, wide=0), built)
    assert {entry.digest for entry in built[1].entries("objects")} == before


def test_objects_that_were_pruned_are_built_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    options = CompileOptions(store=store, memory=Memory())
    artifact = nexus_compiler.compile(transformer(1), targets=[TARGET], options=options)
    for entry in list(store.entries("objects")):
        store.path("objects", entry.digest).unlink()
    plan = planned(transformer(1), (artifact, store))
    assert plan.rebuilds == len(plan.regions)
    assert {row.reason for row in plan.regions} == {"the store does not have its objects"}
    again = nexus_compiler.compile(transformer(1), targets=[TARGET], options=options)
    assert again.digest == artifact.digest


def network(operator: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node(operator, ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, [4, 4], [0.1] * 16) for name in ("w1", "w2")
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def attention(order: str) -> onnx.ModelProto:
    """One head group of attention, whose projections stand in `order`; and a normalisation."""
    nodes, weights = [], []
    for name in order:
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}0"]),
            helper.make_node("Reshape", [f"{name}0", "heads"], [f"{name}1"]),
            helper.make_node("Transpose", [f"{name}1"], [name], perm=perm),
        ]
    for name in "qkv":
        values = [0.01 * (place % 7) for place in range(64)]
        weights.append(helper.make_tensor(f"w{name}", TensorProto.FLOAT, [8, 8], values))
    weights.append(helper.make_tensor("heads", TensorProto.INT64, [4], [1, 6, 2, 4]))
    vectors = [(name, [0.5] * 2) for name in ("scale", "shift", "mean")] + [("var", [1.5] * 2)]
    weights += [helper.make_tensor(name, TensorProto.FLOAT, [2], v) for name, v in vectors]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("BatchNormalization", ["o", *(name for name, _ in vectors)], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 6, 4])
    graph = helper.make_graph(nodes, "attention", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_independent_lines_may_change_places(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    options = CompileOptions(store=store, memory=Memory())
    before = nexus_compiler.compile(attention("qkv"), targets=[TARGET], options=options)
    for order in ("vkq", "kqv"):
        options = CompileOptions(store=store, memory=Memory())
        (plan,) = nexus_compiler.plan(
            attention(order), targets=[TARGET], against=before, options=options
        )
        assert plan.rebuilds == 0
        assert any("attention" in name for row in plan.regions for name in row.operators)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, operator in (("net.onnx", "Relu"), ("other.onnx", "Sigmoid")):
        onnx.save(network(operator), name)
    assert _run(["compile", "net.onnx", "--target", TARGET]) == 0
    return tmp_path


def test_ci_can_gate_on_a_plan(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compile", "other.onnx", "-o", "net.nxa", "--target", TARGET, "--plan", "--json"]
    capsys.readouterr()
    assert _run([*command, "--max-rebuilds", "0"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rebuilds"] >= 1
    assert not told["allowed"]
    reasons = [row["reason"] for row in told["targets"][0]["regions"]]
    assert any("relu → sigmoid" in reason for reason in reasons)
    assert _run([*command, "--max-rebuilds", "99"]) == 0


def test_explain_names_the_operator(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert _run(["explain", "net.nxa", "other.onnx", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["targets"][TARGET]
    assert any("relu → sigmoid" in change["reason"] for change in told["changes"])
    assert _run(["explain", "net.nxa", "net.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"][TARGET]["changes"] == []


def test_gates_belong_to_plans(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["compile", "net.onnx", "--max-rebuilds", "3"]) == 1
    assert "--plan" in capsys.readouterr().err


def test_targets_that_take_functions_whole_have_a_row_for_each(tmp_path: Path) -> None:
    options = CompileOptions(store=LocalStore(tmp_path), memory=Memory())

    def rows(widths: tuple[int, ...], against: Any = None) -> Any:
        (found,) = nexus_compiler.plan(
            mlp(widths=widths), targets=["xla-cpu"], against=against, options=options
        )
        return found

    (row,) = rows((16,)).regions
    assert (row.action, row.origin, row.kernels) == ("build", "main", 1)
    assert "never built" in row.reason
    built = nexus_compiler.compile(mlp(widths=(16,)), targets=["xla-cpu"], options=options)
    assert rows((16,)).rebuilds == 0
    edited = rows((24,), built)
    assert edited.rebuilds == 1
    assert edited.regions[0].reason == "the function changed"
