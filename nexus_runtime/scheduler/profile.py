"""How long a worker takes: the time model t(b) = overhead + scale * (fixed + b * per_sample).

`fixed` and `per_sample` come from the profile, a table (batch, seconds) that a worker measures
before its first round. What the profile cannot know is learned from the rounds themselves, as
exponentially
weighted means: `overhead`, the seconds a lease spends on the way (parameters there, gradients
    back), and `scale`, how much slower or faster computing is in company than it was in the
    profile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

#: Weight of the newest round in the means.
ALPHA = 0.1
#: No measurement is shorter than the clock can tell.
TICK = 1e-7


class Sample(msgspec.Struct, frozen=True):
    """One measurement: `seconds` for the gradients of `batch` samples."""

    batch: int
    seconds: float


class CostModel(msgspec.Struct, frozen=True):
    """Predicted seconds of a lease of b samples: overhead + scale * (fixed + b * per_sample)."""

    fixed: float
    per_sample: float
    scale: float = 1.0
    overhead: float = 0.0
    rounds: int = 0  # observed so far

    @property
    def rate(self) -> float:
        """Samples a second, once the fixed costs are paid."""
        return 1.0 / max(self.scale * self.per_sample, TICK)

    def compute(self, batch: int) -> float:
        """Seconds of computing `batch` samples."""
        return self.scale * (self.fixed + batch * self.per_sample)

    def seconds(self, batch: int) -> float:
        """Seconds from lease to result; 0 for an empty share."""
        return self.overhead + self.compute(batch) if batch else 0.0

    def most(self, seconds: float, limit: int) -> int:
        """The largest share of at most `limit` samples that takes no longer than `seconds`."""
        if limit < 1 or self.seconds(1) > seconds:
            return 0
        slope = self.scale * self.per_sample
        room = seconds - self.overhead - self.scale * self.fixed
        guess = limit if slope * limit <= room else min(limit, max(1, int(room / slope)))
        # `guess` comes from a division, `seconds()` from a product: settle their rounding.
        while guess > 1 and self.seconds(guess) > seconds:
            guess -= 1
        while guess < limit and self.seconds(guess + 1) <= seconds:
            guess += 1
        return guess

    def observe(self, batch: int, *, compute: float, total: float) -> CostModel:
        """The model after a round in which `batch` samples took `compute` of `total` seconds."""
        if batch < 1:
            return self
        compute = max(compute, TICK)
        ratio = compute / max(self.fixed + batch * self.per_sample, TICK)
        way = max(total - compute, 0.0)
        # The first round is cold: the second replaces it; then a mean of all, then of the last.
        alpha = max(ALPHA, 1.0 / max(self.rounds, 1))
        return msgspec.structs.replace(
            self,
            scale=self.scale + alpha * (ratio - self.scale),
            overhead=self.overhead + alpha * (way - self.overhead),
            rounds=self.rounds + 1,
        )


def fit(profile: Sequence[Sample]) -> CostModel:
    """Fit t(b) = fixed + b * per_sample to a profile, both not negative.

    Least squares on relative errors (each point weighted by 1/seconds^2), because the small batches
    are measured no less truly than the large ones; of repeated measurements the fastest counts.

    Raises:
        ValueError: the profile is empty.
    """
    best: dict[int, float] = {}
    for sample in profile:
        seconds = max(sample.seconds, TICK)
        best[sample.batch] = min(best.get(sample.batch, seconds), seconds)
    if not best:
        raise ValueError("a profile needs at least one measurement")
    points = sorted(best.items())
    weights = [1.0 / (seconds * seconds) for _, seconds in points]
    total = sum(weights)
    mean_b = sum(w * b for w, (b, _) in zip(weights, points)) / total
    mean_t = sum(w * t for w, (_, t) in zip(weights, points)) / total
    spread = sum(w * (b - mean_b) ** 2 for w, (b, _) in zip(weights, points))
    joint = sum(w * (b - mean_b) * (t - mean_t) for w, (b, t) in zip(weights, points))
    slope = joint / spread if spread > 0 else mean_t / max(mean_b, 1)
    fixed = mean_t - slope * mean_b
    if fixed < 0 or len(points) == 1:  # the best line through the origin instead
        square = sum(w * b * b for w, (b, _) in zip(weights, points))
        fixed, slope = 0.0, sum(w * b * t for w, (b, t) in zip(weights, points)) / square
    elif slope <= 0:
        fixed, slope = mean_t, TICK
    return CostModel(fixed=fixed, per_sample=slope)


def measure(
    step: Callable[[int], object],
    batches: Sequence[int],
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Sample, ...]:
    """Time `step(batch)` for each batch size: one call to warm up, then `repeats` that count."""
    samples: list[Sample] = []
    for batch in batches:
        step(batch)
        for _ in range(repeats):
            begin = clock()
            step(batch)
            samples.append(Sample(batch, clock() - begin))
    return tuple(samples)


def batches_to_measure(batch_size: int, samples: int) -> tuple[int, ...]:
    """Sizes that span what a worker may be given: 1/16, 1/4 and the whole of a batch."""
    largest = max(1, min(batch_size, samples))
    return tuple(sorted({max(1, largest // 16), max(1, largest // 4), largest}))
