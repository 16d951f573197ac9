"""Paired timing: contenders take turns in one process, in random order, so that drift hits all."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """Seconds a call of one contender, over all rounds."""

    name: str
    calls: int
    median: float
    p99: float
    best: float


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    turn: float = 0.0,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Let every contender have `rounds` turns after three calls to warm up.

    A turn is one call; with `turn`, a call that is not timed and then calls for so many seconds, so
    that quick calls are not measured in the caches and beside the spinning threads of another.
    Medians and p99, not minimums: those hide the stalls of threads that wait for each other.
    """
    for call in contenders.values():
        for _ in range(3):
            call()
    order, generator = list(contenders.items()), random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        generator.shuffle(order)
        for name, call in order:
            samples[name] += _take_turn(call, turn, clock)
    return [_summary(name, times) for name, times in samples.items()]


def _take_turn(call: Callable[[], object], turn: float, clock: Callable[[], float]) -> list[float]:
    if turn:
        call()
    times: list[float] = []
    left = turn
    while not times or left > 0:
        begin = clock()
        call()
        times.append(clock() - begin)
        left -= times[-1]
    return times


def _summary(name: str, times: list[float]) -> Timing:
    ordered = sorted(times)
    return Timing(
        name=name,
        calls=len(ordered),
        median=statistics.median(ordered),
        p99=ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        best=ordered[0],
    )
