"""Functions as steps in a line: the same bits as the virtual machine's, for any array."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schedule_support import Graph, graph
from small import mlp
from tvm import relax
from tvm.relax import op

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder
from nexus_compiler.codegen.llvm import unchecked
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime import signature as signatures
from nexus_runtime import steps, tensors
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import InputError, InternalError
from nexus_runtime.executors import line, tvm_vm
from nexus_runtime.module import Module
from nexus_runtime.trainer import Trainer

pytestmark = pytest.mark.skipif(line.find()[0] is None, reason=f"no loop in C: {line.find()[1]}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


def build(model: Any, store: LocalStore) -> Artifact:
    return nexus_compiler.compile(model, options=nexus_compiler.CompileOptions(store=store))


def by_machine(source: Any) -> Module:
    """A module that TVM's virtual machine runs, whatever was said of its lines."""
    module = nexus_runtime.load(source)
    executor = module._executor
    assert isinstance(executor, tvm_vm.TvmExecutor)
    executor._steps = steps.Steps({}, anywhere=True)
    return module


def outputs(module: Module, *arrays: Any) -> list[np.ndarray]:
    found = module(*arrays)
    return list(found.values()) if isinstance(found, dict) else [found]


def check(source: Artifact, *calls: Sequence[np.ndarray]) -> Module:
    """Both ways give the same bits, for each of `calls` and again."""
    own, machine = nexus_runtime.load(source), by_machine(source)
    for arrays in calls:
        expected = [array.copy() for array in outputs(machine, *arrays)]
        for _ in range(3):
            found = outputs(own, *arrays)
            assert len(found) == len(expected)
            for a, b in zip(found, expected):
                assert a.shape == b.shape and a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    return own


def is_line(module: Module) -> bool:
    return bool(module._quick)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def network(store: LocalStore) -> Artifact:
    builder = GraphBuilder().input("x", (2, 3, 8, 8)).conv2d(8, 3, padding=1, activation="relu")
    return build(builder.max_pool2d(2).flatten().dense(10), store)


def test_a_network_of_known_sizes(network: Artifact) -> None:
    assert is_line(check(network, [random(2, 3, 8, 8)]))


def test_no_machine_is_made_where_every_function_is_a_line(network: Artifact) -> None:
    module = nexus_runtime.load(network)
    module(random(2, 3, 8, 8))
    executor = module._executor
    assert isinstance(executor, tvm_vm.TvmExecutor)
    assert not executor._idle
    kept = executor._kept["main"].tensors
    assert all(tensor.data_ptr() % tensors.ALIGNMENT == 0 for tensor in kept)


def test_arrays_wherever_they_lie(network: Artifact) -> None:
    x = random(2, 3, 8, 8)
    shifted = tensors.empty_aligned((x.size + 3,), x.dtype)[3:].reshape(x.shape)
    shifted[...] = x
    bytes_ = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    bytes_[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    own = nexus_runtime.load(network)
    expected = own(x)
    turned = np.asfortranarray(x)
    swapped = x.astype(">f4")
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    for array in (shifted, bytes_, frozen, turned, swapped, strided, x[::-1][::-1]):
        for _ in range(2):
            np.testing.assert_array_equal(own(array), expected)


def test_what_does_not_fit_is_refused_as_ever(network: Artifact) -> None:
    own, x = nexus_runtime.load(network), random(2, 3, 8, 8)
    own(x)
    for wrong in (x.astype(np.float64), x[:1], x.reshape(-1)):
        with pytest.raises(InputError):
            own(wrong)
    with pytest.raises(InputError):
        own(x, x)
    with pytest.raises(InputError, match="has no input 'y'"):
        own.run("main", {"y": x})


def test_results_are_the_callers_own(network: Artifact) -> None:
    own = nexus_runtime.load(network)
    first = own(random(2, 3, 8, 8))
    kept = np.array(first)
    own(2 * random(2, 3, 8, 8))
    np.testing.assert_array_equal(first, kept)


def test_an_open_batch_is_laid_out_when_its_size_comes_back(store: LocalStore) -> None:
    sizes = (1, 3, 0, 64, 1, 3)
    module = check(build(mlp(), store), *[[random(n, 12)] for n in sizes])
    assert is_line(module)


def test_layers_that_are_functions_are_written_where_they_are_called(store: LocalStore) -> None:
    builder = GraphBuilder().input("x", (None, 16))
    for _ in range(20):
        builder = builder.residual(lambda b: b.dense(16, activation="relu")).layer_norm()
    artifact = build(builder, store)
    found = artifact.steps("native")
    assert found is not None and len(found.lines["main__run"].steps) >= 20
    check(artifact, [random(3, 16)], [random(5, 16)])


def _pair(build_: Graph) -> Any:
    return graph([(3, 4), (3, 4)], build_)


def test_results_that_are_no_storage_of_their_own(store: LocalStore) -> None:
    def same(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        return op.reshape(op.add(x, y), (4, 3))

    check(build(_pair(same), store), [random(3, 4), random(3, 4)])
    x = random(3, 4)
    module = check(build(_pair(lambda x, _: op.reshape(x, (12,))), store), [x, x])
    assert not np.shares_memory(module(x, x), x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "int64", "bool", "uint8"])
def test_dtypes(store: LocalStore, dtype: str) -> None:
    source = graph([(5, 6)], lambda x: op.astype(op.multiply(x, relax.const(3.0)), dtype))
    (function,) = source.signature.functions
    spec = signatures.TensorSpec("y", dtype, (5, 6))
    named = signatures.FunctionSpec("main", function.inputs, (spec,), ())
    source = CapturedGraph(source.module, signatures.Signature((named,), ()), {})
    check(build(source, store), [random(5, 6)])


def test_many_threads_at_once(network: Artifact) -> None:
    own = nexus_runtime.load(network, num_threads=1)
    arrays = [i * random(2, 3, 8, 8) for i in range(8)]
    expected = [own(x) for x in arrays]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(own, arrays * 30))
    for i, result in enumerate(found):
        np.testing.assert_array_equal(result, expected[i % 8])


def test_a_binding_computes_where_the_arrays_lie(network: Artifact) -> None:
    own, x = nexus_runtime.load(network), random(2, 3, 8, 8)
    (name,) = (output.name for output in own.main.outputs)
    y = np.zeros((2, 10), np.float32)
    bound = own.bind({"x": x}, {name: y})
    for scale in (1, -3):
        x[...] = scale * random(2, 3, 8, 8)
        bound.run()
        np.testing.assert_array_equal(y, own(x))
    assert bound.outputs[name] is y and bound.inputs["x"] is x
    # Strided inputs and outputs that are not given go the long way, or get an array.
    bound = own.bind({"x": x[..., ::-1]})
    bound.run()
    np.testing.assert_array_equal(bound.outputs[name], own(np.ascontiguousarray(x[..., ::-1])))


def test_a_binding_outlives_its_module(network: Artifact) -> None:
    x = random(2, 3, 8, 8)
    expected = nexus_runtime.load(network)(x)
    bound = nexus_runtime.load(network).bind({"x": x})
    gc.collect()
    # Whatever was let go is written over.
    taken = [np.full(size, np.nan, np.float32) for size in range(1, 4096)]
    bound.run()
    np.testing.assert_array_equal(next(iter(bound.outputs.values())), expected)
    assert taken


def test_a_binding_refuses_what_it_cannot_write_to(network: Artifact) -> None:
    own, x = nexus_runtime.load(network), random(2, 3, 8, 8)
    (name,) = (output.name for output in own.main.outputs)
    frozen = np.zeros((2, 10), np.float32)
    frozen.flags.writeable = False
    for wrong in (np.zeros((2, 9), np.float32), np.zeros((2, 10)), frozen):
        with pytest.raises(InputError, match=f"output '{name}' cannot be written"):
            own.bind({"x": x}, {name: wrong})
    with pytest.raises(InputError, match="has no output 'other'"):
        own.bind({"x": x}, {"other": frozen})


def test_one_binding_is_for_one_thread(store: LocalStore) -> None:
    builder = GraphBuilder().input("x", (512, 512)).dense(512).dense(512).dense(512)
    own = nexus_runtime.load(build(builder, store), num_threads=1)
    bound, refused, done = own.bind({"x": random(512, 512)}), [], threading.Event()

    def run_on() -> None:
        while not done.is_set():
            try:
                bound.run()
            except InputError as error:
                refused.append(error)
                done.set()

    threads = [threading.Thread(target=run_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert done.wait(30), "two threads took turns by themselves for half a minute"
    for thread in threads:
        thread.join()
    assert "bind once for each" in str(refused[0])


def test_a_training_step_writes_over_what_it_is_given(tmp_path: Path) -> None:
    builder = GraphBuilder().input("x", (None, 12)).dense(9, activation="relu")
    path = tmp_path / "t.nxa"
    builder = builder.dense(4, activation="softmax")
    builder.build_training(path, loss="cross_entropy", optimizer="adam", batch_size=8)
    own, machine = Trainer(nexus_runtime.load(path)), Trainer(by_machine(path))
    x, y = random(8, 12), np.arange(8, dtype=np.int64) % 4
    for _ in range(4):
        losses = [t.train(x, y, 0.01, seed=1, row=0) for t in (own, machine)]
        assert losses[0] == losses[1]
    assert "step" in own.module._quick
    for name, array in own.params.items():
        np.testing.assert_array_equal(array, machine.params[name])
    addresses = {name: array.ctypes.data for name, array in own.params.items()}
    own.train(x, y, 0.01, seed=1, row=0)
    assert {name: array.ctypes.data for name, array in own.params.items()} == addresses


def test_other_weights_are_no_part_of_the_line(network: Artifact) -> None:
    own, machine = nexus_runtime.load(network), by_machine(network)
    weights = {name: 2 * array for name, array in own.parameters.items()}
    x = random(2, 3, 8, 8)
    found, expected = (m.run("main", {"x": x}, weights) for m in (own, machine))
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_without_the_loop_in_c_the_machine_runs(
    network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(2, 3, 8, 8)
    expected = nexus_runtime.load(network)(x)
    monkeypatch.setattr(line, "find", lambda: (None, "it was not built"))
    module = nexus_runtime.load(network)
    np.testing.assert_array_equal(module(x), expected)
    assert not is_line(module)
    bound = module.bind({"x": x})
    bound.run()
    np.testing.assert_array_equal(next(iter(bound.outputs.values())), expected)
    assert "virtual machine (it was not built)" in line.describe()


def test_a_kernel_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Kernels leave out what they could refuse; here they check their arguments.
    monkeypatch.setattr(unchecked, "trusting", lambda function, module, context: function)
    builder = GraphBuilder().input("x", (2, 3, 8, 8)).conv2d(8, 3, padding=1, activation="relu")
    module = nexus_runtime.load(build(builder, LocalStore(tmp_path)))
    executor = module._executor
    assert isinstance(executor, tvm_vm.TvmExecutor)
    name = "main__run"
    own = executor._steps.lines[name]
    first, *rest = own.values
    wrong = steps.Value(first.place, first.index, 0, first.dtype, (2, 3, 8, 9))
    broken = steps.Line(
        own.parameters, own.storages, own.constants, (wrong, *rest), own.steps, own.outputs
    )
    executor._steps = steps.Steps({name: broken}, anywhere=True)
    with pytest.raises(InternalError, match="a kernel failed: ValueError: Invalid v0.shape"):
        module(random(2, 3, 8, 8))


def test_an_artifact_that_knows_no_lines_gets_aligned_copies(network: Artifact) -> None:
    module = nexus_runtime.load(network)
    executor = tvm_vm.TvmExecutor(module._executor._library, module.manifest.signature)  # type: ignore[attr-defined]
    x = random(2 * 3 * 8 * 8 + 1)[1:]
    assert executor._tensor(x).data_ptr() % tensors.ALIGNMENT == 0
