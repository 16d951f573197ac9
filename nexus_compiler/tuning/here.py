"""Tunes the kernels of a graph on this machine."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nexus_compiler.codegen import package
from nexus_compiler.codegen.choices import Choice, Choices, Question, given
from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.lowering import Lowering
from nexus_compiler.passes import base
from nexus_compiler.passes.regions import Outlined
from nexus_compiler.store.door import Store
from nexus_compiler.targets import TargetSpec
from nexus_compiler.tuning.contest import Contest, Timed
from nexus_compiler.tuning.records import Records
from nexus_compiler.tuning.tuner import Progress, Tuner
from nexus_runtime import host, threads
from nexus_runtime.errors import TargetError

_MOST_COPIES = 16


def records_for(store: Store, target: TargetSpec, room: Room) -> Records:
    """The records for modules of `target` that run on this machine with the default threads.

    Raises:
        TargetError: nothing can be measured here for `target`.
    """
    if not room.region_passes(target):
        raise TargetError(
            f"target '{target.name}' cannot be tuned: its kernels are made by another compiler",
            hint="build it without --tune",
        )
    if lacking := host.unmet(package.needs(target)):
        raise TargetError(
            f"target '{target.name}' cannot be tuned here: that needs {' and '.join(lacking)}",
            hint="build it without --tune, or with it on a machine of that kind",
        )
    count = threads.settle().count
    return Records(store, target, room, machine=host.processor(), threads=count)


@dataclass
class Workshop:
    """Builds questions of one graph and target to be timed here.

    Attributes:
        bytes: that one call of the graph moves: as many go by until a kernel sees its weights
            again, which are in no cache then.
    """

    target: TargetSpec
    room: Room
    bytes: float
    setting: threads.Threads = field(default_factory=threads.settle)

    def open(self, question: Question, choices: Sequence[Choice]) -> Contest:
        """Lower, build and load."""
        steps = self.room.region_passes(self.target)
        names = [step.name for step in steps]
        rest = steps[names.index(question.asker) :]
        modules = [
            base.run(
                question.module,
                [given(step, Choices(((question.digest, choice),))) for step in rest],
            )
            for choice in choices
        ]
        trials = self.room.trials(modules, self.target, self.setting)
        copies = int(self.bytes / max(question.bytes, 1.0))
        for trial in trials:
            trial.draw(0, max(1, min(copies, _MOST_COPIES)))
        # What other processes do is no time of a single thread.
        clock = time.thread_time if self.setting.count == 1 else time.perf_counter
        return Timed(trials, clock)


def tune(
    graph: Outlined,
    lowering: Lowering,
    seconds: float,
    progress: Progress,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Measure what `lowering`, whose answers are `Records`, asks about `graph`.

    Returns how many questions were answered; takes about `seconds`.
    """
    records = lowering.answers
    assert isinstance(records, Records)
    times = collections.Counter(place.region for place in graph.places)
    known: dict[str, list[Question]] = {}
    settled: set[str] = set()

    def ask() -> Mapping[str, tuple[Question, float]]:
        found: dict[str, tuple[Question, float]] = {}
        for name, region in graph.regions.items():
            if name in settled:
                continue
            # What was answered since may have brought up other kernels.
            known[name] = lowering.questions(region)
            open_ = [one for one in known[name] if records.of(one.digest) is None]
            if not open_:
                settled.add(name)
            for question in open_:
                often = found.get(question.digest, (question, 0.0))[1]
                found[question.digest] = (question, often + times[name])
        return found

    ask()
    moved = sum(one.bytes * times[name] for name, found in known.items() for one in found)
    workshop = Workshop(lowering.target, lowering.room, moved)
    tuner = Tuner(records, workshop.open, clock, progress)
    return tuner.tune(ask, seconds, what=f"tune {lowering.target.name}")
