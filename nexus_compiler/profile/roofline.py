"""The roofline of this machine (Williams, Waterman and Patterson 2009), with a roof for each cache.

Peaks are measured once (`peaks.py`) and kept in the user's cache directory, by processor, number of
threads and release of the compiler that the measuring kernels were built with.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from nexus_runtime import files, host
from nexus_runtime.errors import InternalError
from nexus_runtime.threads import settle

_FLOAT32 = "float32"


class Roofline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine can do at best.

    Attributes:
        machine: the processor's name.
        threads: how many threads this is for.
        gflops: 10^9 multiplications and additions a second, by dtype.
        gbytes: 10^9 bytes a second, by the size in bytes of what is worked on.
    """

    machine: str
    threads: int
    gflops: dict[str, float]
    gbytes: dict[int, float]

    def peak(self, dtype: str) -> float:
        """FLOP/s for `dtype`; float32's where it was not measured."""
        return self.gflops.get(dtype, self.gflops[_FLOAT32]) * 1e9

    def bandwidth(self, size: int) -> float:
        """Bytes/s for a working set of `size` bytes: as for the smallest measured one above it."""
        sizes = sorted(self.gbytes)
        return self.gbytes[next((s for s in sizes if s >= size), sizes[-1])] * 1e9


def load(threads: int, *, again: bool = False) -> Roofline:
    """The roofline for `threads` threads, measured if it is not known; takes ten seconds then.

    Args:
        threads: of one call.
        again: measure in any case; of two measurements the better counts, since other work on the
            machine can only take from a peak.

    Raises:
        InternalError: measuring failed.
    """
    name = host.processor()
    path = _path(name, threads)
    known = _read(path)
    if known is not None and not again:
        return known
    found = _measure(name, threads)
    if known is not None:
        found = Roofline(
            name, threads, _better(known.gflops, found.gflops), _better(known.gbytes, found.gbytes)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, msgspec.json.encode(found))
    return found


_Key = TypeVar("_Key")


def _better(known: dict[_Key, float], found: dict[_Key, float]) -> dict[_Key, float]:
    return {key: max(value, known.get(key, 0.0)) for key, value in found.items()}


def default_threads() -> int:
    """How many threads a module has by default."""
    return settle().count


def _path(name: str, threads: int) -> Path:
    import tvm

    state = hashlib.sha256(f"{name} {threads} {tvm.__version__}".encode())
    return files.cache_root() / "roofline-v1" / f"{state.hexdigest()[:32]}.json"


def _read(path: Path) -> Roofline | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Roofline)
    except (OSError, msgspec.DecodeError):
        return None


def _measure(name: str, threads: int) -> Roofline:
    command = [sys.executable, "-m", "nexus_compiler.profile.peaks", "--threads", str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InternalError(f"measuring the machine failed: {done.stderr.strip()}")
    told = msgspec.json.decode(done.stdout.splitlines()[-1])
    sizes = {int(size): rate for size, rate in told["gbytes"].items()}
    return Roofline(name, threads, told["gflops"], sizes)
