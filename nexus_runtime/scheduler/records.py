"""What the state machine remembers: its workers, and the round that is being computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nexus_runtime.scheduler.instructions import Lease
from nexus_runtime.scheduler.placement import Candidate
from nexus_runtime.scheduler.profile import CostModel


class Phase(StrEnum):
    """Where a job stands.

    gathering -> computing -> applying -> gathering ... -> done; any of them -> failed.
    """

    GATHERING = "gathering"  # waits for workers, or is about to start a round
    COMPUTING = "computing"  # shards are leased
    APPLYING = "applying"  # all shards are in; the update is being made
    DONE = "done"
    FAILED = "failed"


class Standing(StrEnum):
    """What a worker may do."""

    JOINING = "joining"  # loads the artifact and the data, measures itself
    READY = "ready"  # takes leases
    AWAY = "away"  # let a lease expire; takes leases again from the round after its next poll
    LOST = "lost"  # gave up or was given up; may register again


_UNMEASURED = CostModel(0.0, 1.0)


@dataclass
class Worker:
    """A worker, as far as this job knows it."""

    name: str
    session: int
    pool: str
    since: float  # registered
    seen: float  # last sign of life
    standing: Standing = Standing.JOINING
    cost: CostModel = _UNMEASURED
    limit: int | None = None
    polling: bool = False  # a poll of its waits for an answer
    leases: list[Lease] = field(default_factory=list[Lease])  # to be done in this order
    sent: float = 0.0  # when the first of them was handed over
    strikes: int = 0  # leases that expired in a row
    drifted: int = 0  # rounds in a row outside the predicted time

    def candidate(self) -> Candidate:
        """The worker as the planner sees it."""
        return Candidate(self.name, self.cost, self.limit)

    def backlog(self) -> float:
        """Predicted seconds until its leases are done."""
        return sum(self.cost.seconds(lease.count) for lease in self.leases)


@dataclass
class Shard:
    """A contiguous piece of a round's rows. It counts once: `digest` is set once."""

    start: int
    stop: int
    lease: Lease | None = None
    worker: str = ""  # whose lease it is, or whose result
    digest: str = ""  # of the gradients that count

    @property
    def count(self) -> int:
        """Samples in it."""
        return self.stop - self.start


@dataclass
class Round:
    """The round in flight."""

    number: int
    epoch: int
    parameters: str
    shards: list[Shard]

    @property
    def count(self) -> int:
        """Samples in it."""
        return sum(shard.count for shard in self.shards)

    @property
    def complete(self) -> bool:
        """Whether every shard has its result."""
        return all(shard.digest for shard in self.shards)
