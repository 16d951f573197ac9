"""What the state machine wants done: the shells carry these out and report back with events."""

from __future__ import annotations

import msgspec

from nexus_runtime.scheduler.placement import Placement


class Instruction(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something for a shell to do."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A time-limited right of one worker to compute the gradients of one shard of one round.

    Attributes:
        id: never used twice in a job; a result counts only under the id that its shard is leased
            by.
        start, stop: positions in the epoch's order of samples.
        seed: of the dropout masks of this epoch.
        row: global row index of the first sample, so that shards of a batch get its masks.
        parameters: digest of the parameters to differentiate at.
        deadline: second of the scheduler's clock at which the shard goes to somebody else.
    """

    id: int
    round: int
    shard: int
    epoch: int
    start: int
    stop: int
    seed: int
    row: int
    parameters: str
    deadline: float

    @property
    def count(self) -> int:
        """Samples in it."""
        return self.stop - self.start


class SendLease(Instruction, frozen=True, kw_only=True):
    """Answer the worker's poll with this lease."""

    worker: str
    lease: Lease


class AcknowledgeResult(Instruction, frozen=True, kw_only=True):
    """Tell the worker whether its result counts; where it does not, forget the result."""

    worker: str
    lease: int
    digest: str
    counted: bool
    reason: str = ""


class FenceWorker(Instruction, frozen=True, kw_only=True):
    """This session is given up: whatever the worker asks, tell it to register again."""

    worker: str
    session: int
    reason: str


class PlanRound(Instruction, frozen=True, kw_only=True):
    """From this round on full batches are split like this (for people, logs and reports)."""

    round: int
    placement: Placement
    why: str


class ShardResult(msgspec.Struct, frozen=True):
    """Which worker's result, under which lease, holds the sums of which rows."""

    worker: str
    lease: int
    start: int
    stop: int
    digest: str


class CommitRound(Instruction, frozen=True, kw_only=True):
    """Every shard is in: add in this order, divide by `count`, apply the update, report back."""

    round: int
    epoch: int
    step: int  # 1, 2, ... over the whole job
    count: int
    shards: tuple[ShardResult, ...]


class FinishEpoch(Instruction, frozen=True, kw_only=True):
    """An epoch's last update is applied: evaluate, write the checkpoint, tell the user."""

    epoch: int


class FinishJob(Instruction, frozen=True, kw_only=True):
    """All epochs are done: release the workers."""


class FailJob(Instruction, frozen=True, kw_only=True):
    """The job cannot go on; release the workers."""

    message: str
    hint: str
