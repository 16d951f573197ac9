"""Forks: places where a rule has several ways to go, and what was measured says which to take.

A rule names its fork and lists the alternatives, best first as far as analysis tells. Where nothing
else is known the first is taken, so that a build without measurements follows from its input alone.
What is known belongs to a question: what is to be computed, by its digest, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from tvm import IRModule

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """Names of alternatives by their forks, sorted; elsewhere the first alternative is taken."""

    taken: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, taken: Mapping[str, str]) -> Choice:
        """A choice of these alternatives by their forks."""
        return cls(tuple(sorted(taken.items())))

    def but(self, fork: str, alternative: str) -> Choice:
        """The same with another alternative at one fork."""
        return Choice.of({**dict(self.taken), fork: alternative})

    @property
    def text(self) -> str:
        """For people; "" where analysis has the last word everywhere."""
        return ", ".join(f"{fork} {alternative}" for fork, alternative in self.taken)


FIRST = Choice()
"""What analysis says."""


@dataclass(frozen=True)
class Guide:
    """Leads one rule through its forks.

    Attributes:
        choice: what is taken.
        met: gets the names of the alternatives of every fork that has several.
    """

    choice: Choice = FIRST
    met: dict[str, tuple[str, ...]] | None = None

    def take(self, fork: str, alternatives: Mapping[str, T]) -> T:
        """The alternative that is chosen at `fork`; the first where it is not among these."""
        if self.met is not None and len(alternatives) > 1:
            self.met[fork] = tuple(alternatives)
        chosen = dict(self.choice.taken).get(fork)
        if chosen is not None and chosen in alternatives:
            return alternatives[chosen]
        return next(iter(alternatives.values()))


@dataclass(frozen=True)
class Question:
    """What can be computed in several ways.

    Attributes:
        digest: of what is computed; nothing of the graph around it counts.
        label: for people.
        seconds: about how long one call takes.
        bytes: about how many it moves.
        forks: the alternatives by fork, the first ones first, on the way of analysis.
        asker: the name of the pass that asks.
        module: what to give to this pass, and those behind it, for nothing but this: a kernel, or
            a function `main` of an input and a weight.
    """

    digest: str
    label: str
    seconds: float
    bytes: float
    forks: Mapping[str, tuple[str, ...]]
    asker: str
    module: IRModule


@dataclass(frozen=True)
class Choices:
    """What is known, as an option of a pass: by the digests of questions, sorted.

    Attributes:
        known: other choices than `FIRST`.
        note: told every question that the pass meets; costs the digests of all kernels.
    """

    known: tuple[tuple[str, Choice], ...] = ()
    note: Callable[[Question], None] | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        """Whether anybody needs the digest of a question."""
        return bool(self.known) or self.note is not None

    def of(self, digest: str) -> Choice:
        """What is known of a question."""
        return dict(self.known).get(digest, FIRST)


ANALYSIS = Choices()
"""Nothing was measured."""


def given(step: Any, choices: Choices) -> Any:
    """A pass with `choices`, if it has forks; else as it is."""
    names = {one.name for one in fields(step)}
    return replace(step, choices=choices) if "choices" in names else step
