"""What people see while a job runs, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from nexus_runtime.scheduler.report import EpochReport, PlanReport, Tally


class Quiet:
    """Says nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """One line."""

    def planned(self, plan: PlanReport) -> None:
        """The batch is split anew."""

    def advanced(self, epoch: int, rounds: int, of: int, tally: Tally) -> None:
        """Another update was applied."""

    def finished_epoch(self, report: EpochReport) -> None:
        """An epoch was evaluated."""


class Lines(Quiet):
    """A line for each epoch, and for each plan that differs much from the last one told."""

    _told: dict[str, int] | None = None

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def planned(self, plan: PlanReport) -> None:
        """The split, in one line, if workers changed or a tenth of the batch moved."""
        samples, told = plan.placement.samples, self._told
        moved = sum(abs(n - (told or {}).get(name, 0)) for name, n in samples.items()) / 2
        if told is None or told.keys() != samples.keys() or moved > 0.1 * plan.placement.batch:
            self._told = samples
            self.say(describe(plan))

    def finished_epoch(self, report: EpochReport) -> None:
        """The epoch, in one line."""
        self.say(
            f"epoch {report.epoch}: loss {report.loss:.4f}, accuracy {report.accuracy:.2%}, "
            f"test accuracy {report.test_accuracy:.2%}, {report.seconds:.1f} s, "
            f"{report.samples_per_second:,.0f} samples/s"
        )


class Bar(Lines):
    """A progress bar (rich) under the same lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        ]
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task: Any = None
        self._shown = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """One line, above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def advanced(self, epoch: int, rounds: int, of: int, tally: Tally) -> None:
        """Move the bar, ten times a second at most."""
        if rounds < of and time.monotonic() - self._shown < 0.1:
            return
        self._shown = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task("", total=of, loss=0.0)
        self._progress.update(
            self._task,
            description=f"epoch {epoch}",
            completed=rounds,
            total=of,
            loss=tally.loss / max(tally.samples, 1),
        )


def describe(plan: PlanReport) -> str:
    """A plan in one line: who gets how much, how long a round should take, why it changed."""
    split = plan.placement
    shares = ", ".join(f"{share.worker} {share.samples}" for share in split.shares)
    return (
        f"round {plan.round}: {split.batch} samples = {shares}; {split.seconds * 1e3:.1f} ms "
        f"predicted, {split.bound * 1e3:.1f} ms at best ({plan.why})"
    )


def for_stderr(*, verbose: bool) -> Quiet:
    """What suits the present stderr."""
    if not verbose:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()
