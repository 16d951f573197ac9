"""Who of many clients builds an entry: lists of events, and the law whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_runtime.errors import SchedulerError
from nexus_runtime.scheduler import flights as fl
from nexus_runtime.scheduler.flights import LEASE_SECONDS, Flights
from nexus_runtime.scheduler.shelf import Shelf


def claimed(claim: int, *, at: float = 0.0, publish: bool = True, held: bool = False) -> fl.Claimed:
    return fl.Claimed(at=at, claim=claim, client=f"c{claim}", entry="e", held=held, publish=publish)


def test_one_builds_and_all_are_served() -> None:
    state = Flights()
    assert state.handle(claimed(1)) == [fl.Grant(claim=1, lease=1)]
    for claim in range(2, 11):
        assert state.handle(claimed(claim)) == []
    assert state.handle(fl.Stored(at=1, entry="e")) == [fl.Serve(claim=n) for n in range(2, 11)]
    assert state.handle(claimed(11, held=True)) == [fl.Serve(claim=11)]
    assert state.leases == {}


def test_a_lost_lease_passes_on() -> None:
    state = Flights()
    for claim in (1, 2, 3):
        state.handle(claimed(claim))
    assert state.handle(fl.Ticked(at=LEASE_SECONDS - 1)) == []
    assert state.handle(fl.Ticked(at=LEASE_SECONDS)) == [fl.Grant(claim=2, lease=2)]
    assert state.handle(fl.Renewed(at=31, client="c1", lease=1)) == [fl.Lost(lease=1)]
    assert state.handle(fl.Abandoned(at=31, client="c1", lease=1)) == []
    assert state.handle(fl.Abandoned(at=32, client="c2", lease=2)) == [fl.Grant(claim=3, lease=3)]
    # The first was only slow: what it stores is as good.
    assert state.handle(fl.Stored(at=33, entry="e")) == []
    assert state.leases == {}


def test_a_renewed_lease_stays() -> None:
    state = Flights()
    state.handle(claimed(1))
    for at in range(10, 200, 10):
        assert state.handle(fl.Renewed(at=at, client="c1", lease=1)) == []
        assert state.handle(fl.Ticked(at=at)) == []
    assert state.handle(fl.Renewed(at=200, client="thief", lease=1)) == [fl.Lost(lease=1)]
    assert state.leases == {1: "e"}


def test_who_does_not_publish_gets_no_lease() -> None:
    state = Flights()
    assert state.handle(claimed(1, publish=False)) == [fl.Decline(claim=1)]
    assert state.handle(claimed(2)) == [fl.Grant(claim=2, lease=1)]
    assert state.handle(claimed(3, publish=False)) == []
    assert state.handle(claimed(4)) == []
    assert state.handle(fl.Abandoned(at=1, client="c2", lease=1)) == [fl.Grant(claim=4, lease=2)]
    assert state.handle(fl.Abandoned(at=1, client="c4", lease=2)) == [fl.Decline(claim=3)]


def test_who_left_gets_nothing() -> None:
    state = Flights()
    for claim in (1, 2, 3):
        state.handle(claimed(claim))
    assert state.handle(fl.Left(at=1, claim=2)) == []
    # The first was granted, but did not hear of it.
    assert state.handle(fl.Left(at=1, claim=1)) == [fl.Grant(claim=3, lease=2)]


kinds = st.sampled_from(["claim", "left", "stored", "renewed", "abandoned", "ticked"])
steps = st.tuples(kinds, st.integers(0, 9), st.booleans(), st.sampled_from("ab"))


@given(st.lists(steps, max_size=80))
def test_one_lease_an_entry_and_one_answer_a_claim(moves: list[tuple[str, int, bool, str]]) -> None:
    state, at, claims = Flights(), 0.0, 0
    there: set[str] = set()
    answered: set[int] = set()
    open_claims: set[int] = set()
    for kind, number, flag, entry in moves:
        at += number
        client = f"client{number}"
        if kind == "claim":
            claims += 1
            open_claims.add(claims)
            event: fl.Event = fl.Claimed(
                at=at,
                claim=claims,
                client=client,
                entry=entry,
                held=entry in there,
                publish=flag,
            )
        elif kind == "left":
            open_claims.discard(number)
            event = fl.Left(at=at, claim=number)
        elif kind == "stored":
            there.add(entry)
            event = fl.Stored(at=at, entry=entry)
        elif kind == "renewed":
            event = fl.Renewed(at=at, client=client, lease=number)
        elif kind == "abandoned":
            event = fl.Abandoned(at=at, client=client, lease=number)
        else:
            event = fl.Ticked(at=at)
        for done in state.handle(event):
            if isinstance(done, fl.Serve | fl.Grant | fl.Decline):
                assert done.claim not in answered
                answered.add(done.claim)
                assert done.claim in open_claims
            if isinstance(done, fl.Serve):
                assert entry in there
        entries = list(state.leases.values())
        assert len(entries) == len(set(entries))
    # Time alone answers everybody.
    for _ in range(claims + 1):
        at += LEASE_SECONDS
        for done in state.handle(fl.Ticked(at=at)):
            answered.add(done.claim)  # type: ignore[attr-defined]
    assert open_claims <= answered
    assert state.leases == {}


NAME = "objects/" + "a" * 64


def test_a_shelf_stays_below_its_limit(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit=250)
    names = [f"objects/{number:064x}" for number in range(4)]
    for name in names[:2]:
        shelf.put(name, bytes(100))
    assert shelf.get(names[0]) == bytes(100)
    shelf.put(names[2], bytes(100))
    assert [name in shelf for name in names] == [True, False, True, False]
    shelf.put(names[2], bytes(50))
    assert shelf.size == 150
    (tmp_path / "objects" / "00" / ".half-written").write_bytes(b"x")
    again = Shelf(tmp_path, limit=250)
    assert (again.size, again.get(names[2])) == (150, bytes(50))
    with pytest.raises(SchedulerError, match="limit"):
        shelf.put(NAME, bytes(251))


@pytest.mark.parametrize(
    "name", ["", "a", "../../etc/passwd", f"objects/../{'a' * 61}", f"/{'a' * 64}", NAME + "\n"]
)
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path / "shelf", limit=100)
    assert not shelf.is_name(name)
    assert shelf.get(name) is None
    with pytest.raises(SchedulerError, match="no name"):
        shelf.put(name, b"x")
    assert list(tmp_path.iterdir()) == []
