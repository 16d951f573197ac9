"""Who wins a contest, and how a budget is spent; clocks and timings are inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import IRModule

from nexus_compiler import targets
from nexus_compiler.codegen.choices import FIRST, Choice, Guide, Question
from nexus_compiler.codegen.door import room_for
from nexus_compiler.store import upkeep
from nexus_compiler.store.door import TUNING
from nexus_compiler.store.local import LocalStore
from nexus_compiler.tuning.contest import ROUNDS, winner
from nexus_compiler.tuning.records import Record, Records, TuningWarning
from nexus_compiler.tuning.tuner import Tuner
from nexus_runtime.errors import TargetError


@dataclass
class Scripted:
    """A contest in which number i takes what `times` says, turn by turn."""

    times: Sequence[Callable[[int], float]]
    wrong: Sequence[int] = ()
    calls: int = 0

    def agree(self) -> Sequence[bool]:
        return [number not in self.wrong for number in range(len(self.times))]

    def seconds(self, number: int) -> float:
        self.calls += 1
        return self.times[number](self.calls)


def always(seconds: float) -> Callable[[int], float]:
    return lambda turn: seconds


def won(contest: Scripted) -> int:
    found = winner(contest, out_of_time=lambda: False)
    assert found is not None
    return found[0]


def test_the_fastest_wins() -> None:
    assert won(Scripted([always(1.0), always(0.8), always(0.7), always(1.4)])) == 2


def test_what_is_hardly_faster_does_not_win() -> None:
    assert won(Scripted([always(1.0), always(0.98)])) == 0


def test_what_is_wrong_never_wins() -> None:
    contest = Scripted([always(1.0), always(0.1)], wrong=[1])
    assert won(contest) == 0
    assert contest.calls <= 1, "it is not even timed"


def test_what_is_fast_in_half_of_the_rounds_does_not_win() -> None:
    assert won(Scripted([always(1.0), lambda turn: 0.5 if turn % 4 < 2 else 1.1])) == 0


def test_who_was_lucky_once_does_not_win() -> None:
    first = 2 * ROUNDS
    assert won(Scripted([always(1.0), lambda turn: 0.8 if turn <= first else 1.0])) == 0


def test_who_is_hopeless_is_not_timed_to_the_end() -> None:
    contest = Scripted([always(1.0), always(5.0)])
    assert won(contest) == 0
    assert contest.calls < ROUNDS


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6))
def test_nobody_wins_who_is_slower(times: list[float]) -> None:
    number = won(Scripted([always(one) for one in times]))
    assert times[number] <= times[0]


def test_out_of_time() -> None:
    assert winner(Scripted([always(1.0), always(0.5)]), out_of_time=lambda: True) is None


def test_a_guide_takes_what_is_there() -> None:
    met: dict[str, tuple[str, ...]] = {}
    guide = Guide(Choice.of({"tile": "b", "order": "gone"}), met)
    assert guide.take("tile", {"a": 1, "b": 2}) == 2
    assert guide.take("order", {"x": 3, "y": 4}) == 3
    assert guide.take("panel", {"only": 5}) == 5
    assert met == {"tile": ("a", "b"), "order": ("x", "y")}


def question(digest: str, seconds: float = 1.0) -> Question:
    forks = {"tile": ("a", "b"), "order": ("x", "y")}
    return Question(digest, f"kernel {digest}", seconds, 1.0, forks, "schedule", IRModule())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def records(store: LocalStore, **differing: str | int) -> Records:
    target = targets.load("x86-64-v3")
    options = {"machine": "this one", "threads": 1, **differing}
    return Records(store, target, room_for(target), **options)


SPEEDS = {"": 1.0, "tile b": 0.5, "order y, tile b": 0.9, "order y": 2.0}
"""Seconds by choice."""


@dataclass
class Bench:
    """Opens scripted contests, and counts time by them."""

    now: float = 0.0
    opened: int = 0

    def clock(self) -> float:
        return self.now

    def open(self, asked: Question, choices: Sequence[Choice]) -> Scripted:
        self.opened += 1

        def takes(choice: Choice) -> Callable[[int], float]:
            def one(turn: int) -> float:
                self.now += SPEEDS[choice.text]
                return SPEEDS[choice.text]

            return one

        return Scripted([takes(choice) for choice in choices])


def tuner(found: Records, bench: Bench) -> Tuner:
    return Tuner(found, bench.open, bench.clock)


def asking(found: Records, *asked: Question) -> Callable[[], Mapping[str, tuple[Question, float]]]:
    return lambda: {q.digest: (q, 1.0) for q in asked if found.of(q.digest) is None}


def test_fork_by_fork(store: LocalStore) -> None:
    found, bench = records(store), Bench()
    asked = question("1")
    assert tuner(found, bench).tune(asking(found, asked), 1e6) == 1
    assert found.of("1") == Choice.of({"tile": "b"})
    assert records(store).of("1") == Choice.of({"tile": "b"}), "it is in the store"
    assert tuner(found, bench).tune(asking(found, asked), 1e6) == 0
    assert bench.opened == 2, "what is known is not measured again"


def test_the_costliest_first_and_no_longer_than_the_budget(store: LocalStore) -> None:
    found, bench = records(store), Bench()
    cheap, dear = question("1", 0.1), question("2", 10.0)
    assert tuner(found, bench).tune(asking(found, cheap, dear), 80.0) == 1
    assert found.of("2") is not None
    assert found.of("1") is None
    assert bench.now <= 80.0 + max(SPEEDS.values()) * len(SPEEDS)


def test_no_budget_measures_nothing(store: LocalStore) -> None:
    found, bench = records(store), Bench()
    assert tuner(found, bench).tune(asking(found, question("1")), 0.0) == 0
    assert bench.opened == 0


def test_an_interrupt_keeps_what_was_found(store: LocalStore) -> None:
    found, bench = records(store), Bench()
    opened = itertools.count()

    def interrupted(asked: Question, choices: Sequence[Choice]) -> Scripted:
        if next(opened) == 2:
            raise KeyboardInterrupt
        return bench.open(asked, choices)

    own = Tuner(found, interrupted, bench.clock)
    assert own.tune(asking(found, question("1", 2.0), question("2", 1.0)), 1e6) == 1
    assert records(store).of("1") is not None
    assert records(store).of("2") is None


def test_what_cannot_run_by_itself_stays_as_it_is(store: LocalStore) -> None:
    found = records(store)

    def refuse(asked: Question, choices: Sequence[Choice]) -> Scripted:
        raise TargetError("open sizes")

    own = Tuner(found, refuse, Bench().clock)
    with pytest.warns(TuningWarning, match="kernel 1 stays as it is: open sizes"):
        assert own.tune(asking(found, question("1")), 1e6) == 0


@pytest.mark.parametrize("differing", [{"machine": "another"}, {"threads": 2}])
def test_records_of_another_machine_do_not_count(
    store: LocalStore, differing: dict[str, str | int]
) -> None:
    records(store, **differing).keep("1", Record("kernel", {"tile": "b"}, {}))
    assert records(store).of("1") is None
    assert records(store, **differing).of("1") == Choice.of({"tile": "b"})


def test_records_of_another_target_do_not_count(store: LocalStore) -> None:
    records(store).keep("1", Record("kernel", {}, {}))
    assert records(store).of("1") == FIRST
    other = targets.load("x86-64-v4")
    elsewhere = Records(store, other, room_for(other), machine="this one", threads=1)
    assert elsewhere.of("1") is None


@pytest.mark.parametrize("payload", [b"", b"{", b'{"label": 1}', b"\xff", b"[]"])
def test_a_record_that_cannot_be_read_is_measured_anew(store: LocalStore, payload: bytes) -> None:
    store.put(TUNING, records(store).key("1"), payload)
    found, bench = records(store), Bench()
    with pytest.warns(TuningWarning, match="is not used"):
        tuner(found, bench).tune(asking(found, question("1")), 1e6)
    assert records(store).of("1") == Choice.of({"tile": "b"})


def test_a_damaged_record_is_told_and_found_by_verify(store: LocalStore) -> None:
    found = records(store)
    found.keep("1", Record("kernel", {"tile": "b"}, {}))
    path = store.path(TUNING, found.key("1").digest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(TuningWarning, match="it is damaged"):
        assert records(store).of("1") is None
    assert list(upkeep.damaged(store, TUNING)) == [(found.key("1").digest, True)]
    assert "tuning" in [one.name.split("-")[0] for one in upkeep.usage(store.root)]
