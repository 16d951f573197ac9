"""Modules on threads: several at once, each with a number of its own, and TVM's pool instead."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small import mlp, mlp_reference

import nexus_compiler
import nexus_runtime
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import DeviceError
from nexus_runtime.executors import jax_export
from nexus_runtime.threads import cores, pool

# Large enough for every kernel to be parallel.
GRAPHS = {name: mlp(features=128, hidden=size) for name, size in (("a", 96), ("b", 160))}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("threads")
    options = nexus_compiler.CompileOptions(store=LocalStore(root / "store"))
    for name, graph in GRAPHS.items():
        nexus_compiler.compile(graph, options=options).save(root / f"{name}.nxa")
    return {name: root / f"{name}.nxa" for name in GRAPHS}


@pytest.fixture
def ours() -> Iterator[pool.Pool]:
    found, reason = pool.find()
    if found is None:
        pytest.skip(f"our own launcher: {reason}")
    yield found


def arrays(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((64 + i, 128)).astype(np.float32) for i in range(count)]


def test_every_number_of_threads_computes_the_same(artifacts: dict[str, Path]) -> None:
    (x,) = arrays(1)
    results = [
        np.asarray(nexus_runtime.load(artifacts["a"], num_threads=count)(x)) for count in (1, 2, 3)
    ]
    np.testing.assert_allclose(results[0], mlp_reference(GRAPHS["a"], x), rtol=1e-4, atol=1e-4)
    # Threads share rows out and never a sum: not one bit differs.
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_modules_of_one_process_have_numbers_of_their_own(
    artifacts: dict[str, Path], tmp_path: Path, ours: pool.Pool
) -> None:
    """The same library is loaded with 1 and 2 threads, in a process where no worker is yet."""
    assert ours is not None
    script = f"""
        import numpy as np, nexus_runtime
        from nexus_runtime.threads import pool
        x = np.ones((256, 128), np.float32)
        found, _ = pool.find()
        counts = []
        for path, threads in ((r"{artifacts["a"]}", 1), (r"{artifacts["b"]}", 1),
                              (r"{artifacts["a"]}", 2), (r"{artifacts["a"]}", 3)):
            nexus_runtime.load(path, num_threads=threads)(x)
            counts.append(found.workers)
        print(counts)
    """
    assert run(script) == ("[0, 0, 1, 2]", "")


def run(script: str, **environment: str) -> tuple[str, str]:
    """What a fresh process writes to its two streams."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TVM_NUM_THREADS",)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**inherited, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_many_threads_call_many_modules(artifacts: dict[str, Path]) -> None:
    modules = [
        (GRAPHS[name], nexus_runtime.load(path, num_threads=count))
        for name, path in artifacts.items()
        for count in (1, 2, 3)
    ]
    given, wrong = arrays(4), list[str]()
    expected = {id(graph): [mlp_reference(graph, x) for x in given] for graph in GRAPHS.values()}
    begin = threading.Barrier(4)

    def call(first: int) -> None:
        begin.wait(60)
        for turn in range(30):
            graph, module = modules[(first + turn) % len(modules)]
            index = turn % len(given)
            found = np.asarray(module(given[index]))
            if not np.allclose(found, expected[id(graph)][index], rtol=1e-4, atol=1e-3):
                wrong.append(f"thread {first}, turn {turn}")

    callers = [threading.Thread(target=call, args=(first,)) for first in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
        assert not caller.is_alive()
    assert not wrong


def test_a_forked_child_computes(artifacts: dict[str, Path], ours: pool.Pool) -> None:
    """With TVM's own pool it would wait for ever: its workers are not there."""
    assert ours is not None
    (x,) = arrays(1)
    module = nexus_runtime.load(artifacts["a"], num_threads=2)
    expected = np.asarray(module(x))
    with warnings.catch_warnings():
        # Newer Pythons, and JAX where it is loaded, warn of exactly what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if np.array_equal(np.asarray(module(x)), expected) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_workers_keep_to_the_cores_of_their_module(artifacts: dict[str, Path]) -> None:
    (x,) = arrays(1)
    before = cores.allowed()
    bound = nexus_runtime.load(artifacts["a"], num_threads=2, affinity=before[-1:])
    free = nexus_runtime.load(artifacts["a"], num_threads=2)
    assert np.array_equal(np.asarray(bound(x)), np.asarray(free(x)))
    assert cores.allowed() == before
    with pytest.raises(DeviceError, match=r"the cores \[100000\]"):
        nexus_runtime.load(artifacts["a"], affinity=[100000])


def test_tvms_pool_stands_in_and_says_what_it_cannot_do(artifacts: dict[str, Path]) -> None:
    script = f"""
        import numpy as np, nexus_runtime
        module = nexus_runtime.load(r"{artifacts["a"]}", num_threads=2)
        print(float(module(np.ones((256, 128), np.float32)).sum()))
        nexus_runtime.load(r"{artifacts["b"]}", num_threads=3)
    """
    printed, complaint = run(script, NEXUS_LAUNCHER="tvm")
    expected = mlp_reference(GRAPHS["a"], np.ones((256, 128), np.float32)).sum()
    assert float(printed) == pytest.approx(float(expected), rel=1e-4)
    assert "the module runs on 2 threads instead of 3" in complaint
    assert "NEXUS_LAUNCHER asks for it" in complaint


def test_xla_refuses_cores() -> None:
    from nexus_runtime.signature import Signature

    with pytest.raises(DeviceError, match="cannot be kept to cores"):
        jax_export.open_module(b"", Signature((), ()), num_threads=None, affinity=[0])
