"""A session: what an edit left is kept, and results are those of a fresh process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from small import mlp

import nexus_compiler
import nexus_runtime
from nexus_compiler import CompileOptions, GraphBuilder, Session
from nexus_compiler.build import Memory
from nexus_compiler.codegen.llvm import link
from nexus_compiler.frontend.builder import initial, weights
from nexus_compiler.frontend.builder.layers.base import Parameter
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import DeviceError, ShapeError, TargetError
from nexus_runtime.module import Module


def stack(*, wide: int = 24, layers: int = 4, at: int = 2) -> GraphBuilder:
    """Residual layers over 16 features; that of number `at` is `wide` inside, others 24."""
    network = GraphBuilder().input("x", (None, 16))
    for number in range(layers):
        inside = wide if number == at else 24
        network = network.residual(
            lambda g, n=number, w=inside: (
                g.layer_norm(name=f"norm_{n}")
                .dense(w, activation="gelu", name=f"up_{n}")
                .dense(16, name=f"down_{n}")
            )
        )
    return network


def session(root: Path, *targets: str) -> Session:
    options = CompileOptions(store=LocalStore(root), memory=Memory())
    return Session(targets or ("native",), options=options)


def run(module: Module, x: np.ndarray) -> np.ndarray:
    result = module(x)
    assert isinstance(result, np.ndarray)
    return result


X = np.random.default_rng(5).standard_normal((3, 16)).astype(np.float32)


def test_results_after_every_edit_are_those_of_a_fresh_compile(tmp_path: Path) -> None:
    warm = session(tmp_path / "warm")
    for wide in (24, 40, 24, 48):
        fresh = CompileOptions(store=LocalStore(tmp_path / str(wide)), memory=Memory())
        want = nexus_runtime.load(nexus_compiler.compile(stack(wide=wide), options=fresh))
        found = warm.load(stack(wide=wide))
        np.testing.assert_array_equal(run(found, X), run(want, X))
        np.testing.assert_array_equal(run(found, X[:1]), run(want, X[:1]))


def test_an_edit_rebuilds_its_layer_alone(tmp_path: Path) -> None:
    warm = session(tmp_path)
    warm.load(stack(layers=12))
    cold = warm.rebuilt
    warm.load(stack(layers=12, wide=40))
    edit = warm.rebuilt
    warm.load(stack(layers=12, wide=24))
    back = warm.rebuilt
    assert cold is not None and edit is not None and back is not None
    assert len(cold.lowered) == cold.regions and len(cold.built) == cold.kernels
    assert 1 <= len(edit.lowered) < edit.regions
    assert 1 <= len(edit.built) < edit.kernels
    assert (back.lowered, back.built) == ((), ())


def test_modules_of_before_an_edit_stay_as_they_were(tmp_path: Path) -> None:
    warm = session(tmp_path)
    first = warm.load(stack())
    before = run(first, X)
    second = warm.load(stack(wide=56))
    assert not np.array_equal(run(second, X), before)
    np.testing.assert_array_equal(run(first, X), before)


def test_artifacts_are_those_of_a_fresh_process(tmp_path: Path) -> None:
    warm = session(tmp_path / "warm", "native", "x86-64-v2")
    warm.load(stack())
    warm.compile(stack())
    found = warm.compile(stack(wide=40))
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import nexus_compiler; from test_session import stack\n"
        "made = nexus_compiler.compile(stack(wide=40), targets=['native', 'x86-64-v2'])\n"
        "made.save(sys.argv[2])"
    )
    here, output = str(Path(__file__).parent), tmp_path / "fresh.nxa"
    command = [sys.executable, "-c", script, here, str(output)]
    root = str(Path(__file__).parents[2])
    subprocess.run(command, check=True, cwd=root, env=fresh_environment(tmp_path, root))
    assert found.to_bytes() == output.read_bytes()


def fresh_environment(tmp_path: Path, root: str) -> dict[str, str]:
    return {**os.environ, "NEXUS_CACHE": str(tmp_path / "fresh"), "PYTHONPATH": root}


def test_new_weights_of_a_model_are_taken(tmp_path: Path) -> None:
    warm, graph = session(tmp_path), mlp()
    x = np.ones((2, 12), np.float32)
    before = run(warm.load(graph), x)
    graph.params["w2"][...] *= 2  # an array that can be written to is never kept
    np.testing.assert_array_equal(run(warm.load(graph), x), 2 * before)
    assert warm.rebuilt is not None and warm.rebuilt.built == ()


def test_writing_to_an_array_does_not_change_a_loaded_module(tmp_path: Path) -> None:
    graph = mlp()
    module = session(tmp_path).load(graph)
    x = np.ones((2, 12), np.float32)
    before = run(module, x)
    graph.params["w1"][...] = 0
    np.testing.assert_array_equal(run(module, x), before)


def test_only_new_kernels_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked: list[int] = []

    def counting(linker: str, output: str, inputs: list[str]) -> None:
        linked.append(len(inputs))
        really(linker, output, inputs)

    really = link.run_linker
    monkeypatch.setattr(link, "run_linker", counting)
    warm = session(tmp_path)
    for wide in (104, 104, 112):  # widths that no other test has
        warm.load(stack(wide=wide))
    assert len(linked) == 2
    assert warm.rebuilt is not None and 1 <= linked[1] <= len(warm.rebuilt.built)


def test_settings_of_threads_have_libraries_of_their_own(tmp_path: Path) -> None:
    warm = session(tmp_path)
    one, two = warm.load(stack(), num_threads=1), warm.load(stack(), num_threads=2)
    np.testing.assert_array_equal(run(one, X), run(two, X))


def test_many_threads_may_use_one_session(tmp_path: Path) -> None:
    warm = session(tmp_path)
    want = {wide: run(warm.load(stack(wide=wide)), X) for wide in (24, 32, 40, 48)}
    found: dict[int, np.ndarray] = {}

    def work(wide: int) -> None:
        found[wide] = run(warm.load(stack(wide=wide)), X)

    workers = [threading.Thread(target=work, args=(wide,)) for wide in want]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for wide, result in want.items():
        np.testing.assert_array_equal(found[wide], result)


def test_a_module_of_another_room_is_loaded_too(tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    found = run(session(tmp_path, "xla-cpu").load(stack()), X)
    want = run(session(tmp_path).load(stack()), X)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_target_that_this_machine_cannot_run_is_refused(tmp_path: Path) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("cortex-a72 runs here")
    with pytest.raises(DeviceError, match="cortex-a72"):
        session(tmp_path, "cortex-a72").load(stack())


def test_memory_has_a_limit(tmp_path: Path) -> None:
    small = Memory(most=3)
    options = CompileOptions(store=LocalStore(tmp_path / "small"), memory=small)
    forgetful, warm = Session(options=options), session(tmp_path / "warm")
    for wide in (24, 40, 48, 24, 56, 64):
        model = stack(wide=wide)
        np.testing.assert_array_equal(run(forgetful.load(model), X), run(warm.load(model), X))
    assert len(small.table.regions) <= 3 + 6, "of the last build and the limit before it"
    (lowering,) = small._lowerings.values()
    assert len(lowering._lowered) == 3


def test_faults_leave_the_session_usable(tmp_path: Path) -> None:
    warm = session(tmp_path)
    before = run(warm.load(stack()), X)
    with pytest.raises(ShapeError):
        warm.load(stack().with_weights({}))
    with pytest.raises(TargetError, match="no target is given"):
        Session(())
    np.testing.assert_array_equal(run(warm.load(stack()), X), before)


def test_drawn_weights_are_shared_while_somebody_has_them() -> None:
    specs = {"w": Parameter((4, 4), initial.Normal(), (4, 4))}
    first = weights.drawn(specs, 1)["w"]
    assert weights.drawn(specs, 1)["w"] is first
    assert weights.drawn(specs, 2)["w"] is not first
    wider = {"w": Parameter((4, 5), initial.Normal(), (4, 5))}
    assert weights.drawn(wider, 1)["w"].shape == (4, 5)
    np.testing.assert_array_equal(first, weights.draw(specs, 1)["w"])
    assert not first.flags.writeable


def test_initialisers_of_the_users_are_asked_every_time() -> None:
    class Counting(initial.Initializer):
        calls = 0

        def draw(
            self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
        ) -> np.ndarray:
            Counting.calls += 1
            return np.full(shape, float(Counting.calls))

    specs = {"w": Parameter((2,), Counting())}
    first, second = weights.drawn(specs, 0)["w"], weights.drawn(specs, 0)["w"]
    assert (first[0], second[0]) == (1.0, 2.0)


def test_a_session_does_not_import_torch() -> None:
    script = (
        "import json, sys, nexus_compiler\n"
        "from nexus_compiler import GraphBuilder, Session\n"
        "Session().load(GraphBuilder().input('x', (None, 4)).dense(3))\n"
        "print(json.dumps('torch' in sys.modules))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout) is False
