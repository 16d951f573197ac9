"""What several clients ask a store for is built once: events in, instructions out.

Of all who claim an absent entry the first gets a lease, and the others wait for what it stores. A
lease that is neither renewed nor answered in time, and one that is given back, goes to the next who
waits. As in `state.py` there is no clock, no network and no randomness here. The law that the tests
check: of one entry there is never more than one live lease, and every claim is answered once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

LEASE_SECONDS = 30.0
"""A builder that is silent for longer is lost; clients renew three times as often."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that happened at second `at` of the service's monotonic clock."""

    at: float


class Claimed(Event, frozen=True, kw_only=True):
    """A client wants an entry, and builds it where it is absent.

    Attributes:
        claim: a number of the service's own, by which the answer is given.
        entry: the entry's name.
        held: whether it is there.
        publish: whether the client will store what it builds.
    """

    claim: int
    client: str
    entry: str
    held: bool
    publish: bool


class Left(Event, frozen=True, kw_only=True):
    """Whoever made this claim waits no more, and did not hear an answer."""

    claim: int


class Stored(Event, frozen=True, kw_only=True):
    """An entry is there now, whoever made it."""

    entry: str


class Renewed(Event, frozen=True, kw_only=True):
    """A build goes on."""

    client: str
    lease: int


class Abandoned(Event, frozen=True, kw_only=True):
    """A build failed."""

    client: str
    lease: int


class Ticked(Event, frozen=True, kw_only=True):
    """Time went by."""


class Instruction(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that the service must do."""


class Serve(Instruction, frozen=True, kw_only=True):
    """Answer the claim with the entry."""

    claim: int


class Grant(Instruction, frozen=True, kw_only=True):
    """Answer the claim with a lease of `LEASE_SECONDS`."""

    claim: int
    lease: int


class Decline(Instruction, frozen=True, kw_only=True):
    """Answer the claim: nobody builds this for others."""

    claim: int


class Lost(Instruction, frozen=True, kw_only=True):
    """Tell the client that it does not hold this lease (any more)."""

    lease: int


@dataclass
class _Flight:
    """An entry that is being built, and the claims that wait for it."""

    entry: str
    lease: int = 0
    claim: int = 0
    client: str = ""
    deadline: float = 0.0
    waiting: list[Claimed] = field(default_factory=list[Claimed])


class Flights:
    """All builds in flight. `first` is the number of the first lease."""

    def __init__(self, *, first: int = 1) -> None:
        self._next = first
        self._flights: dict[str, _Flight] = {}
        self._leases: dict[int, _Flight] = {}
        self._out: list[Instruction] = []
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Claimed: self._on_claimed,
            Left: self._on_left,
            Stored: self._on_stored,
            Renewed: self._on_renewed,
            Abandoned: self._on_abandoned,
            Ticked: self._on_ticked,
        }

    @property
    def leases(self) -> dict[int, str]:
        """The entry of every live lease."""
        return {lease: flight.entry for lease, flight in self._leases.items()}

    def handle(self, event: Event) -> list[Instruction]:
        """Take an event in; return what is to be done, in order."""
        self._out = []
        self._handlers[type(event)](event)
        return self._out

    def _on_claimed(self, event: Claimed) -> None:
        if event.held:
            self._out.append(Serve(claim=event.claim))
        elif flight := self._flights.get(event.entry):
            flight.waiting.append(event)
        elif event.publish:
            self._flights[event.entry] = flight = _Flight(event.entry)
            self._grant(flight, event, event.at)
        else:
            self._out.append(Decline(claim=event.claim))

    def _on_left(self, event: Left) -> None:
        for flight in list(self._flights.values()):
            flight.waiting = [one for one in flight.waiting if one.claim != event.claim]
            if flight.claim == event.claim:  # it has a lease, and does not know
                self._pass_on(flight, event.at)

    def _on_stored(self, event: Stored) -> None:
        flight = self._flights.pop(event.entry, None)
        if flight is not None:
            del self._leases[flight.lease]
            self._out += [Serve(claim=one.claim) for one in flight.waiting]

    def _on_renewed(self, event: Renewed) -> None:
        flight = self._leases.get(event.lease)
        if flight is None or flight.client != event.client:
            self._out.append(Lost(lease=event.lease))
        else:
            flight.deadline = event.at + LEASE_SECONDS

    def _on_abandoned(self, event: Abandoned) -> None:
        flight = self._leases.get(event.lease)
        if flight is not None and flight.client == event.client:
            self._pass_on(flight, event.at)

    def _on_ticked(self, event: Ticked) -> None:
        for flight in list(self._flights.values()):
            if event.at >= flight.deadline:
                self._pass_on(flight, event.at)

    def _pass_on(self, flight: _Flight, now: float) -> None:
        """Give a lost lease to the next who waits and would publish, if there is one."""
        del self._leases[flight.lease]
        for place, claimed in enumerate(flight.waiting):
            if claimed.publish:
                del flight.waiting[place]
                self._grant(flight, claimed, now)
                return
        del self._flights[flight.entry]
        self._out += [Decline(claim=one.claim) for one in flight.waiting]

    def _grant(self, flight: _Flight, claimed: Claimed, now: float) -> None:
        flight.lease, flight.claim, flight.client = self._next, claimed.claim, claimed.client
        flight.deadline = now + LEASE_SECONDS
        self._leases[flight.lease] = flight
        self._next += 1
        self._out.append(Grant(claim=claimed.claim, lease=flight.lease))
