"""Control flow on data: what is compiled how often, told by report()."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nexus_compiler as nexus
from nexus_compiler.build import CompileOptions, Memory
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import UserError

xp = nexus.array_api


def reasons(function: Any) -> list[str]:
    return [one.reason for one in nexus.jit.report(function).compiles]


def test_without_cuts_python_runs_once() -> None:
    runs = []

    @nexus.jit
    def scaled(x: Any, y: Any) -> Any:
        runs.append(1)
        return {"sum": xp.sum(x * y, axis=1), "both": (x, y - 1.0)}

    x, y = np.ones((4, 3), "float32"), np.full(3, 2, "float32")
    for _ in range(3):
        found = scaled(x, y)
    np.testing.assert_array_equal(found["sum"], np.full(4, 6, "float32"))
    np.testing.assert_array_equal(found["both"][0], x)
    report = scaled.report()
    # An argument that is handed back is no output of a region, so that this call is not replayed.
    assert report.calls == 3
    assert reasons(scaled) == ["first call"]


def test_replay_and_reasons() -> None:
    runs = []

    @nexus.jit
    def power(x: Any, times: int, mode: str = "up") -> Any:
        runs.append(1)
        for _ in range(times):
            x = x * x if mode == "up" else xp.sqrt(x)
        return x

    x = np.asarray([1.0, 2.0], "float32")
    for _ in range(4):
        np.testing.assert_array_equal(power(x, 2), x**4)
    assert len(runs) == 1
    assert power.report().replays == 3
    power(x, 3)
    power(x.astype("float64"), 3)
    power(x, 2, mode="down")
    assert reasons(power) == ["first call", *["new static argument"]] + [
        "new dtype",
        "new static argument",
    ]


def test_sizes_become_symbolic_after_the_first_difference() -> None:
    @nexus.jit
    def shift(x: Any) -> Any:
        rows = x.shape[0]
        return xp.reshape(x[1:, :] - x[:-1, :], ((rows - 1) * 3,))

    for rows in (4, 5, 6, 9, 17):
        x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
        np.testing.assert_array_equal(shift(x), np.full((rows - 1) * 3, 3, "float32"))
    assert reasons(shift) == ["first call", "new shape"]
    assert shift.report().compiles[1].symbolic

    pinned = nexus.jit(lambda x: x + 1.0, dynamic=False)
    for rows in (2, 3, 4):
        pinned(np.zeros(rows, "float32"))
    assert not any(one.symbolic for one in pinned.report().compiles)
    assert len(pinned.report().compiles) == 3


def test_a_wrong_formula_is_not_trusted() -> None:
    @nexus.jit
    def odd(x: Any) -> Any:
        size = x.shape[0]
        return xp.reshape(x[: size if size < 7 else size - 2], (-1, 1))

    for size in (4, 5, 6, 7, 8, 9):
        found = odd(np.arange(size, dtype="float32"))
        np.testing.assert_array_equal(found[:, 0], np.arange(size if size < 7 else size - 2))


def test_scalars_that_vary_become_inputs() -> None:
    @nexus.jit
    def scale(x: Any, rate: float) -> Any:
        return x * rate - 1.0

    x = np.asarray([1.0, 2.0], "float32")
    for rate in (0.5, 0.25, 0.125, 3.0):
        np.testing.assert_array_equal(scale(x, rate), x * np.float32(rate) - 1)
    assert reasons(scale) == ["first call", "new scalar"]


def test_branches_are_compiled_when_they_are_taken() -> None:
    @nexus.jit
    def branch(x: Any) -> Any:
        if xp.sum(x) > 0:
            return xp.exp(x)
        return x * x * x

    up, down = np.asarray([1.0, 2.0], "float32"), np.asarray([-1.0, -2.0], "float32")
    np.testing.assert_allclose(branch(up), np.exp(up), rtol=1e-6)
    assert reasons(branch) == ["first call", "first call"]
    np.testing.assert_array_equal(branch(down), down**3)
    assert reasons(branch)[2:] == ["new branch"]
    for x in (up, down, up):
        branch(x)
    assert len(reasons(branch)) == 3
    assert branch.report().traces == 5
    assert "asks for values" in str(branch.report())
    assert "bool() at test_tracing_control.py" in branch.report().compiles[0].cut


def test_a_loop_compiles_its_body_once() -> None:
    @nexus.jit
    def newton(x: Any, limit: float) -> tuple[Any, int]:
        turns = 0
        while xp.max(xp.abs(x * x - 2.0)) > limit:
            x = x - (x * x - 2.0) / (2.0 * x)
            turns += 1
        return x, turns

    root, turns = newton(np.asarray([1.0, 3.0]), 1e-10)
    np.testing.assert_allclose(root, np.sqrt(2.0))
    assert turns > 3
    # The test before the first turn, and a turn with the test behind it.
    assert len(reasons(newton)) == 2
    _, more = newton(np.asarray([1.0, 300.0]), 1e-10)
    assert more > turns
    assert len(reasons(newton)) == 2


def test_early_exit_and_recursion() -> None:
    @nexus.jit
    def first_large(x: Any) -> Any:
        total = xp.zeros(())
        for index in range(x.shape[0]):
            total = total + x[index]
            if total > 3.0:
                return total * 10.0
        return total

    x = np.asarray([1.0, 1.0, 1.5, 9.0, 9.0], "float32")
    assert float(first_large(x)) == 35.0
    assert float(first_large(x[:2])) == 2.0

    @nexus.jit
    def collatz(n: Any, depth: int = 0) -> int:
        if n == 1:
            return depth
        return collatz(n // 2 if n % 2 == 0 else 3 * n + 1, depth + 1)

    assert collatz(np.asarray(6)) == 8
    known = len(reasons(collatz))
    assert collatz(np.asarray(27)) == 111
    assert len(reasons(collatz)) == known


def test_counts_and_masks_that_depend_on_data() -> None:
    @nexus.jit
    def positive_mean(x: Any) -> Any:
        kept = x[x > 0.0]
        return xp.sum(kept) / float(kept.shape[0])

    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal(50 + seed)
        np.testing.assert_allclose(float(positive_mean(x)), x[x > 0].mean())


def test_captured_arrays_are_read_again() -> None:
    state = {"weight": xp.asarray([1.0, 2.0])}
    scaled = nexus.jit(lambda x: x * state["weight"])
    x = np.ones(2, "float32")
    np.testing.assert_array_equal(scaled(x), [1, 2])
    state["weight"] = xp.asarray([5.0, 6.0])
    np.testing.assert_array_equal(scaled(x), [5, 6])
    assert "no arguments" in scaled.report().unreplayed


def test_results_are_of_the_kind_of_the_arguments() -> None:
    torch = pytest.importorskip("torch")
    double = nexus.jit(lambda x: x + x)
    assert isinstance(double(np.ones(2, "float32")), np.ndarray)
    found = double(torch.ones(2))
    assert type(found).__name__ == "Array"
    assert torch.from_dlpack(found).tolist() == [2.0, 2.0]
    assert found.__array_namespace__() is xp


def test_many_threads() -> None:
    @nexus.jit
    def step(x: Any) -> Any:
        while xp.sum(x) > 1.0:
            x = x * 0.5
        return xp.exp(x)

    def expected(x: np.ndarray) -> np.ndarray:
        while x.sum() > 1:
            x = x * np.float32(0.5)
        return np.exp(x)

    wrong: list[Any] = []

    def work(seed: int) -> None:
        for turn in range(10):
            x = np.random.default_rng(seed * 100 + turn).random(3 + turn % 3, "float32") * 9
            if not np.allclose(step(x), expected(x), rtol=1e-5):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert step.report().calls == 40


def test_static_arguments_must_be_hashable() -> None:
    with pytest.raises(UserError, match="static argument"):
        nexus.jit(lambda x, s: x)(np.ones(2), {1, 2})


def test_regions_of_several_functions_are_shared() -> None:
    one = nexus.jit(lambda x: xp.tanh(x) * 2.0)
    other = nexus.jit(lambda y: xp.tanh(y) * 2.0)
    x = np.linspace(0, 1, 7, dtype="float32")
    one(x)
    other(x)
    assert (len(reasons(one)), len(reasons(other))) == (1, 0)
    assert other.report().hits == 1


def test_eager_use_without_jit() -> None:
    x = xp.asarray([1.0, 2.0, 3.0])
    y = x * 2.0
    x[1] = 9.0
    x[x > 5.0] = 0.0
    assert (y.tolist(), x.tolist()) == ([2.0, 4.0, 6.0], [1.0, 0.0, 3.0])
    grid = xp.zeros((3, 4))
    grid[1:, ::2] = xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert grid.tolist() == [[0, 0, 0, 0], [1, 0, 2, 0], [3, 0, 4, 0]]


def test_the_report_names_the_pieces_that_were_new(tmp_path: Path) -> None:
    def net(last: int) -> Callable[[np.ndarray], Any]:
        weights = [np.ones((5, 13), "float32"), np.ones((13, last), "float32")]
        store = LocalStore(tmp_path)

        @nexus.jit(options=CompileOptions(store=store, memory=Memory()))
        def run(x: Any, first: Any, second: Any) -> Any:
            return xp.matmul(xp.tanh(xp.matmul(x, first)), second)

        run(np.ones((2, 5), "float32"), *weights)
        return run

    (first,), (second,) = (net(size).report().compiles for size in (3, 11))
    assert (len(first.new), first.known) == (2, 0)
    assert (len(second.new), second.known) == (1, 1)
    assert "matmul" in second.new[0]
    assert f"new piece: {second.new[0]}" in str(second)
