"""When the batch is split anew: members changed, or the prediction was wrong for long enough.

Against restlessness there are two thresholds: a share must leave its predicted time by `drift` for
`drift_rounds` rounds in a row, and the new split must then be faster than the old one by `GAIN`.
"""

from __future__ import annotations

from collections.abc import Iterable

from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.placement import Placement, even, min_max, predict
from nexus_runtime.scheduler.records import Worker

GAIN = 0.05
"""Predicted saving for which samples are moved between workers that are all still there."""


class Plans:
    """The splits in force, one for each size of batch (the last of an epoch may be smaller)."""

    def __init__(self, out: list[do.Instruction]) -> None:
        self._by_batch: dict[int, Placement] = {}
        self._former: dict[int, Placement] = {}  # of the same workers, but predicted wrongly
        self._changes: list[str] = []  # why the next plan differs from the last
        self._out = out

    def change(self, why: str, workers: Iterable[Worker]) -> None:
        """Other workers take part from the next round on."""
        self._changes.append(why)
        self._forget(workers)
        self._former.clear()

    def plan(self, ready: Iterable[Worker], batch: int, job: ev.JobSpec, number: int) -> Placement:
        """The split of `batch` for round `number`; told to people where it is new.

        Raises:
            SchedulerError: the workers cannot hold the batch.
        """
        if (placement := self._by_batch.get(batch)) is None:
            placement = self._by_batch[batch] = self._new(ready, batch, job)
            former = self._former.pop(batch, None)
            if batch == min(job.batch_size, job.samples):  # a rest is not worth a line
                if self._changes and (not former or former.samples != placement.samples):
                    why = ", ".join(self._changes)
                    self._out.append(do.PlanRound(round=number, placement=placement, why=why))
                self._changes.clear()
        return placement

    def watch(self, batch: int, workers: dict[str, Worker], job: ev.JobSpec) -> None:
        """After a round: plan anew where a share left its predicted time for many rounds in a row.

        The time compared is the model's (a mean of the last rounds), so that one slow round, which
        says nothing, does not move samples to and fro.
        """
        placement = self._by_batch.get(batch)
        if placement is None or not job.federated:
            return
        drifted: list[str] = []
        for share in placement.shares:
            if not share.samples:
                continue
            worker = workers[share.worker]
            ratio = worker.cost.seconds(share.samples) / share.seconds
            worker.drifted = worker.drifted + 1 if abs(ratio - 1.0) > job.timing.drift else 0
            if worker.drifted >= job.timing.drift_rounds:
                drifted.append(f"{worker.name} takes {ratio:.2f} of its predicted time")
        if drifted:
            self._changes = drifted
            self._former = dict(self._by_batch)
            self._forget(workers.values())

    def _new(self, ready: Iterable[Worker], batch: int, job: ev.JobSpec) -> Placement:
        candidates = [w.candidate() for w in sorted(ready, key=lambda w: w.name)]
        best = (min_max if job.federated else even)(candidates, batch)
        if former := self._former.get(batch):
            samples = [former.samples[c.worker] for c in candidates]
            same = predict(candidates, samples, batch)
            if same.seconds <= best.seconds * (1 + GAIN):
                return same
        return best

    def _forget(self, workers: Iterable[Worker]) -> None:
        self._by_batch.clear()
        for worker in workers:
            worker.drifted = 0
