"""Workers that people start themselves, on whatever machine: `nexus-agent join`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nexus_runtime.scheduler.engines.base import OnExit, WorkerSpec


class ExternalEngine:
    """Starts nothing: leaves each worker's credentials in a directory and says how to join.

    Args:
        credentials: gets a directory for each worker, to be carried to its machine (keep it
            secret: who has it may join in that worker's name).
    """

    def __init__(self, credentials: str | Path) -> None:
        self._credentials = Path(credentials)

    @property
    def credentials(self) -> Path | None:
        """Where the workers' credentials are written."""
        return self._credentials

    def start(self, specs: Sequence[WorkerSpec], scheduler: str, on_exit: OnExit) -> str:
        """Say what is to be typed on the workers' machines."""
        lines = [f"waiting for {len(specs)} workers; on their machines, run:"]
        for spec in specs:
            words = ["nexus-agent join", f"--scheduler {scheduler}", f"--pool {spec.pool}"]
            words += [f"--credentials {spec.credentials}", f"--threads {spec.threads}"]
            if spec.memory_limit_samples:
                words.append(f"--memory-limit-samples {spec.memory_limit_samples}")
            lines.append("  " + " ".join(words))
        return "\n".join(lines)

    def close(self) -> None:
        """Nothing was started."""
