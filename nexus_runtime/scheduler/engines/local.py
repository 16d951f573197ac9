"""Workers as processes of this machine: the embedded engine, which needs nothing installed.

Processes are spawned, never forked: gRPC and OpenMP keep threads that do not survive a fork.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from nexus_runtime.errors import DeviceError
from nexus_runtime.scheduler.config import DeviceType
from nexus_runtime.scheduler.engines.base import OnExit, WorkerSpec

AGENT = (sys.executable, "-m", "nexus_runtime.cli")
#: Libraries that would otherwise start a thread for each core, in every worker.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
_TAIL = 2000
_GRACE = 3.0


class LocalEngine:
    """Starts `nexus-agent join` once for each worker.

    Args:
        command: what to start instead of `nexus-agent` (tests use it).
    """

    def __init__(self, command: Sequence[str] = AGENT) -> None:
        self._command = tuple(command)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watchers: list[threading.Thread] = []
        self._logs: tempfile.TemporaryDirectory[str] | None = None
        self._closing = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by worker."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def credentials(self) -> Path | None:
        """They are written for the job only."""
        return None

    def start(self, specs: Sequence[WorkerSpec], scheduler: str, on_exit: OnExit) -> str:
        """Start one process for each worker.

        Raises:
            DeviceError: a worker is to have another device than a CPU.
        """
        check_devices({spec.device for spec in specs})
        logs = self._logs = self._logs or tempfile.TemporaryDirectory(prefix="nexus-workers-")
        for spec in specs:
            command = [*self._command, "join", "--scheduler", scheduler, "--pool", spec.pool]
            command += ["--name", spec.name, "--credentials", str(spec.credentials)]
            command += ["--threads", str(spec.threads)]
            if spec.memory_limit_samples:
                command += ["--memory-limit-samples", str(spec.memory_limit_samples)]
            path = Path(logs.name) / f"{spec.name}.log"
            with path.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **dict.fromkeys(_THREADS, str(spec.threads))},
                )
            self._processes[spec.name] = process
            watcher = threading.Thread(
                target=self._watch, args=(spec.name, process, path, on_exit), daemon=True
            )
            watcher.start()
            self._watchers.append(watcher)
        return f"{len(specs)} workers are starting"

    def close(self) -> None:
        """Give the workers a moment to end, then kill them."""
        self._closing = True
        for process in self._processes.values():
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        for watcher in self._watchers:
            watcher.join()
        if self._logs:
            self._logs.cleanup()

    def _watch(
        self, name: str, process: subprocess.Popen[bytes], log: Path, on_exit: OnExit
    ) -> None:
        status = process.wait()
        if self._closing:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        said = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        on_exit(name, f"its process {how}" + (f" and said: {said}" if said else ""))


def check_devices(devices: set[DeviceType]) -> None:
    """Whether this machine's engine can start workers on all these.

    Raises:
        DeviceError: it starts CPU workers only.
    """
    if others := sorted(device.name for device in devices - {DeviceType.CPU}):
        raise DeviceError(
            f"the embedded engine starts workers on CPUs only, not on {', '.join(others)}",
            hint="use DeviceType.CPU, or start `nexus-agent join` on the machine with the device",
        )
