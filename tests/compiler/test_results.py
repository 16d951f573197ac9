"""What a caller may rely on: results are its own, whatever the program's memory is shared with."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tvm import relax, tirx

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime import tensors
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> nexus_runtime.Module:
    """Outputs: an input, a view of it, a weight, a view of it, a value, and a view of that."""
    rows, block = tirx.Var("n", "int64"), relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((rows, 4), "float32"))
    w = relax.Var("w", relax.TensorType((2, 4), "float32"))
    with block.function("main", [x, w]):
        with block.dataflow():
            flat = block.emit(relax.op.reshape(x, (rows * 4,)))
            turned = block.emit(relax.op.reshape(w, (4, 2)))
            value = block.emit(relax.op.exp(x))
            line = block.emit(relax.op.reshape(value, (rows * 4,)))
            outputs = [x, flat, w, turned, value, line]
            output = block.emit_output(relax.Tuple(outputs))
        block.emit_func_output(output)
    shapes = [("n", 4), ("4*n",), (2, 4), (4, 2), ("n", 4), ("4*n",)]
    function = FunctionSpec(
        "main",
        (TensorSpec("x", "float32", ("n", 4)),),
        tuple(TensorSpec(f"y{i}", "float32", shape) for i, shape in enumerate(shapes)),
        ("w",),
        guards=("n <= 64",),
    )
    signature = Signature((function,), (TensorSpec("w", "float32", (2, 4)),))
    graph = CapturedGraph(block.get(), signature, {"w": WEIGHT})
    store = LocalStore(tmp_path_factory.mktemp("store"))
    options = nexus_compiler.CompileOptions(store=store)
    return nexus_runtime.load(nexus_compiler.compile(graph, options=options))


def expected(x: np.ndarray) -> list[np.ndarray]:
    value = np.exp(x)
    return [x, x.reshape(-1), WEIGHT, WEIGHT.reshape(4, 2), value, value.reshape(-1)]


def called(module: nexus_runtime.Module, x: np.ndarray) -> list[np.ndarray]:
    outputs = module(x)
    assert isinstance(outputs, dict)
    return list(outputs.values())


def assert_right(found: list[np.ndarray], x: np.ndarray) -> None:
    for one, wanted in zip(found, expected(x), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_results_share_memory_with_nothing(module: nexus_runtime.Module, rows: int) -> None:
    x = tensors.copied(np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4))
    before = x.copy()
    found = called(module, x)
    assert_right(found, before)
    others = [x, *module.parameters.values()]
    for index, one in enumerate(found):
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in [*others, *found[:index]])
    for one in found:
        one[...] = np.nan
    np.testing.assert_array_equal(x, before)
    assert_right(called(module, x), before)


def test_results_outlive_later_calls_and_changed_inputs(module: nexus_runtime.Module) -> None:
    x, kept = tensors.empty_aligned((3, 4), np.dtype("float32")), []
    for number in range(20):
        x[...] = number / 10
        kept.append(called(module, x))
    for number, found in enumerate(kept):
        assert_right(found, np.full((3, 4), number / 10, np.float32))


def test_threads_get_results_and_errors_of_their_own(module: nexus_runtime.Module) -> None:
    wrong: list[str] = []

    def work(rows: int) -> None:
        x = np.full((rows, 4), rows / 100, np.float32)
        for _ in range(60):
            try:
                assert_right(called(module, x), x)
                if rows > 64:
                    wrong.append(f"{rows} rows were taken")
            except InputError as error:
                if rows <= 64 or "needs n <= 64" not in error.message:
                    wrong.append(error.message)
            except AssertionError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 7, 64, 65, 7, 80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_failed_call_leaves_the_module_usable(module: nexus_runtime.Module) -> None:
    x = np.ones((2, 4), np.float32)
    for _ in range(3):
        with pytest.raises(InputError, match="needs n <= 64"):
            module(np.ones((65, 4), np.float32))
        assert_right(called(module, x), x)
