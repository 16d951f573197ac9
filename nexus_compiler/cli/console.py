"""The only place that prints. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_compiler.pipeline import Progress


def emit(value: Any, text: str, *, as_json: bool, flush: bool = False) -> None:
    """The result of a command: `value` as one line of JSON, or `text` for people.

    With `flush` at once, for commands that go on.
    """
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(value, order="deterministic").decode() + "\n")
    else:
        sys.stdout.write(text.rstrip("\n") + "\n")
    if flush:
        sys.stdout.flush()


def say(text: str) -> None:
    """Talk: a line on stderr."""
    sys.stderr.write(text + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they must be, legible without colour and in a pipe."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ("  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip() for row in cells)
    return "\n".join(lines)


@contextmanager
def progress() -> Generator[Progress]:
    """A `Progress` that draws bars on a terminal, and writes a line a stage elsewhere."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _plain() -> Progress:
    begun: dict[str, float] = {}

    def report(what: str, done: int, total: int) -> None:
        begun.setdefault(what, time.perf_counter())
        if done == total:
            say(f"{what}: {total} in {time.perf_counter() - begun[what]:.2f} s")

    return report


def size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def seconds(value: float) -> str:
    """A time for people, with its unit."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{value * factor:.1f} {unit}"
    return f"{value:.2f} s"
