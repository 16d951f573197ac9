"""From a captured graph to results: reuse, determinism, and every way to call a module."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from small import mlp, mlp_reference
from tvm import relax, tirx

import nexus_compiler
import nexus_runtime
from nexus_compiler import CompileOptions, GraphBuilder
from nexus_compiler.build import Memory
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime.artifact import Artifact, assemble
from nexus_runtime.errors import ArtifactError, CaptureError, DeviceError, InputError, TargetError
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec


def options(root: Path) -> nexus_compiler.CompileOptions:
    return nexus_compiler.CompileOptions(store=LocalStore(root))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("store")
    return nexus_compiler.compile(mlp(), targets=["native", "x86-64-v2"], options=options(root))


def test_every_target_computes_the_same(artifact: Artifact) -> None:
    x = np.random.default_rng(1).standard_normal((5, 12)).astype(np.float32)
    for target in ("native", "x86-64-v2"):
        found = nexus_runtime.load(artifact, target=target)(x)
        np.testing.assert_allclose(found, mlp_reference(mlp(), x), rtol=1e-5, atol=1e-5)


def test_the_best_target_that_fits_is_loaded(artifact: Artifact) -> None:
    assert nexus_runtime.load(artifact).target == "native"


def test_a_target_that_does_not_fit_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = (Path(__file__).parents[2] / "targets" / "x86-64-v2.toml").read_text()
    description = description.replace("x86-64-v2", "odd").replace('"cx16"', '"no-such-feature"')
    (tmp_path / "odd.toml").write_text(description.replace('mcpu = "odd"', 'mcpu = "x86-64-v2"'))
    monkeypatch.setenv("NEXUS_TARGETS_PATH", str(tmp_path))
    built = nexus_compiler.compile(mlp(), targets=["odd"], options=options(tmp_path))
    with pytest.raises(DeviceError, match="odd needs the CPU feature no-such-feature"):
        nexus_runtime.load(built)
    with pytest.raises(DeviceError, match="the module for 'odd' needs the CPU feature"):
        nexus_runtime.load(built, target="odd")


INPUTS = {
    "contiguous": np.ones((4, 12), np.float32),
    "strided": np.ones((4, 24), np.float32)[:, ::2],
    "transposed": np.ones((12, 4), np.float32).T,
    "unaligned": np.frombuffer(bytes(1) + np.ones(48, np.float32).tobytes(), np.uint8)[1:]
    .view(np.float32)
    .reshape(4, 12),
    "broadcast": np.broadcast_to(np.float32(1), (4, 12)),
    "empty": np.ones((0, 12), np.float32),
    "one": np.ones((1, 12), np.float32),
}


@pytest.mark.parametrize("name", INPUTS)
def test_any_numpy_array_works(artifact: Artifact, name: str) -> None:
    x = INPUTS[name]
    module = nexus_runtime.load(artifact)
    before = x.copy()
    np.testing.assert_allclose(module(x), mlp_reference(mlp(), x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(x, before)


def test_any_dlpack_array_and_lists_work(artifact: Artifact) -> None:
    import torch

    module, x = nexus_runtime.load(artifact), np.ones((2, 12), np.float32)
    np.testing.assert_array_equal(module(torch.from_numpy(x)), module(x))
    tracked = torch.ones(2, 12, requires_grad=True)
    np.testing.assert_array_equal(module(tracked.detach()), module(x))
    with pytest.raises(InputError, match="input 'x' cannot be read as an array: .*grad"):
        module(tracked)
    np.testing.assert_array_equal(module(x=x), module(x))


def test_other_byte_orders_are_turned_into_ours(artifact: Artifact) -> None:
    module, x = nexus_runtime.load(artifact), np.ones((2, 12), np.float32)
    for _ in range(2):
        foreign = x.astype(x.dtype.newbyteorder())
        np.testing.assert_array_equal(module(foreign), module(x))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "input 'x' is missing"),
        ((np.ones((2, 11), np.float32),), {}, "11 long on axis 1, but must be 12"),
        ((np.ones((2, 12)),), {}, "float64, but the model takes float32"),
        ((np.ones((2, 12), np.float32),) * 2, {}, "takes 1 inputs, not 2"),
        ((np.ones((2, 12), np.float32),), {"x": 1}, "given twice"),
    ],
)
def test_bad_calls_are_refused(artifact: Artifact, args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nexus_runtime.load(artifact)(*args, **kwargs)


def test_other_weights_can_be_passed(artifact: Artifact) -> None:
    module, other = nexus_runtime.load(artifact), mlp(seed=7)
    x = np.ones((3, 12), np.float32)
    found = module.run("main", {"x": x}, parameters=other.params)["y"]
    np.testing.assert_allclose(found, mlp_reference(other, x), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="parameter 'w2' is missing"):
        module.run("main", {"x": x}, parameters={"w1": other.params["w1"]})
    for wrong in (other.params["w2"].T, other.params["w2"].astype(np.float64)):
        with pytest.raises(InputError, match="parameter 'w2' is float.*but the model has"):
            module.run("main", {"x": x}, parameters={**other.params, "w2": wrong})


def test_weights_that_do_not_fit_the_signature_are_refused_at_load(artifact: Artifact) -> None:
    members = {
        entry.member: artifact.module_bytes(entry.target) for entry in artifact.manifest.modules
    }
    weights = mlp().params
    for wrong in (weights["w2"].T, weights["w2"].astype(np.float64)):
        forged = assemble(artifact.manifest, members, {**weights, "w2": wrong})
        with pytest.raises(ArtifactError, match="the weight 'w2' of the artifact is float"):
            nexus_runtime.load(forged)
    weights = {name: array for name, array in weights.items() if name != "w2"}
    with pytest.raises(ArtifactError, match="the weight 'w2' of the artifact is missing"):
        nexus_runtime.load(assemble(artifact.manifest, members, weights))


def test_prepared_weights_are_those_of_the_call(tmp_path: Path) -> None:
    # The product with a transposed weight: its transpose is computed once, at load.
    x, w = np.ones((2, 4), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
    rows, block = tirx.Var("n", "int64"), relax.BlockBuilder()
    given = relax.Var("x", relax.TensorType((rows, 4), "float32"))
    weight = relax.Var("w", relax.TensorType((3, 4), "float32"))
    with block.function("main", [given, weight]):
        with block.dataflow():
            product = block.emit(relax.op.matmul(given, relax.op.permute_dims(weight)))
            output = block.emit_output(relax.Tuple([product]))
        block.emit_func_output(output)
    function = FunctionSpec(
        "main",
        (TensorSpec("x", "float32", ("n", 4)),),
        (TensorSpec("y", "float32", ("n", 3)),),
        ("w",),
    )
    signature = Signature((function,), (TensorSpec("w", "float32", (3, 4)),))
    graph = CapturedGraph(block.get(), signature, {"w": w})
    module = nexus_runtime.load(nexus_compiler.compile(graph, options=options(tmp_path)))
    for _ in range(2):
        np.testing.assert_array_equal(module(x), x @ w.T)
        other = module.run("main", {"x": x}, parameters={"w": w + 1})["y"]
        np.testing.assert_array_equal(other, x @ (w + 1).T)
    with pytest.raises(ValueError, match="read-only"):
        module.parameters["w"][0] = 5


def test_results_of_earlier_calls_stay(artifact: Artifact) -> None:
    module = nexus_runtime.load(artifact)
    xs = [np.full((3, 12), n, np.float32) for n in range(4)]
    kept = [module(x) for x in xs]
    for x, found in zip(xs, kept):
        np.testing.assert_allclose(found, mlp_reference(mlp(), x), rtol=1e-5, atol=1e-5)


def test_one_module_serves_eight_threads(artifact: Artifact) -> None:
    module, graph, wrong = nexus_runtime.load(artifact), mlp(), []

    def work(number: int) -> None:
        x = np.random.default_rng(number).standard_normal((number + 1, 12)).astype(np.float32)
        expected = mlp_reference(graph, x)
        for _ in range(50):
            if not np.allclose(module(x), expected, rtol=1e-5, atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_threads_may_compile(tmp_path: Path) -> None:
    def work(wide: int) -> np.ndarray:
        # A memory and a store of its own: every thread builds everything.
        alone = CompileOptions(store=LocalStore(tmp_path / str(wide)), memory=Memory())
        graph = GraphBuilder().input("x", (None, 8)).dense(wide, activation="relu").dense(4)
        made = nexus_runtime.load(nexus_compiler.compile(graph, options=alone))
        return made(np.ones((2, 8), np.float32))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # as if they ran on more cores: nobody waits for his turn
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            found = list(threads.map(work, range(9, 17)))
    finally:
        sys.setswitchinterval(before)
    assert [result.shape for result in found] == [(2, 4)] * 8


class Builds:
    """Counts what the room really builds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, build = 0, LlvmRoom.build

        def counted(room: LlvmRoom, unit, target) -> bytes:
            self.count += 1
            return build(room, unit, target)

        monkeypatch.setattr(LlvmRoom, "build", counted)


def test_only_what_changed_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = Builds(monkeypatch)
    nexus_compiler.compile(mlp(), options=options(tmp_path))
    first, builds.count = builds.count, 0
    assert first >= 2
    nexus_compiler.compile(mlp(seed=3), options=options(tmp_path))
    assert builds.count == 0, "other weights"
    nexus_compiler.compile(mlp(prefix="other_"), options=options(tmp_path))
    assert builds.count == 0, "other names"
    nexus_compiler.compile(mlp(hidden=9), options=options(tmp_path))
    assert 0 < builds.count <= first, "another width"
    builds.count = 0
    nexus_compiler.compile(mlp(), targets=["x86-64-v2"], options=options(tmp_path))
    assert builds.count == first, "another target"


def test_two_fresh_processes_give_the_same_bytes(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from small import mlp
        import nexus_compiler
        from nexus_compiler.store.local import LocalStore
        options = nexus_compiler.CompileOptions(store=LocalStore(Path(sys.argv[2]) / "store"))
        artifact = nexus_compiler.compile(
            mlp(), targets=["native", "x86-64-v3"], options=options)
        artifact.save(Path(sys.argv[2]) / "out.nxa")
    """)
    results = []
    for seed in ("1", "2"):
        directory = tmp_path / f"somewhere-{seed * int(seed)}"
        directory.mkdir()
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent), str(directory)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=directory,
            check=True,
        )
        results.append((directory / "out.nxa").read_bytes())
    assert results[0] == results[1]


FRESH = """
import json, sys, time
begin = time.perf_counter()
import nexus_runtime
import numpy as np
module = nexus_runtime.load(sys.argv[1])
seconds = time.perf_counter() - begin
result = module(np.ones((2, 12), np.float32))
maps = open("/proc/self/maps").read()
status = open("/proc/self/status").read()
print(json.dumps({
    "modules": sorted(sys.modules), "seconds": seconds, "sum": float(result.sum()),
    "compiler": "libtvm_compiler" in maps, "torch": "libtorch" in maps,
    "kib": int(status.split("VmRSS:")[1].split()[0]),
}))
"""


def test_the_runtime_needs_no_compiler(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.save(tmp_path / "a.nxa")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(path)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert not {"tvm", "torch", "jax", "grpc", "nexus_compiler"} & set(said["modules"])
    assert not said["compiler"] and not said["torch"]
    expected = mlp_reference(mlp(), np.ones((2, 12), np.float32)).sum()
    assert said["sum"] == pytest.approx(float(expected), rel=1e-4)
    # 50 MB were measured; twice that would mean that something large is loaded again.
    assert said["kib"] < 100_000


def test_nothing_is_loaded_twice_from_one_path(tmp_path: Path) -> None:
    # The loader gives an old library back when a path is used again for a new one.
    first = nexus_compiler.compile(mlp(hidden=5), options=options(tmp_path))
    second = nexus_compiler.compile(mlp(hidden=6), options=options(tmp_path))
    path, x = tmp_path / "same.nxa", np.ones((1, 12), np.float32)
    for built, graph in ((first, mlp(hidden=5)), (second, mlp(hidden=6))):
        built.save(path)
        found = nexus_runtime.load(path)(x)
        np.testing.assert_allclose(found, mlp_reference(graph, x), rtol=1e-5, atol=1e-5)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="unknown target 'x87'"):
        nexus_compiler.compile(mlp(), targets=["x87"], options=options(tmp_path))
    with pytest.raises(TargetError, match="no target is given"):
        nexus_compiler.compile(mlp(), targets=[], options=options(tmp_path))
    with pytest.raises(CaptureError, match="cannot capture a builtins.int"):
        nexus_compiler.compile(3, options=options(tmp_path))
