"""Conditions and loops on data, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import floats, model, node, reference
from onnx_pipeline import check, subgraph
from tvm import relax

import nexus_compiler
import nexus_runtime
from nexus_compiler.build import CompileOptions, Memory
from nexus_compiler.frontend.onnx import capture
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import UnsupportedOperator

ONE = {"x": ("float32", ("n", 20))}


def condition(then: list[onnx.NodeProto], otherwise: list[onnx.NodeProto]) -> onnx.ModelProto:
    branches = [subgraph(nodes, {}, {"z": "float32"}) for nodes in (then, otherwise)]
    nodes = [node("Relu", "x", "r"), node("If", "c", "y")]
    nodes[1].attribute.extend(
        onnx.helper.make_attribute(f"{name}_branch", graph)
        for name, graph in zip(("then", "else"), branches)
    )
    constants = {"w": floats(20), "zero": np.array([0]), "one": np.array([1])}
    return model(nodes, {**ONE, "c": ("bool", ())}, ("y", "r"), constants)


def both() -> list[dict[str, np.ndarray]]:
    return [{"x": floats(3, 20), "c": np.array(flag)} for flag in (True, False)]


def test_branches_see_what_is_around_them() -> None:
    graph = check(condition([node("Mul", "r w", "z")], [node("Neg", "x", "z")]), *both())
    assert graph.signature.functions[0].outputs[0].shape == ("n", 20)


def test_branches_of_different_shapes_have_a_size_that_the_run_tells() -> None:
    slicing = [node("Slice", "x zero one", "s"), node("Neg", "s", "z")]
    graph = check(condition([node("Mul", "r w", "z")], slicing), *both())
    assert graph.signature.functions[0].outputs[0].shape == ("y_0", 20)


def test_branches_may_be_constants() -> None:
    # The graph computes nothing but the condition, and that is there already.
    branches = {
        f"{name}_branch": subgraph(
            [node("Constant", "", "z", value=onnx.numpy_helper.from_array(floats(5, seed=seed)))],
            {},
            {"z": "float32"},
        )
        for seed, name in enumerate(("then", "else"))
    }
    proto = model([node("If", "c", "y", **branches)], {"c": ("bool", ())})
    compiled = nexus_runtime.load(nexus_compiler.compile(capture(proto)))
    for flag in (True, False):
        (wanted,) = reference(proto, {"c": np.array(flag)})
        np.testing.assert_array_equal(np.asarray(compiled(np.array(flag))), wanted)


def test_branches_of_different_types_are_refused() -> None:
    proto = condition([node("Mul", "r w", "z")], [node("ReduceSum", "x", "z", keepdims=0)])
    with pytest.raises(UnsupportedOperator, match="If node 'y'.*2 dimensions.*0"):
        capture(proto)


def test_conditions_within_conditions() -> None:
    inner = {
        f"{name}_branch": subgraph([node(kind, "r", "q")], {}, {"q": "float32"})
        for name, kind in (("then", "Exp"), ("else", "Neg"))
    }
    nested = [node("ReduceMax", "x", "m", keepdims=0), node("Less", "m big", "d")]
    nested += [node("If", "d", "z", **inner)]
    proto = condition(nested, [node("Neg", "x", "z")])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, "float32"), "big"))
    feeds = [{"x": sign * np.abs(floats(3, 20)), "c": np.array(True)} for sign in (1, -1)]
    check(proto, *(f | {"x": f["x"].astype("float32")} for f in feeds))


def accumulating(until: float) -> onnx.ModelProto:
    """Adds 1 up to m times, while the sum of all is below `until`; gives every state times x."""
    nodes = [
        node("Add", "s w", "s1"),
        node("Mul", "s1 x", "row"),
        node("ReduceSum", "s1", "t", keepdims=0),
        node("Less", "t big", "go"),
    ]
    body = subgraph(
        nodes,
        {"i": "int64", "going": "bool", "s": "float32"},
        {"go": "bool", "s1": "float32", "row": "float32"},
    )
    inputs = {**ONE, "m": ("int64", ()), "c": ("bool", ()), "s0": ("float32", ("n", 20))}
    constants = {"w": np.ones(20, "float32"), "big": np.array(until, "float32")}
    return model([node("Loop", "m c s0", "y rows", body=body)], inputs, ("y", "rows"), constants)


def test_loops_end_by_count_or_condition() -> None:
    feeds = [
        {"x": floats(3, 20), "s0": floats(3, 20, seed=2), "m": np.array(m), "c": np.array(c)}
        for m, c in ((5, True), (100, True), (1, True), (0, True), (7, False))
    ]
    graph = check(accumulating(1e3), *feeds, exact_empty=False)
    assert graph.signature.functions[0].outputs[1].shape == ("rows_0", "n", 20)


def test_a_long_loop_does_not_overflow_the_stack() -> None:
    proto = accumulating(1e30)
    feeds = {"x": floats(1, 20), "s0": 0 * floats(1, 20), "c": np.array(True)}
    module = nexus_runtime.load(nexus_compiler.compile(proto))
    last = module.run("main", {**feeds, "m": np.array(20000)})
    assert last["rows"].shape == (20000, 1, 20)
    np.testing.assert_array_equal(last["y"], np.full((1, 20), 20000, "float32"))


def growing(**constants: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Concat", "s x", "s1", axis=0), node("ReduceSum", "s1", "t", keepdims=0)]
    nodes.append(node("Identity", "going", "go"))
    body = subgraph(
        nodes,
        {"i": "int64", "going": "bool", "s": "float32"},
        {"go": "bool", "s1": "float32", "t": "float32"},
    )
    inputs = {**ONE, "s0": ("float32", ("k", 20))}
    inputs |= {} if constants else {"m": ("int64", ())}
    return model([node("Loop", "m _ s0", "y t", body=body)], inputs, ("y", "t"), constants)


def test_a_state_may_grow() -> None:
    feeds = {"x": floats(3, 20), "s0": floats(2, 20, seed=2)}
    check(growing(), *({**feeds, "m": np.array(m)} for m in (0, 1, 9)), tol=1e-4)


def test_few_certain_steps_are_written_out() -> None:
    feeds = {"x": floats(3, 20), "s0": floats(2, 20, seed=2)}
    graph = check(growing(m=np.array(3)), feeds, tol=1e-4)
    assert [str(v.name_hint) for v in graph.module.functions] == ["main"]
    assert graph.signature.functions[0].outputs[0].shape == ("n * 3 + k", 20)


def test_many_certain_steps_are_a_loop() -> None:
    feeds = {"x": floats(3, 20), "s0": floats(2, 20, seed=2)}
    graph = check(growing(m=np.array(11)), feeds, tol=1e-4)
    private = [f for f in graph.module.functions.values() if isinstance(f, relax.Function)]
    assert len(private) == 7
    assert graph.signature.functions[0].outputs[1].shape == (11,)


def test_a_loop_without_limit_ends_by_its_condition() -> None:
    nodes = [node("Mul", "s two", "s1"), node("Less", "s1 big", "go")]
    body = subgraph(
        nodes, {"i": "int64", "c": "bool", "s": "float32"}, {"go": "bool", "s1": "float32"}
    )
    constants = {"two": np.array(2, "float32"), "big": np.array(1000, "float32")}
    proto = model(
        [node("Loop", "_ _ x", "y", body=body)], {"x": ("float32", ())}, ("y",), constants
    )
    check(proto, {"x": np.array(3, "float32")}, {"x": np.array(4000, "float32")})


def test_a_state_that_changes_its_rank_is_refused() -> None:
    nodes = [node("ReduceSum", "s", "s1", keepdims=0), node("Identity", "c", "go")]
    body = subgraph(
        nodes, {"i": "int64", "c": "bool", "s": "float32"}, {"go": "bool", "s1": "float32"}
    )
    proto = model([node("Loop", "m _ x", "y", body=body)], {**ONE, "m": ("int64", ())}, ("y",))
    with pytest.raises(UnsupportedOperator, match="state 0 of loop.*2 dimensions.*0"):
        capture(proto)


def test_scan_in_all_directions_and_axes() -> None:
    body = subgraph(
        [node("Add", "s a", "s1"), node("Mul", "s1 b", "p"), node("Neg", "a", "q")],
        {"s": "float32", "a": "float32", "b": "float32"},
        {"s1": "float32", "p": "float32", "q": "float32"},
    )
    made = node(
        "Scan",
        "s0 x z",
        "s p q",
        body=body,
        num_scan_inputs=2,
        scan_input_axes=[1, 0],
        scan_input_directions=[1, 0],
        scan_output_axes=[1, 0],
        scan_output_directions=[0, 1],
    )
    inputs = {"s0": ("float32", (4,)), "x": ("float32", (4, "n")), "z": ("float32", ("n", 4))}
    feeds = {"s0": floats(4), "x": floats(4, 7, seed=1), "z": floats(7, 4, seed=2)}
    graph = check(model([made], inputs, ("s", "p", "q")), feeds)
    assert [o.shape for o in graph.signature.functions[0].outputs] == [(4,), (4, "n"), ("n", 4)]


def test_builds_from_nothing_memory_and_store_give_the_same_bytes(tmp_path: Path) -> None:
    built: list[bytes] = []
    for memory in (Memory(), Memory()):
        options = CompileOptions(store=LocalStore(tmp_path), memory=memory)
        for _ in range(2):
            artifact = nexus_compiler.compile(accumulating(1e3), options=options)
            built.append(artifact.module_bytes("native"))
    assert len(set(built)) == 1


def test_xla_takes_conditions_and_refuses_loops() -> None:
    pytest.importorskip("jax")
    proto = condition([node("Mul", "r w", "z")], [node("Neg", "x", "z")])
    built = nexus_compiler.compile(proto, targets=["xla-cpu"], shapes={"x": (3, 20)})
    for feeds in both():
        found = nexus_runtime.load(built).run("main", feeds)["y"]
        np.testing.assert_allclose(found, reference(proto, feeds)[0], rtol=1e-5)
    with pytest.raises(UnsupportedOperator, match="calls itself, as loops do"):
        nexus_compiler.compile(accumulating(1e3), targets=["xla-cpu"], shapes={"x": (3, 20)})
