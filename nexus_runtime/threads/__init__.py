"""Which threads the kernels of a module run on, and who deals the work to them.

Two launchers can do it. Ours (`pool.c`) lets every thread claim the next piece, so that a call
never waits for a worker that the system keeps off its core. TVM's own deals the pieces out
beforehand, and has one size per process; it is used where ours was not built, or where
`NEXUS_LAUNCHER=tvm` asks for it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_runtime.errors import DeviceError
from nexus_runtime.threads import cores, pool

CLAIMING, TVM = "claiming", "tvm"
_CHOICE = "NEXUS_LAUNCHER"
# The variable that TVM itself reads: it is our default too, so that both launchers heed it.
_DEFAULT_COUNT = "TVM_NUM_THREADS"


@dataclass(frozen=True)
class Threads:
    """What one module may use.

    Attributes:
        count: threads of one call, the caller's among them; 1 is the sequential mode.
        cores: where the others may run; empty where the system cannot bind threads.
    """

    count: int
    cores: tuple[int, ...]

    @property
    def label(self) -> str:
        """A name for this setting that can be part of a file's."""
        setting = (chosen()[0], self.count, self.cores)
        return hashlib.sha256(repr(setting).encode()).hexdigest()[:16]


def settle(num_threads: int | None = None, affinity: Sequence[int] | None = None) -> Threads:
    """The threads that a module gets which was asked for like this.

    Args:
        num_threads: threads of one call; by default `TVM_NUM_THREADS` where that is set, else one
            for each of the cores, of which hyperthreads share one.
        affinity: numbers of the cores that the workers keep to; by default those that this thread
            may run on. The caller's thread is never moved.

    Raises:
        DeviceError: `num_threads` is not positive, or a core is not there or not ours.
    """
    allowed = cores.allowed()
    if affinity is not None:
        _check_cores(affinity, allowed)
    chosen_cores = tuple(sorted(set(allowed if affinity is None else affinity)))
    count = _default_count(chosen_cores) if num_threads is None else num_threads
    if not 1 <= count <= pool.MOST_THREADS:
        raise DeviceError(
            f"a module cannot run on {count} threads",
            hint=f"give 1 (sequential) to {pool.MOST_THREADS}, or leave it out",
        )
    return Threads(count, chosen_cores)


def _default_count(chosen_cores: Sequence[int]) -> int:
    given = os.environ.get(_DEFAULT_COUNT, "")
    if given.isdecimal() and int(given):
        return int(given)
    return min(cores.usable(chosen_cores), pool.MOST_THREADS)


def _check_cores(affinity: Sequence[int], allowed: Sequence[int]) -> None:
    if not allowed:
        raise DeviceError("this system cannot bind threads to cores", hint="leave `affinity` out")
    if wrong := sorted(set(affinity) - set(allowed)):
        raise DeviceError(
            f"the cores {wrong} are not there or not for this process",
            hint=f"choose from {list(allowed)}",
        )
    if not affinity:
        raise DeviceError("`affinity` names no core", hint=f"choose from {list(allowed)}")


def chosen() -> tuple[str, str]:
    """Who deals the work here, `claiming` or `tvm`, and why."""
    wish = os.environ.get(_CHOICE, CLAIMING)
    if wish not in (CLAIMING, TVM):
        raise DeviceError(
            f"{_CHOICE} is '{wish}', which is no launcher", hint=f"use {CLAIMING} or {TVM}"
        )
    if wish == TVM:
        return TVM, f"{_CHOICE} asks for it"
    found, reason = pool.find()
    return (CLAIMING if found else TVM), reason


def describe() -> str:
    """What a module gets here that asks for nothing, in one line."""
    name, reason = chosen()
    dealer = "claimed piece by piece" if name == CLAIMING else "dealt out by TVM's own pool"
    return f"{settle().count}, work is {dealer} ({reason})"


def install(path: Path, threads: Threads, ffi: ctypes.CDLL) -> None:
    """Give the loaded module at `path` its launcher, before its first call.

    Args:
        path: the library's, as it was loaded.
        threads: what the module may use.
        ffi: the loaded `libtvm_ffi`.
    """
    name, reason = chosen()
    own, _ = pool.find()
    if own is not None and name == CLAIMING:
        own.carry_errors(ffi)
        if own.install(path, own.launcher(threads.count, threads.cores)):
            return
        reason = "a kernel of the module has barriers, which need a thread for every task"
    _use_tvm(threads, reason)


def _use_tvm(threads: Threads, reason: str) -> None:
    """Set what TVM reads once, at the first parallel kernel that its own pool runs."""
    # Its own choices are half of the cores, and to bind its workers, which puts two of them on one
    # core of a virtual machine.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    size = os.environ.setdefault(_DEFAULT_COUNT, str(threads.count))
    unmet = [f"{size} threads instead of {threads.count}"] if size != str(threads.count) else []
    if threads.cores != cores.allowed():
        unmet.append(f"any core instead of {list(threads.cores)}")
    if unmet:
        warnings.warn(
            f"the module runs on {' and '.join(unmet)}: TVM's own thread pool has one setting for "
            f"the whole process, and is used because of this: {reason}",
            RuntimeWarning,
            stacklevel=6,
        )
