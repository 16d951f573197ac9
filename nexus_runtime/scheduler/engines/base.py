"""The door of the engines that start workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nexus_runtime.scheduler.config import DeviceType


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """A worker to be started; `credentials` is the directory that holds them."""

    name: str
    pool: str
    device: DeviceType
    credentials: Path
    threads: int = 1
    memory_limit_samples: int | None = None


OnExit = Callable[[str, str], None]
"""Called with a worker's name and a sentence of why it ended."""


class Engine(Protocol):
    """Starts workers, watches them, ends them."""

    @property
    def credentials(self) -> Path | None:
        """Where the workers' credentials are to be written; None: for this job only."""
        ...

    def start(self, specs: Sequence[WorkerSpec], scheduler: str, on_exit: OnExit) -> str:
        """Start the workers and point them to the scheduler at "host:port".

        Returns:
            What people should know of it.

        Raises:
            DeviceError: this engine has no such device.
        """
        ...

    def close(self) -> None:
        """End every worker that still runs."""
        ...
