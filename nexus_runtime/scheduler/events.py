"""What happens to a job: the events that go into the state machine, in the order of their arrival.

Events are plain data (msgspec writes them to JSON and back), so that a journal of them is the whole
story of a job. Time is in them (`at`, seconds of the scheduler's monotonic clock): the state
machine has no clock. A worker is known by its name; a new registration of that name opens a new
session, and what still arrives from the old one is ignored.
"""

from __future__ import annotations

import msgspec

from nexus_runtime.scheduler.profile import Sample


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the scheduler is; all in seconds unless said otherwise.

    Attributes:
        patience: a worker silent for longer is lost.
        lease_floor: no lease ends earlier than this after it was given.
        lease_factor: a lease ends after this many times its predicted duration (or the floor).
        start_grace: how long the first round waits for the workers that were announced.
        grace: how long a job without any worker waits for one before it fails.
        strikes: a worker that lets this many leases expire in a row is given up.
        drift: measured/predicted may leave [1 - drift, 1 + drift] ...
        drift_rounds: ... for this many rounds in a row before the batch is split anew.
    """

    patience: float = 5.0
    lease_floor: float = 10.0
    lease_factor: float = 8.0
    start_grace: float = 60.0
    grace: float = 10.0
    strikes: int = 3
    drift: float = 0.1
    drift_rounds: int = 5


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    Attributes:
        samples: size of the training set; every epoch visits each sample once.
        batch_size: samples of one round; the last round of an epoch takes what is left.
        seed: of the order of the samples and of the dropout masks.
        federated: split by measured speed; otherwise evenly.
        expected_workers: the first round waits for so many.
        first_epoch: where a resumed job goes on.
    """

    samples: int
    batch_size: int
    epochs: int
    seed: int = 0
    federated: bool = True
    expected_workers: int = 1
    first_epoch: int = 0
    timing: Timing = Timing()

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds that visit every sample once."""
        return -(-self.samples // self.batch_size)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that happened at second `at`."""

    at: float


class JobStarted(Event, frozen=True, kw_only=True):
    """The job begins, at the parameters whose blob has this digest."""

    job: JobSpec
    parameters: str


class WorkerRegistered(Event, frozen=True, kw_only=True):
    """A worker came, or came back; it now loads artifact and data, and measures itself."""

    worker: str
    session: int
    pool: str


class WorkerReady(Event, frozen=True, kw_only=True):
    """A worker can compute: its measured profile, and how many rows it can hold at once."""

    worker: str
    session: int
    profile: tuple[Sample, ...]
    memory_limit: int | None = None


class LeasePolled(Event, frozen=True, kw_only=True):
    """A worker that has nothing to do asks for a lease."""

    worker: str
    session: int


class HeartbeatReceived(Event, frozen=True, kw_only=True):
    """A worker says that it lives."""

    worker: str
    session: int


class ResultPushed(Event, frozen=True, kw_only=True):
    """The gradients of a lease arrived whole, with the right digest.

    Attributes:
        count: samples behind the sums.
        seconds: what the worker spent computing, without the transfers.
    """

    worker: str
    session: int
    lease: int
    round: int
    shard: int
    digest: str
    count: int
    seconds: float


class RoundApplied(Event, frozen=True, kw_only=True):
    """The update of a round was made; the new parameters have this digest."""

    round: int
    parameters: str


class WorkerLeft(Event, frozen=True, kw_only=True):
    """A worker went, or its process ended."""

    worker: str
    session: int | None = None  # None: whichever session it has
    reason: str = "it left"


class JobAborted(Event, frozen=True, kw_only=True):
    """Somebody outside ends the job: the user, or an error while applying an update."""

    reason: str
    hint: str = ""


class Ticked(Event, frozen=True, kw_only=True):
    """Time passed; deadlines are looked at now and at no other event."""
