"""What a jitted function did: traces, regions, compiles and their reasons, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Compile:
    """One region that had to be compiled.

    Attributes:
        reason: "first call", "new shape", "new dtype", "new static argument", "new scalar" or
            "new branch".
        cut: what ended the region.
        digest: of its canonical form.
        operators: how often each operation occurs.
        inputs: as "float32[n0, 3]".
        outputs: likewise.
        symbolic: whether a size was left open.
        seconds: that it took.
        new: what the compiler cut it into (see docs/incremental.md) and had not met: the operators
            of each piece.
        known: how many other pieces it had met.
    """

    reason: str
    cut: str
    digest: str
    operators: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbolic: bool
    seconds: float
    new: tuple[str, ...] = ()
    known: int = 0

    def __str__(self) -> str:
        listed = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        arrow = f"({', '.join(self.inputs)}) -> ({', '.join(self.outputs)})"
        return (
            f"{self.digest[:16]}  {self.reason}, cut by {self.cut}, {self.seconds:.2f} s\n"
            f"    {listed}\n    {arrow}\n    pieces: {len(self.new)} new, {self.known} known"
            + "".join(f"\n    new piece: {operators}" for operators in self.new)
        )


@dataclass
class Report:
    """All that happened to one function so far.

    Attributes:
        calls: of the function.
        traces: runs of its Python code.
        replays: calls that went to the compiled region without running Python.
        regions: runs of regions while tracing.
        hits: those of them that were compiled before.
        compiles: the others.
        unreplayed: why the last trace cannot be replayed; "" where it can.
    """

    name: str
    calls: int = 0
    traces: int = 0
    replays: int = 0
    regions: int = 0
    hits: int = 0
    compiles: list[Compile] = field(default_factory=list)
    unreplayed: str = ""

    def __str__(self) -> str:
        head = (
            f"{self.name}: {self.calls} calls, {self.traces} traces, {self.replays} replays; "
            f"{self.regions} regions run in traces, {self.hits} hits, {len(self.compiles)} compiles"
        )
        why = [f"runs Python in every call: {self.unreplayed}"] if self.unreplayed else []
        return "\n".join([head, *why, *map(str, self.compiles)])
