"""Spends a budget of time on the questions of a build, the costliest ones first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nexus_compiler.codegen.choices import FIRST, Choice, Question
from nexus_compiler.tuning.contest import Contest, winner
from nexus_compiler.tuning.records import Record, Records, TuningWarning
from nexus_runtime.errors import TargetError

Open = Callable[[Question, Sequence[Choice]], Contest]
"""Builds a question by several choices."""
Ask = Callable[[], Mapping[str, tuple[Question, float]]]
"""The questions that have no answer yet, by digest, with how often a call of the model asks."""
Progress = Callable[[str, int, int], None]


@dataclass
class Tuner:
    """Asks, measures and keeps records until there is no question, or no time, left.

    Attributes:
        records: are read and written.
        open: builds.
        clock: seconds.
        progress: told how much of the budget is used, in seconds.
    """

    records: Records
    open: Open
    clock: Callable[[], float]
    progress: Progress = lambda what, done, total: None
    _refused: set[str] = field(default_factory=set[str])

    def tune(self, ask: Ask, seconds: float, *, what: str = "tune") -> int:
        """How many questions were answered; an interrupt ends it and keeps what was found.

        Answers about calls bring up new questions, about their kernels, so that it asks again.
        """
        begin, answered = self.clock(), 0

        def used() -> float:
            return self.clock() - begin

        try:
            while used() < seconds and (questions := self._open(ask)):
                for question in questions:
                    self.progress(what, min(int(used()), int(seconds)), int(seconds))
                    answered += self._settle(question, lambda: used() >= seconds)
        except KeyboardInterrupt:
            pass
        self.progress(what, int(seconds), int(seconds))
        return answered

    def _open(self, ask: Ask) -> list[Question]:
        """Those without an answer, by their share of the time of a call."""
        found = {digest: one for digest, one in ask().items() if digest not in self._refused}
        shares = {digest: one.seconds * times for digest, (one, times) in found.items()}
        order = sorted(found, key=lambda digest: (-shares[digest], digest))
        return [found[digest][0] for digest in order]

    def _settle(self, question: Question, out_of_time: Callable[[], bool]) -> bool:
        """Whether there is a record of `question` now."""
        try:
            record = self._answer(question, out_of_time)
        except TargetError as error:
            self._refused.add(question.digest)
            text = f"{question.label} stays as it is: {error.message}"
            warnings.warn(text, TuningWarning, stacklevel=2)
            return False
        if record is not None:
            self.records.keep(question.digest, record)
        return record is not None

    def _answer(self, question: Question, out_of_time: Callable[[], bool]) -> Record | None:
        """Fork by fork the fastest alternative; None where the time was over."""
        best, times = FIRST, dict[str, float]()
        scale = 1.0
        for fork, (_, *others) in question.forks.items():
            if out_of_time():
                return None
            choices = [best, *(best.but(fork, other) for other in others)]
            contest = self.open(question, choices)
            found = winner(contest, out_of_time=out_of_time)
            if found is None:
                return None
            place, ratios = found
            times |= {choices[n].text: round(r * scale, 3) for n, r in ratios.items() if n}
            best, scale = choices[place], scale * ratios[place]
        return Record(question.label, dict(best.taken), times)
