"""Broken models are refused with a sentence; `tests/fuzz_importers.py` goes on for longer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_models import model, node

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import CaptureError, NexusError, ShapeError

sys.path.append(str(Path(__file__).parents[1]))

import onnx_mutants
import onnx_seeds
from fuzz_importers import judge

SEEDS = onnx_seeds.seeds()


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_are_models(name: str, tmp_path: Path) -> None:
    assert judge(SEEDS[name].SerializeToString(), tmp_path, build=False) == "captured"


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 10**9))
def test_a_mutant_is_a_model_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, number: int
) -> None:
    folder = tmp_path_factory.mktemp("mutant")
    verdict = judge(onnx_mutants.mutant(SEEDS[name], number), folder, build=False)
    assert not verdict.startswith("!"), f"--only {name}:{number}"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_model(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CaptureError):
        capture(path)


def test_a_mutant_has_a_name() -> None:
    seed = SEEDS["control"]
    assert onnx_mutants.mutant(seed, 7) == onnx_mutants.mutant(seed, 7)
    assert len({onnx_mutants.mutant(seed, number) for number in range(20)}) > 10


# What campaigns have found, each as small as it gets
def changed(**fields: object) -> onnx.ModelProto:
    proto = model([node("Relu", "x", "y", name="first")], {"x": ("float32", (2, 3))})
    for name, value in fields.items():
        setattr(proto.graph.node[0], name, value)
    return proto


def refusal(proto: onnx.ModelProto) -> str:
    with pytest.raises(NexusError) as caught:
        capture(proto)
    assert caught.value.hint
    return caught.value.message


def recursive(*names: str) -> onnx.ModelProto:
    """Functions each of which calls the next, and the last the first."""
    proto = changed(op_type=names[0], domain="acme")
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    for name, called in zip(names, (*names[1:], names[0])):
        inner = helper.make_node(called, ["a"], ["b"], domain="acme")
        imports = [helper.make_opsetid("acme", 1)]
        proto.functions.append(helper.make_function("acme", name, ["a"], ["b"], [inner], imports))
    return proto


@pytest.mark.parametrize("names", [("Self",), ("One", "Other")])
def test_functions_in_a_circle(names: tuple[str, ...]) -> None:
    message = refusal(recursive(*names))
    assert "call each other in a circle" in message
    assert all(f"acme::{name}" in message for name in names)


def test_functions_that_stand_for_more_nodes_than_there_are_atoms() -> None:
    """Each of forty functions calls the next twice."""
    proto = recursive("F0")
    del proto.functions[:]
    for depth in range(40):
        kind, domain = (f"F{depth + 1}", "acme") if depth < 39 else ("Relu", "")
        body = [helper.make_node(kind, [a], [b], domain=domain) for a, b in ("ab", "bc")]
        imports = [helper.make_opsetid("acme", 1), helper.make_opsetid("", 18)]
        made = helper.make_function("acme", f"F{depth}", ["a"], ["c"], body, imports)
        proto.functions.append(made)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("nexus_compiler.frontend.onnx.faults.MOST_NODES", 2000)
        assert "more than 2,000 nodes" in refusal(proto)


def test_a_cycle_of_nodes() -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b")]
    proto = model([node("Relu", "x", "b")], {"x": ("float32", (2, 3))}, ["b"])
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert "topologically sorted" in refusal(proto)


@pytest.mark.parametrize("version", [-1, 0, 2**31, 2**63 - 1])
def test_an_opset_that_cannot_be(version: int) -> None:
    proto = changed()
    proto.opset_import[0].version = version
    assert f"opset {version}" in refusal(proto)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(changed().SerializeToString().replace(b"Relu", b"Rel\xff"))
    with pytest.raises(CaptureError, match="no text"):
        capture(path)


def test_an_element_type_that_cannot_be() -> None:
    proto = model([node("Add", "x w", "y")], {"x": ("float32", (2,))}, constants={"w": np.ones(2)})
    proto.graph.initializer[0].data_type = 77
    assert "77" in refusal(proto)


def test_what_tvm_says_of_a_node_comes_with_its_name() -> None:
    weight = np.ones((4, 3, 3, 3), "float32")
    proto = model(
        [node("Conv", "x w", "y", name="wrong")],
        {"x": ("float32", ("n",))},
        constants={"w": weight},
    )
    message = refusal(proto)
    assert message.startswith("Conv node 'wrong' (opset 18) does not fit its inputs")
    assert len(message) < 700


@pytest.mark.parametrize(
    ("sizes", "said"),
    [([2**40, 2**40], "[1099511627776, 1099511627776]"), ([-5, 3], "-5"), ([2**62, 4], str(2**62))],
)
def test_sizes_that_no_tensor_has(sizes: list[int], said: str) -> None:
    proto = model(
        [node("Expand", "x sizes", "y", name="wide")],
        {"x": ("float32", ())},
        constants={"sizes": np.array(sizes)},
    )
    message = refusal(proto)
    assert "wide" in message
    assert said in message


@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        ("Expand", {"a": np.int64(1), "b": np.array([2**17, 2**17])}),
        ("Range", {"a": np.int64(0), "b": np.int64(2**36), "c": np.int64(1)}),
        ("Tile", {"a": np.ones(2, "int64"), "b": np.array([2**35])}),
        ("Add", {"a": np.ones((2**15, 1), "int64"), "b": np.ones((1, 2**15), "int64")}),
    ],
)
def test_small_constants_do_not_become_large_ones(
    kind: str, constants: dict[str, np.ndarray]
) -> None:
    """Computed while importing, they would fill the memory."""
    nodes = [node(kind, " ".join(constants), "k"), node("ReduceSum", "k", "s", keepdims=0)]
    nodes += [node("Add", "x s", "y")]
    graph = capture(model(nodes, {"x": ("int64", (2,))}, constants=constants))
    assert sum(array.nbytes for array in graph.params.values()) < 2**20


def repeated(first: str, then: str, times: int) -> onnx.ModelProto:
    """A chain over a vector of unknown length; `{}` is the value before."""
    lines = [(first if step == 0 else then).replace("{}", f"v{step - 1}") for step in range(times)]
    nodes = [
        onnx.parser.parse_node(f"v{step} = {line}".replace("v-1", "x"))
        for step, line in enumerate(lines)
    ]
    return model(nodes, {"x": ("float32", (1, 1, "n"))}, [f"v{times - 1}"])


@pytest.mark.parametrize(
    "line",
    [
        "Concat <axis = 2> ({}, {})",
        "MaxPool <kernel_shape = [3], strides = [2]> ({})",
        "AveragePool <kernel_shape = [1], pads = [1073741824, 1073741824], strides = [3]> ({})",
    ],
)
def test_sizes_that_grow_without_end(line: str) -> None:
    """Sizes are numbers of 64 bits: one that overflows must not become another one."""
    assert "does not fit its inputs" in refusal(repeated(line, line, 120))


def test_sizes_that_double_with_every_node() -> None:
    nodes, last = list[onnx.NodeProto](), "x"
    for step in range(12):
        a, b, c, d = (f"{letter}{step}" for letter in "abcd")
        nodes += [node("Unsqueeze", f"{last} one", a), node("Unsqueeze", f"{last} zero", b)]
        nodes += [node("Add", f"{a} {b}", c), node("Reshape", f"{c} minus", d)]
        last = d
    constants = {"one": np.array([1]), "zero": np.array([0]), "minus": np.array([-1])}
    proto = model(nodes, {"x": ("float32", ("n",))}, [last], constants)
    assert "a size follows from the inputs by" in refusal(proto)


def test_conditions_in_conditions() -> None:
    """Twenty deep: they are followed, neither Python's stack nor TVM's overflows."""
    inner = [node("Relu", "x", "y")]
    for depth in range(20):
        info = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
        other = [node("Neg", "x", "y")]
        branches = [helper.make_graph(nodes, f"g{depth}", [], info) for nodes in (inner, other)]
        names = ["then_branch", "else_branch"]
        inner = [helper.make_node("If", ["flag"], ["y"], **dict(zip(names, branches)))]
    proto = model(inner, {"x": ("float32", (2, 3)), "flag": ("bool", ())}, ["y"], constants={})
    assert len(capture(proto).module.functions) > 20


def test_a_kernel_too_wide_to_be_written_out() -> None:
    proto = model(
        [node("CausalConvWithState", "x w", "y s", name="wide")],
        {"x": ("float32", (1, 1, 8)), "w": ("float32", (1, 1, 2**31))},
        ["y", "s"],
        opset=27,
    )
    with pytest.raises((CaptureError, ShapeError), match="wide"):
        capture(proto)


def test_a_damaged_weight_is_named() -> None:
    proto = model([node("Add", "x w", "y")], {"x": ("float32", (2,))}, constants={"w": np.ones(2)})
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(2, "float32"), "w"))
    proto.graph.initializer[0].raw_data = b"123"
    assert "tensor name: w" in refusal(proto)


def test_sizes_that_are_no_list() -> None:
    """The shape that Expand is to make, in a matrix that comes with each call."""
    proto = model([node("Relu", "x", "y")], {"x": ("float32", (2, 3)), "s": ("int64", (3, "n"))})
    proto.graph.node[0].CopyFrom(node("Expand", "x s", "y", name="wide"))
    message = refusal(proto)
    assert "Expand node 'wide'" in message
    assert "its input 1 has 2 dimensions, not one" in message


@pytest.mark.parametrize("last", [0, 1])
def test_places_of_bfloat16(last: int, tmp_path: Path) -> None:
    """TVM's lowering of this type has no pair of a place and a number."""
    made = node("ArgMin", "x", "y", axis=0, keepdims=0, select_last_index=last)
    proto = model([made], {"x": ("float32", (4,))}, opset=13)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert judge(proto.SerializeToString(), tmp_path, build=True) == "artifact"
