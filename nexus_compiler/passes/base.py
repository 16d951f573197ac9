"""What a pass is, and how a list of them runs.

A pass is a frozen dataclass; its fields are its options and, by that, factors of every key that it
touches. Verifying, dumping and timing are hooks on the list, so that no pass knows of them.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from tvm import IRModule, relax

from nexus_compiler.ir import law
from nexus_compiler.ir.one_thread import one_thread


@dataclasses.dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole module. The module is valid before and after.

    Class attributes:
        name: how dumps, timings and keys call it.
        leaves: the stage (see `ir/law.py`) that the module has reached afterwards; "": no change.
    """

    name: ClassVar[str]
    leaves: ClassVar[str] = ""

    @abstractmethod
    def apply(self, module: IRModule) -> IRModule:
        """Return the rewritten module; never change the one given."""

    def factor(self) -> str:
        """Name and options, as they enter keys."""
        options = ", ".join(
            f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self)
        )
        return f"{self.name}({options})"


Hook = Callable[[int, Pass, IRModule, float], None]
"""Called after each pass with its position, the pass, the module that it made, and the seconds."""


@one_thread
def run(module: IRModule, passes: Sequence[Pass], hooks: Sequence[Hook] = ()) -> IRModule:
    """Run `passes` in order, calling every hook after each.

    The law is checked where the last of them says that it holds, without types. Only a list that
    breaks it runs again with a thorough check after each pass, to name the one that did: checks
    took a third of a rebuild.

    Raises:
        InternalError: a pass left a module that breaks the law of its stage.
    """
    if hooks:
        return _checked(module, passes, hooks)
    last = max((place for place, step in enumerate(passes) if step.leaves), default=-1)
    made = module
    try:
        for place, step in enumerate(passes):
            made = step.apply(made)
            if place == last:
                law.check(made, step.leaves, after=step.name, thorough=False)
    except Exception:
        _checked(module, passes, ())
        raise
    return made


def _checked(module: IRModule, passes: Sequence[Pass], hooks: Sequence[Hook]) -> IRModule:
    for position, step in enumerate(passes):
        begin = time.perf_counter()
        module = step.apply(module)
        seconds = time.perf_counter() - begin
        if step.leaves:
            law.check(module, step.leaves, after=step.name)
        for hook in hooks:
            hook(position, step, module, seconds)
    return module


def factors(passes: Sequence[Pass]) -> tuple[tuple[str, str], ...]:
    """The pass list as one named factor of a key."""
    return (("passes", " -> ".join(step.factor() for step in passes)),)


def entries(module: IRModule) -> list[str]:
    """The names of the Relax functions, which dead code elimination has to keep."""
    return [v.name_hint for v, f in module.functions.items() if isinstance(f, relax.Function)]
