"""Runs the alternatives of one question in turns, and says which one wins.

Every round times each of them once, in an order drawn anew, so that what else the machine does
meets all alike; what counts is the ratio within a round.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nexus_compiler.codegen.door import Trial

MARGIN = 0.97
"""A winner takes at most this share of the time of what analysis says, in the median."""
HOPELESS = 1.15
"""Who takes so much more time after the first rounds is not timed any further."""
ROUNDS, FIRST_ROUNDS = 15, 3
_TURN = 2e-3  # seconds that one timing takes at least, a hundred times the clock's noise
_SUM = 64.0  # units in the last place, for sums in another order and Winograd's transforms


class Contest(Protocol):
    """The alternatives of a question, what analysis says first, ready to be timed."""

    def agree(self) -> Sequence[bool]:
        """Which of them compute what the first one computes."""
        ...

    def seconds(self, number: int) -> float:
        """One timing of one of them."""
        ...


@dataclass
class Timed:
    """A contest of trials that run in this process.

    Args:
        trials: that have drawn their arguments.
        clock: seconds.
    """

    trials: Sequence[Trial]
    clock: Callable[[], float]
    _turns: int = 0
    _turn: int = field(default=0)

    def agree(self) -> Sequence[bool]:
        """As of `Contest`."""
        first, *others = [trial.results() for trial in self.trials]
        return [True, *(all(map(_close, first, found)) for found in others)]

    def seconds(self, number: int) -> float:
        """As of `Contest`; per call."""
        if not self._turns:
            once = max(self._time(0, 1), 1e-7)
            self._turns = max(1, round(_TURN / once))
        return self._time(number, self._turns) / self._turns

    def _time(self, number: int, turns: int) -> float:
        run, first = self.trials[number].run, self._turn
        run(first)  # what another one left in the caches is not its fault
        begin = self.clock()
        for turn in range(first + 1, first + 1 + turns):
            run(turn)
        seconds = self.clock() - begin
        self._turn += turns + 1
        return seconds


def _close(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether `found` differs by rounding alone; the largest element is the measure."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not np.issubdtype(expected.dtype, np.floating):
        return bool((expected == found).all())
    largest = float(np.abs(expected).max(initial=0.0))
    bound = _SUM * float(np.finfo(expected.dtype).eps) * max(largest, 1e-30)
    return bool((np.abs(expected - found) <= bound).all())


def winner(
    contest: Contest, *, out_of_time: Callable[[], bool], seed: int = 0
) -> tuple[int, dict[int, float]] | None:
    """Number of the fastest, and the median ratios of all that were right and timed.

    Another than 0 wins only if it takes at most `MARGIN` of its time in the median and is faster in
    three quarters of the rounds; and that twice: the luckiest of many is not the fastest. None
    where the time was over before that could be said.
    """
    alive = [number for number, right in enumerate(contest.agree()) if right]
    order = random.Random(seed)
    ratios = _timed(contest, alive, order, out_of_time)
    if ratios is None:
        return None
    medians = {number: statistics.median(found) for number, found in ratios.items()}
    able = [number for number in alive if number and _is_faster(ratios[number])]
    if not able:
        return 0, medians
    best = min(able, key=medians.__getitem__)
    again = _timed(contest, [0, best], order, out_of_time)
    if again is None:
        return None
    medians[best] = statistics.median(again[best])
    return (best if _is_faster(again[best]) else 0), medians


def _timed(
    contest: Contest, alive: Sequence[int], order: random.Random, out_of_time: Callable[[], bool]
) -> dict[int, list[float]] | None:
    """The ratios to the time of number 0, round by round; None where the time is over."""
    ratios: dict[int, list[float]] = {number: [] for number in alive}
    for turn in range(ROUNDS):
        if out_of_time():
            return None
        now = list(alive)
        order.shuffle(now)
        seconds = {number: contest.seconds(number) for number in now}
        for number in alive:
            ratios[number].append(seconds[number] / max(seconds[0], 1e-12))
        if turn + 1 == FIRST_ROUNDS:
            alive = [n for n in alive if n == 0 or statistics.median(ratios[n]) <= HOPELESS]
        if list(alive) == [0]:
            break
    return ratios


def _is_faster(ratios: Sequence[float]) -> bool:
    enough = len(ratios) == ROUNDS and statistics.median(ratios) <= MARGIN
    return enough and sorted(ratios)[(3 * len(ratios)) // 4] < 1.0
