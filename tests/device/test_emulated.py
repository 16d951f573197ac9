"""Modules for ARM under emulation agree with NumPy, ONNX Runtime and the native module."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nexus_compiler
from nexus_compiler import GraphBuilder, targets
from nexus_compiler.cli import main as cli
from nexus_compiler.codegen.door import room_for
from nexus_compiler.codegen.llvm import emulate, slim_runtime
from nexus_compiler.targets import TargetSpec
from nexus_compiler.verify import compare, inputs, runner
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import InternalError
from nexus_runtime.signature import FunctionSpec

TARGET = "cortex-a72"
pytestmark = pytest.mark.usefixtures("emulator")


@pytest.fixture(scope="session")
def emulator() -> TargetSpec:
    """The target, where its tools are installed; else the test is reported as not run."""
    target = targets.load(TARGET)
    for need in room_for(target).requirements(target):
        # The runtime comes by itself; that it cannot be fetched is a failure, not a reason to skip.
        if not need.found and not need.cure.startswith("fetched"):
            pytest.skip(f"{TARGET} needs {need.what}: {need.cure}")
    return target


def random_inputs(artifact: Artifact, name: str, **sizes: int) -> dict[str, np.ndarray]:
    function = artifact.manifest.signature.function(name)
    return inputs.make(function, {}, sizes=sizes, fill=inputs.RANDOM)


def run(artifact: Artifact, name: str, arrays: dict[str, np.ndarray], target: str = TARGET):
    function = artifact.manifest.signature.function(name)
    return runner.open_function(artifact, function, target=target)(arrays)


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for one in compare.compare(found, expected):
        print(f"{one.output}: {one.max_abs:.1e} absolute, {one.max_rel:.1e} relative")
        assert one.passed, one


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def mlp() -> Artifact:
    graph = GraphBuilder().input("x", (None, 64)).dense(128, activation="relu")
    return nexus_compiler.compile(graph.dense(10, activation="softmax"), targets=[TARGET])


@pytest.mark.parametrize("batch", [0, 1, 3, 33])
def test_a_dynamic_batch_agrees_with_numpy(mlp: Artifact, batch: int) -> None:
    arrays, weights = random_inputs(mlp, "main", batch=batch), mlp.params()
    hidden = arrays["x"] @ weights["dense_1.weight"] + weights["dense_1.bias"]
    hidden = np.maximum(hidden, 0) @ weights["dense_2.weight"] + weights["dense_2.bias"]
    expected = softmax(hidden) if batch else hidden
    assert_close(run(mlp, "main", arrays), {"output": expected})


def test_convolutions_agree_with_the_native_module() -> None:
    graph = GraphBuilder().input("image", (None, 3, 17, 15)).conv2d(8, 3, activation="relu")
    graph = graph.max_pool2d(2).conv2d(16, (3, 2), stride=2, padding=1, activation="silu")
    graph = graph.flatten().dense(10, activation="tanh")
    artifact = nexus_compiler.compile(graph, targets=["native", TARGET])
    arrays = random_inputs(artifact, "main", batch=3)
    assert_close(run(artifact, "main", arrays), run(artifact, "main", arrays, "native"))


def test_training_agrees_with_the_native_module(tmp_path: Path) -> None:
    graph = GraphBuilder().input("x", (None, 12)).dense(32, activation="relu").dropout(0.5)
    graph.dense(4, activation="softmax").build_training(
        tmp_path / "t.nxa", loss="cross_entropy", optimizer="adam", targets=("native", TARGET)
    )
    artifact = Artifact.open(tmp_path / "t.nxa")
    arrays = random_inputs(artifact, "gradients", batch=9)
    arrays["labels"] = np.arange(9, dtype=arrays["labels"].dtype) % 4
    found = run(artifact, "gradients", arrays)
    assert_close(found, run(artifact, "gradients", arrays, "native"))
    assert any(np.abs(found[name]).max() > 0 for name in found if name.startswith("grad:"))

    update = random_inputs(artifact, "update")
    update["step"], update["learning_rate"] = np.float32(3).reshape(()), np.float32(0.1).reshape(())
    update |= {name: np.abs(array) for name, array in update.items() if name.startswith("state:")}
    update |= {name: found[name] for name in found if name.startswith("grad:")}
    assert_close(run(artifact, "update", update), run(artifact, "update", update, "native"))


def mixed_model() -> onnx.ModelProto:
    """Whole numbers, booleans, bytes, half precision and a scalar, in and out."""
    nodes = [
        helper.make_node("Add", ["wide", "scalar"], ["sum"]),
        helper.make_node("Where", ["mask", "sum", "wide"], ["chosen"]),
        helper.make_node("Not", ["mask"], ["inverse"]),
        helper.make_node("Add", ["byte", "byte"], ["doubled"]),
        helper.make_node("Mul", ["half", "half"], ["squared"]),
        helper.make_node("ReduceSum", ["wide"], ["total"], keepdims=0),
    ]
    kinds = {
        "wide": TensorProto.INT64,
        "mask": TensorProto.BOOL,
        "byte": TensorProto.UINT8,
        "half": TensorProto.FLOAT16,
    }
    given = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in kinds.items()]
    given.append(helper.make_tensor_value_info("scalar", TensorProto.INT64, []))
    made = {
        "chosen": TensorProto.INT64,
        "inverse": TensorProto.BOOL,
        "doubled": TensorProto.UINT8,
        "squared": TensorProto.FLOAT16,
    }
    outputs = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in made.items()]
    outputs.append(helper.make_tensor_value_info("total", TensorProto.INT64, []))
    graph = helper.make_graph(nodes, "mixed", given, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("size", [0, 1, 13])
def test_every_kind_of_number_comes_through(size: int) -> None:
    artifact = nexus_compiler.compile(mixed_model(), targets=[TARGET])
    rng = np.random.default_rng(size)
    arrays = {
        "wide": rng.integers(-(2**62), 2**62, size),
        "mask": rng.integers(0, 2, size).astype(bool),
        "byte": rng.integers(0, 256, size).astype(np.uint8),
        "half": rng.standard_normal(size).astype(np.float16),
        "scalar": np.array(2**40 + 1),
    }
    found = run(artifact, "main", arrays)
    expected = {
        "chosen": np.where(arrays["mask"], arrays["wide"] + arrays["scalar"], arrays["wide"]),
        "inverse": ~arrays["mask"],
        "doubled": arrays["byte"] + arrays["byte"],
        "squared": arrays["half"] * arrays["half"],
        "total": np.asarray(arrays["wide"].sum()),
    }
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def onnx_mlp(path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 32)),
        "b1": rng.standard_normal(32),
        "w2": rng.standard_normal((32, 4)),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Gelu", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "w2"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(w.astype("f4"), name) for name, w in weights.items()],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_the_command_line_runs_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'nexus-compiler[verify]'")
    model, artifact = str(onnx_mlp(tmp_path / "mlp.onnx")), str(tmp_path / "mlp.nxa")

    def nexusc(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        shown = capsys.readouterr()
        assert left.value.code == 0, shown.err
        return shown.out

    nexusc("compile", model, "--target", TARGET, "-o", artifact)
    common = ["--target", TARGET, "--dim", "batch=5", "--json"]
    verdict = json.loads(nexusc("verify", artifact, "--against", model, *common))
    assert verdict["passed"]
    assert verdict["outputs"][0]["shape"] == [5, 4]
    ran = json.loads(nexusc("run", artifact, "--input", "x=random", *common))
    assert ran["outputs"][0]["shape"] == [5, 4]
    pytest.importorskip("jax", reason="pip install 'nexus-compiler[verify]'")
    for more, status in ((["--all"], "proved"), ([], "inherited")):
        verdict = json.loads(nexusc("verify", model, *common, *more))
        assert verdict["passed"]
        assert {one["status"] for one in verdict["regions"]} == {status}


def test_what_the_emulated_process_says_is_reported(mlp: Artifact, emulator: TargetSpec) -> None:
    module, function = mlp.module_bytes(TARGET), mlp.manifest.signature.function("main")
    with pytest.raises(InternalError, match="left with 1") as error:
        emulate.run(module, function, [np.zeros((2, 3), np.float32)], emulator)
    assert TARGET in error.value.message
    unknown = FunctionSpec("nothing", (), ())
    with pytest.raises(InternalError, match="has no function nothing"):
        emulate.run(module, unknown, [], emulator)


def test_an_instruction_that_the_device_lacks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = resources.files("nexus_targets").joinpath(f"{TARGET}.toml").read_text(encoding="utf-8")
    # Arithmetic on half precision came with ARMv8.2, and the emulated Cortex-A72 is an ARMv8.0.
    text = text.replace(f'name = "{TARGET}"', 'name = "boastful"').replace("+neon", "+fullfp16")
    (tmp_path / "boastful.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("NEXUS_TARGETS_PATH", str(tmp_path))
    artifact = nexus_compiler.compile(mixed_model(), targets=["boastful"])
    with pytest.raises(InternalError, match=rf"SIGILL \(an instruction that {TARGET} lacks\)"):
        run(artifact, "main", random_inputs(artifact, "main", n=5), "boastful")


def test_the_wrong_number_of_results_is_an_error(mlp: Artifact, emulator: TargetSpec) -> None:
    function = mlp.manifest.signature.function("main")
    twice = msgspec.structs.replace(function, outputs=function.outputs * 2)
    arguments = [*random_inputs(mlp, "main").values(), *map(mlp.params().get, function.parameters)]
    with pytest.raises(InternalError, match="gave 1 results, but its signature has 2"):
        emulate.run(mlp.module_bytes(TARGET), twice, arguments, emulator)


def test_the_runtime_is_kept_and_checked(mlp: Artifact) -> None:
    run(mlp, "main", random_inputs(mlp, "main"))
    place = slim_runtime.directory("aarch64")
    assert slim_runtime.is_present("aarch64")
    assert sum(path.stat().st_size for path in place.iterdir()) < 6_000_000
