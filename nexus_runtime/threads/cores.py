"""The cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def allowed() -> tuple[int, ...]:
    """Numbers of the cores that this thread may run on; empty where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return ()


def usable(cores: Collection[int], *, cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """How many threads can compute at once on `cores`.

    Hyperthreads of one core count once: they share its vector units. A container whose share of
    time is limited is stopped for the rest of each period when it uses more.

    Args:
        cores: numbers of cores; all of the machine, if empty.
        cpus: where Linux describes each of them.
        quota: where it tells the container's share.
    """
    if not cores:
        return os.cpu_count() or 1
    distinct = {_siblings(cpus / f"cpu{core}", core) for core in cores}
    return max(1, min(len(distinct), _limit(quota) or len(distinct)))


def _siblings(cpu: Path, core: int) -> str:
    try:
        return (cpu / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(core)


def _limit(quota: Path) -> int | None:
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return math.ceil(int(most) / int(period))
    except (OSError, ValueError):  # "max" is no number: there is no limit
        return None
