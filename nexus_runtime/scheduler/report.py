"""What a job says of itself: while it runs (`Tally`) and when it is done (`TrainingReport`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from nexus_runtime.files import write_atomically
from nexus_runtime.scheduler.placement import Placement
from nexus_runtime.tensors import encode


class EpochReport(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch.

    Attributes:
        epoch: from 1.
        loss, accuracy: means over the training samples as they were visited (with dropout).
        test_accuracy: share of the test samples predicted rightly at the epoch's end.
        seconds: from the epoch's first lease to its last update.
        samples: visited.
        shares: samples by worker.
        rounds: updates made.
        overhead: mean seconds of a round in which even its slowest worker was not computing.
    """

    epoch: int
    loss: float
    accuracy: float
    test_accuracy: float
    seconds: float
    samples: int
    shares: dict[str, int]
    rounds: int
    overhead: float

    @property
    def samples_per_second(self) -> float:
        """Training speed."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0


class PlanReport(msgspec.Struct, frozen=True):
    """A split of the batch, why it was made, and from which round it held."""

    round: int
    why: str
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of a training job.

    Attributes:
        test_accuracy: after the last epoch, from 0 to 1.
        history: one entry for each epoch, those of a resumed job's earlier runs included.
        params: the trained weights by name.
        plans: how batches were split, in the order of time.
        seconds: of the whole call.
    """

    test_accuracy: float
    history: tuple[EpochReport, ...]
    params: Mapping[str, np.ndarray] = field(repr=False)
    plans: tuple[PlanReport, ...] = field(repr=False)
    seconds: float

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors, atomically; returns the path."""
        return write_atomically(Path(path), encode(self.params))

    def __str__(self) -> str:
        lines = [f"test accuracy {self.test_accuracy:.2%} after {len(self.history)} epochs"]
        for worker, samples in (self.history[-1].shares if self.history else {}).items():
            lines.append(f"  {worker}: {samples / self.history[-1].samples:.1%} of the samples")
        return "\n".join(lines)


@dataclass
class Tally:
    """Sums of the epoch in progress."""

    loss: float = 0.0
    correct: int = 0
    samples: int = 0
    rounds: int = 0
    overhead: float = 0.0
    begin: float = 0.0
    end: float = 0.0
    shares: dict[str, int] = field(default_factory=dict[str, int])

    def epoch(self, number: int, test_accuracy: float) -> EpochReport:
        """The report of the epoch that ends now."""
        samples = max(self.samples, 1)
        return EpochReport(
            epoch=number,
            loss=self.loss / samples,
            accuracy=self.correct / samples,
            test_accuracy=test_accuracy,
            seconds=self.end - self.begin,
            samples=self.samples,
            shares=dict(sorted(self.shares.items())),
            rounds=self.rounds,
            overhead=self.overhead / max(self.rounds, 1),
        )
