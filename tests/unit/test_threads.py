"""The launcher of parallel kernels, driven with tasks that are Python functions."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime import cli, light, threads
from nexus_runtime.errors import DeviceError
from nexus_runtime.threads import cores, pool


class Environment(ctypes.Structure):
    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(Environment), ctypes.c_void_p)
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, TASK, ctypes.c_void_p, ctypes.c_int)
Launch = Callable[..., int]
_KEPT: list[object] = []
SOON = 20.0  # seconds; nothing waits that long unless it is broken


def library() -> Path:
    found, reason = pool.find()
    if found is None:
        pytest.skip(f"our own launcher: {reason}")
    return Path(reason)


@pytest.fixture
def crew(tmp_path: Path) -> pool.Pool:
    """A pool of this test alone: the loader takes a copy for another library."""
    return pool.Pool(Path(shutil.copy(library(), tmp_path / "pool.so")))


def launcher(crew: pool.Pool, count: int, on: Sequence[int] = ()) -> Launch:
    """`launch(body, tasks)`, where `body(task, tasks)` returns the status or None for 0."""
    launch = LAUNCH(crew.launcher(count, on))

    def call(body: Callable[[int, int], int | None], tasks: int = 0) -> int:
        return launch(
            TASK(lambda task, env, _: body(task, env.contents.num_task) or 0), None, tasks
        )

    return call


@pytest.mark.parametrize(
    ("count", "given_tasks", "tasks"), [(2, 0, 8), (3, 0, 12), (3, 5, 5), (4, 1, 1)]
)
def test_every_task_runs_once(crew: pool.Pool, count: int, given_tasks: int, tasks: int) -> None:
    seen: list[tuple[int, int]] = []
    launch = launcher(crew, count)
    assert launch(lambda *task: seen.append(task), given_tasks) == 0
    assert sorted(seen) == [(task, tasks) for task in range(tasks)]


def test_one_thread_is_the_callers(crew: pool.Pool) -> None:
    seen: list[tuple[int, int, int]] = []
    launcher(crew, 1)(lambda *task: seen.append((threading.get_ident(), *task)))
    assert seen == [(threading.get_ident(), 0, 1)]
    assert crew.workers == 0


def test_nobody_waits_for_a_thread_that_does_not_run(crew: pool.Pool) -> None:
    """The thread with the first task is held until all others are done: by the other thread."""
    lock, others_done, left, in_time = threading.Lock(), threading.Event(), [7], []

    def body(task: int, _: int) -> None:
        if task == 0:
            in_time.append(others_done.wait(SOON))
            return
        with lock:
            left[0] -= 1
            if not left[0]:
                others_done.set()

    launcher(crew, 2)(body)
    assert in_time == [True]


def run_together(launch: Launch, body: Callable[[], object], count: int) -> list[object]:
    """What `body` returns in each of `count` tasks that are held until all have begun."""
    barrier, results = threading.Barrier(count), list[object]()

    def task(*_: int) -> None:
        barrier.wait(SOON)
        results.append(body())

    launch(task, count)
    return results


def test_as_many_threads_as_were_asked_for(crew: pool.Pool) -> None:
    for count in (4, 2, 3):
        idents = run_together(launcher(crew, count), threading.get_ident, count)
        assert len(set(idents)) == count
        assert threading.get_ident() in idents
    assert crew.workers == 3  # shared by all three


def test_a_launch_inside_of_a_task_runs_on_its_thread(crew: pool.Pool) -> None:
    launch, idents = launcher(crew, 2), list[set[int]]()

    def outer(*_: int) -> None:
        inner = {threading.get_ident()}
        launch(lambda *_: inner.add(threading.get_ident()))
        idents.append(inner)

    assert launch(outer) == 0
    assert [len(inner) for inner in idents] == [1] * 8


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_the_status_of_a_task_that_fails_is_the_launchs(crew: pool.Pool, bad: int) -> None:
    launch = launcher(crew, 2)
    assert launch(lambda task, _: -3 if task == bad else 0) == -3
    assert launch(lambda *_: 0) == 0


def test_an_error_reaches_the_callers_thread(crew: pool.Pool) -> None:
    with light.without_torch():
        import tvm_ffi

    crew.carry_errors(tvm_ffi.LIB)
    caller, raised = threading.get_ident(), ctypes.c_void_p()

    def body() -> int:
        if threading.get_ident() != caller:
            tvm_ffi.LIB.TVMFFIErrorSetRaisedFromCStr(b"ValueError", b"by a worker")
            return -1
        return 0

    barrier = threading.Barrier(2)  # both threads get a task
    for _ in range(3):
        assert launcher(crew, 2)(lambda *_: barrier.wait(SOON) * 0 or body(), 2) == -1
        tvm_ffi.LIB.TVMFFIErrorMoveFromRaised(ctypes.byref(raised))
        assert raised.value
        tvm_ffi.LIB.TVMFFIObjectDecRef(raised)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=4))
def test_callers_share_the_workers(callers: list[tuple[int, int]]) -> None:
    library()
    found, _ = pool.find()
    assert found is not None
    sums, begin = [0] * len(callers), threading.Barrier(len(callers))

    def call(index: int, count: int, tasks: int) -> None:
        launch, lock = launcher(found, count), threading.Lock()

        def body(task: int, _: int) -> None:
            with lock:
                sums[index] += task + 1

        begin.wait(SOON)
        for _ in range(5):
            assert launch(body, tasks) == 0

    running = [
        threading.Thread(target=call, args=(index, *caller)) for index, caller in enumerate(callers)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(SOON)
    for found_sum, (count, tasks) in zip(sums, callers, strict=True):
        tasks = tasks or (1 if count == 1 else 4 * count)
        assert found_sum == 5 * tasks * (tasks + 1) // 2


@pytest.mark.skipif(not cores.allowed(), reason="this system does not bind threads to cores")
def test_workers_keep_to_their_cores(crew: pool.Pool) -> None:
    allowed = cores.allowed()
    launch = launcher(crew, 2, allowed[-1:])
    own = threading.get_ident()
    found = dict(
        run_together(launch, lambda: (threading.get_ident() == own, os.sched_getaffinity(0)), 2)
    )
    assert found == {True: set(allowed), False: {allowed[-1]}}


def test_a_forked_child_has_workers_of_its_own(crew: pool.Pool) -> None:
    launch = launcher(crew, 2)
    assert len(set(run_together(launch, threading.get_ident, 2))) == 2
    with warnings.catch_warnings():
        # Newer Pythons, and JAX where it is loaded, warn of exactly what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if crew.workers == 0 else 2
            if len(set(run_together(launch, threading.get_ident, 2))) != 2:
                status = 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(set(run_together(launch, threading.get_ident, 2))) == 2


def test_after_closing_launches_run_on_their_callers(crew: pool.Pool) -> None:
    launch = launcher(crew, 3)
    run_together(launch, threading.get_ident, 3)
    crew.close()
    assert crew.workers == 0
    idents: list[int] = []
    assert launch(lambda *_: idents.append(threading.get_ident())) == 0
    assert idents == [threading.get_ident()] * 12


def test_the_process_ends_while_another_thread_launches() -> None:
    script = """
        import ctypes, sys, threading
        from nexus_runtime.threads import pool
        found, reason = pool.find()
        TASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        launch = ctypes.CFUNCTYPE(ctypes.c_int, TASK, ctypes.c_void_p, ctypes.c_int)(
            found.launcher(3, []))
        # A C function as the task: it may still run when Python is gone.
        task = ctypes.cast(ctypes.CDLL(None).abs, TASK)
        begun = threading.Event()
        def forever():
            while True:
                launch(task, None, 1)
                begun.set()
        threading.Thread(target=forever, daemon=True).start()
        begun.wait()
    """
    library()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=SOON,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_more_than_the_pool_holds_is_refused(crew: pool.Pool) -> None:
    for count, on in ((257, ()), (2, (5000,))):
        with pytest.raises(DeviceError, match="the pool has no room"):
            crew.launcher(count, on)


def test_an_extension_that_was_not_built_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_EXTENSION", "nexus_runtime.threads._absent")
    found, reason = pool.find.__wrapped__()
    assert found is None
    assert "it was not built; install Nexus again" in reason


def test_an_extension_that_cannot_be_loaded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_pool.abi3.so").write_bytes(b"no library")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pool, "_EXTENSION", "broken_pool")
    found, reason = pool.find.__wrapped__()
    assert found is None
    assert "cannot be loaded" in reason


def test_hyperthreads_and_shares_of_time_limit_the_threads(tmp_path: Path) -> None:
    for core in range(8):
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{core % 4},{core % 4 + 4}\n")
    quota = tmp_path / "cpu.max"
    assert cores.usable(range(8), cpus=tmp_path, quota=quota) == 4
    assert cores.usable([0, 4], cpus=tmp_path, quota=quota) == 1
    assert cores.usable([0, 5, 9], cpus=tmp_path, quota=quota) == 3  # nothing is known of 9
    for text, expected in (("max 100000\n", 4), ("250000 100000\n", 3), ("50000 100000\n", 1)):
        quota.write_text(text)
        assert cores.usable(range(8), cpus=tmp_path, quota=quota) == expected


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    monkeypatch.delenv("NEXUS_LAUNCHER", raising=False)
    return monkeypatch


def test_a_module_gets_every_core_by_default(no_default: pytest.MonkeyPatch) -> None:
    allowed = cores.allowed()
    assert threads.settle() == threads.Threads(cores.usable(allowed), allowed)
    no_default.setenv("TVM_NUM_THREADS", "7")
    assert threads.settle().count == 7
    assert threads.settle(3).count == 3
    no_default.setenv("TVM_NUM_THREADS", "many")
    assert threads.settle().count == cores.usable(allowed)


@pytest.mark.usefixtures("no_default")
def test_settings_that_make_no_sense_are_refused() -> None:
    for count in (0, -1, 257):
        with pytest.raises(DeviceError, match=f"cannot run on {count} threads"):
            threads.settle(count)
    with pytest.raises(DeviceError, match=r"the cores \[100000\] are not there"):
        threads.settle(affinity=[100000])
    with pytest.raises(DeviceError, match="names no core"):
        threads.settle(affinity=[])


@pytest.mark.usefixtures("no_default")
def test_affinity_decides_the_default_count() -> None:
    first = cores.allowed()[:1]
    assert threads.settle(affinity=first) == threads.Threads(1, first)
    assert threads.settle(2, [*first, *first]) == threads.Threads(2, first)


def test_the_launcher_can_be_chosen(no_default: pytest.MonkeyPatch) -> None:
    ours = threads.settle(2).label
    no_default.setenv("NEXUS_LAUNCHER", "tvm")
    assert threads.chosen() == ("tvm", "NEXUS_LAUNCHER asks for it")
    assert threads.settle(2).label != ours or pool.find()[0] is None
    no_default.setenv("NEXUS_LAUNCHER", "openmp")
    with pytest.raises(DeviceError, match="is no launcher"):
        threads.chosen()


def test_the_agent_says_who_deals_the_work(
    no_default: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_default.setenv("TVM_NUM_THREADS", "5")
    no_default.setenv("NEXUS_LAUNCHER", "tvm")
    assert cli.main(["doctor"]) == 0
    expected = "threads  5, work is dealt out by TVM's own pool (NEXUS_LAUNCHER asks for it)"
    assert expected in capsys.readouterr().out
    no_default.setenv("NEXUS_LAUNCHER", "openmp")
    assert cli.main(["doctor"]) == 1
    assert "is no launcher" in capsys.readouterr().err
