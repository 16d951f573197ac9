"""Which worker gets how many samples of a batch: pure planners, with prediction and reasons.

`min_max` solves  minimise max_i t_i(b_i)  subject to  sum b_i = B,  0 <= b_i <= limit_i,  b_i
integer. A time T is feasible when the workers can compute B samples within it, that is when sum_i
max{b : t_i(b) <= T} >= B; the least feasible T is found by bisection down to neighbouring floats,
which is exact because every t_i is non-decreasing (the classical argument for bottleneck
allocation, Ibaraki and Katoh, "Resource Allocation Problems", 1988; tests compare with brute
force).
A worker whose first sample would take longer than T gets nothing: leaving a device out is a plan
    too.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import msgspec

from nexus_runtime.errors import SchedulerError
from nexus_runtime.scheduler.profile import CostModel


class Candidate(msgspec.Struct, frozen=True):
    """A worker as the planner sees it: its time model and how many samples it can hold."""

    worker: str
    cost: CostModel
    limit: int | None = None

    def cap(self, batch: int) -> int:
        """The largest share it can take of `batch` samples."""
        return batch if self.limit is None else min(batch, self.limit)


class Share(msgspec.Struct, frozen=True):
    """`samples` of each batch go to `worker`, which needs `seconds` for them (predicted)."""

    worker: str
    samples: int
    seconds: float
    reason: str


class Placement(msgspec.Struct, frozen=True):
    """How a batch is split.

    Attributes:
        shares: one for each worker, in the order in which rows are given out; some may be empty.
        seconds: predicted duration of a round, the longest of the shares.
        bound: no split is faster: batch / sum of the workers' rates.
    """

    batch: int
    shares: tuple[Share, ...]
    seconds: float
    bound: float

    @property
    def samples(self) -> dict[str, int]:
        """Samples by worker."""
        return {share.worker: share.samples for share in self.shares}

    @property
    def gap(self) -> float:
        """How far the prediction is above the bound (0.05 is five per cent)."""
        return self.seconds / self.bound - 1.0 if self.bound > 0 else 0.0


def min_max(candidates: Sequence[Candidate], batch: int) -> Placement:
    """Split `batch` so that the slowest worker is done as early as possible.

    Raises:
        SchedulerError: there is no worker, or the memory limits do not hold the batch.
    """
    _check(candidates, batch)
    caps = [c.cap(batch) for c in candidates]
    low, high = 0.0, max(c.cost.seconds(cap) for c, cap in zip(candidates, caps))
    while low < (middle := (low + high) / 2) < high:
        if _capacity(candidates, caps, middle) >= batch:
            high = middle
        else:
            low = middle
    samples = [c.cost.most(high, cap) for c, cap in zip(candidates, caps)]
    _give_back(candidates, samples, sum(samples) - batch)
    return predict(candidates, samples, batch)


def even(candidates: Sequence[Candidate], batch: int) -> Placement:
    """Split `batch` evenly; where it does not divide, the first workers get one sample more.

    Raises:
        SchedulerError: there is no worker, or an even share passes a memory limit.
    """
    _check(candidates, batch)
    share, more = divmod(batch, len(candidates))
    samples = [share + (index < more) for index in range(len(candidates))]
    for candidate, count in zip(candidates, samples):
        if candidate.limit is not None and count > candidate.limit:
            raise SchedulerError(
                f"an even share of {count} samples does not fit '{candidate.worker}', "
                f"which holds {candidate.limit}",
                hint="lower batch_size, or split unevenly: enable_federated_scheduling()",
            )
    return predict(candidates, samples, batch)


def _check(candidates: Sequence[Candidate], batch: int) -> None:
    if not candidates:
        raise SchedulerError("there is no worker to give work to")
    room = sum(c.cap(batch) for c in candidates)
    if room < batch:
        raise SchedulerError(
            f"the workers' memory limits hold {room} samples, but a batch has {batch}",
            hint="lower batch_size, raise memory_limit_samples, or add nodes",
        )


def _capacity(candidates: Sequence[Candidate], caps: Sequence[int], seconds: float) -> int:
    return sum(c.cost.most(seconds, cap) for c, cap in zip(candidates, caps))


def _give_back(candidates: Sequence[Candidate], samples: list[int], surplus: int) -> None:
    """Take `surplus` samples back, each from the worker that is then the slowest."""
    heap = [(-c.cost.seconds(n), i) for i, (c, n) in enumerate(zip(candidates, samples)) if n]
    heapq.heapify(heap)
    for _ in range(surplus):
        index = heap[0][1]
        samples[index] -= 1
        if samples[index]:
            seconds = candidates[index].cost.seconds(samples[index])
            heapq.heapreplace(heap, (-seconds, index))
        else:
            heapq.heappop(heap)


def predict(candidates: Sequence[Candidate], samples: Sequence[int], batch: int) -> Placement:
    """The placement that gives `samples[i]` to worker i, as the time models see it."""
    seconds = [c.cost.seconds(n) for c, n in zip(candidates, samples)]
    longest = max(seconds)
    shares = tuple(
        Share(c.worker, n, t, _reason(c, n, t, longest))
        for c, n, t in zip(candidates, samples, seconds)
    )
    bound = batch / math.fsum(c.cost.rate for c in candidates)
    return Placement(batch, shares, longest, bound)


def _reason(candidate: Candidate, samples: int, seconds: float, longest: float) -> str:
    cost = candidate.cost
    if not samples:
        first = cost.seconds(1) * 1e3
        return f"left out: one sample would take {first:.1f} ms, the round {longest * 1e3:.1f} ms"
    text = f"{seconds * 1e3:.1f} ms predicted at {cost.rate:,.0f} samples/s"
    if candidate.limit is not None and samples >= candidate.limit:
        text += f", at its memory limit of {candidate.limit}"
    return text
