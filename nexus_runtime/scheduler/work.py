"""What a coordinator is given, whom it tells, and what it answers to polls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from nexus_runtime.data import DataSet
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.report import EpochReport, PlanReport, Tally
from nexus_runtime.trainer import Trainer


class Observer(Protocol):
    """Is told how the job goes on; called from other threads, must return soon."""

    def planned(self, plan: PlanReport) -> None:
        """The batch is split anew."""
        ...

    def advanced(self, epoch: int, rounds: int, of: int, tally: Tally) -> None:
        """Another update was applied."""
        ...

    def finished_epoch(self, report: EpochReport) -> None:
        """An epoch was evaluated."""
        ...


@dataclass(frozen=True)
class Work:
    """A job and all it needs; the trainer holds the master copy of parameters and states."""

    name: str
    spec: ev.JobSpec
    trainer: Trainer
    data: DataSet
    data_source: str
    artifact: bytes
    learning_rate: float
    checkpoint: Path | None = None
    about: dict[str, Any] | None = None  # what a checkpoint says of the job
    history: tuple[EpochReport, ...] = ()  # of the epochs before a resumption


class Fenced(msgspec.Struct, frozen=True):
    """The answer to a poll of a session that was given up."""

    reason: str


class Finished(msgspec.Struct, frozen=True):
    """The answer to a poll when the job is over."""


Answer = do.Lease | Fenced | Finished | None
