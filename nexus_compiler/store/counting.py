"""A store that knows what it was asked for, for reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store.door import OBJECTS, About, Entry, Store


class CountingStore:
    """See `Store` in `door.py`; passes everything on to `store`.

    Attributes:
        built: objects that had to be built.
        reused: objects that were there.
    """

    def __init__(self, store: Store) -> None:
        self.built = self.reused = 0
        self._store, self._lock = store, threading.Lock()

    def get(self, bucket: str, fingerprint: Fingerprint) -> bytes | None:
        """As `Store.get`."""
        return self._store.get(bucket, fingerprint)

    def put(self, bucket: str, fingerprint: Fingerprint, payload: bytes) -> None:
        """As `Store.put`."""
        self._store.put(bucket, fingerprint, payload)

    def get_or_build(
        self, bucket: str, fingerprint: Fingerprint, build: Callable[[], bytes]
    ) -> tuple[bytes, bool]:
        """As `Store.get_or_build`."""
        payload, reused = self._store.get_or_build(bucket, fingerprint, build)
        if bucket == OBJECTS:
            with self._lock:
                self.reused += reused
                self.built += not reused
        return payload, reused

    def about(self, bucket: str, digest: str) -> About | None:
        """As `Store.about`."""
        return self._store.about(bucket, digest)

    def factors(self, bucket: str, digest: str) -> tuple[Factor, ...] | None:
        """As `Store.factors`."""
        return self._store.factors(bucket, digest)

    def entries(self, bucket: str) -> Iterator[Entry]:
        """As `Store.entries`."""
        return self._store.entries(bucket)

    def close(self) -> None:
        """As `Store.close`."""
        self._store.close()
