"""The door that every store has, and the names of its buckets.

A bucket holds results of one step of the compiler: regions' kernels, kernels, objects, what was
found when these were checked, and which of several kernels was measured to be the fastest. An entry
is found by the fingerprint of everything that it follows from, and says itself what that was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from nexus_compiler.ir.fingerprint import Factor, Fingerprint

REGIONS = "regions"
KERNELS = "kernels"
OBJECTS = "objects"
PROOFS = "proofs"
TUNING = "tuning"
BUCKETS = (REGIONS, KERNELS, OBJECTS, PROOFS, TUNING)


@dataclass(frozen=True)
class Entry:
    """What a listing says of an entry.

    Attributes:
        digest: SHA-256 of its fingerprint in hexadecimal.
        size: bytes on disk, its own description included.
        used: when it was last read or written, in seconds of the epoch; exact to a minute.
    """

    digest: str
    size: int
    used: float


@dataclass(frozen=True)
class About:
    """What an entry says of itself: what it follows from, and how long it took to build."""

    factors: tuple[Factor, ...]
    seconds: float


class Store(Protocol):
    """Results by bucket and fingerprint. Safe for many processes and threads at once."""

    def get(self, bucket: str, fingerprint: Fingerprint) -> bytes | None:
        """The payload, or None where it is absent or damaged."""
        ...

    def put(self, bucket: str, fingerprint: Fingerprint, payload: bytes) -> None:
        """Keep `payload`."""
        ...

    def get_or_build(
        self, bucket: str, fingerprint: Fingerprint, build: Callable[[], bytes]
    ) -> tuple[bytes, bool]:
        """The payload, and whether it was reused; where it is absent, `build` makes it.

        Whoever asks for the same at that time, in this process or another, waits and takes the
        result. `build` must not ask for its own fingerprint.
        """
        ...

    def about(self, bucket: str, digest: str) -> About | None:
        """What an entry says of itself, or None where there is none; the payload is not read."""
        ...

    def factors(self, bucket: str, digest: str) -> tuple[Factor, ...] | None:
        """The factors of an entry as stored, or None where there is none."""
        ...

    def entries(self, bucket: str) -> Iterator[Entry]:
        """All entries of a bucket, in no order."""
        ...

    def close(self) -> None:
        """Wait until everything that was put is where it belongs."""
        ...
