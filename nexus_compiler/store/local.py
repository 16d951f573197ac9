"""A content-addressed store in a directory (`layout.py` draws it).

A torn or damaged entry is found by its hash when it is read, and is built again: nothing here waits
for the disk. Writes go to a temporary file in the same directory and are renamed into place, so
that a reader sees all of an entry or nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store import entry, layout, locks, prune
from nexus_compiler.store.door import About, Entry
from nexus_runtime import files

_TOUCH_SECONDS = 60.0
"""A last use is written down at most so often: a warm build must not write for every object."""


class StoreWarning(UserWarning):
    """A store cannot be used as it should; the build goes on without it."""


class LocalStore:
    """See `Store` in `door.py`.

    Args:
        root: the directory; by default the user's cache.
        limit: bytes that it may hold; by default `NEXUS_CACHE_LIMIT`, or 10 GB.
        clock: seconds of the epoch.

    Raises:
        UserError: `NEXUS_CACHE_LIMIT` is no size.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        limit: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root or files.cache_root()
        self.limit = prune.default_limit() if limit is None else limit
        self._clock = clock
        self._warned = False

    def get(self, bucket: str, fingerprint: Fingerprint) -> bytes | None:
        """As `Store.get`."""
        return self._get(bucket, fingerprint.digest)

    def put(
        self, bucket: str, fingerprint: Fingerprint, payload: bytes, *, seconds: float = 0.0
    ) -> None:
        """As `Store.put`, of what took `seconds`; a store that cannot be written is a warning."""
        data = entry.encode(fingerprint, payload, seconds)
        path = self.path(bucket, fingerprint.digest)
        try:
            files.write_atomically(path, data, durable=False)
            prune.account(self.root, len(data), self.limit)
        except OSError as error:
            self._warn(error)

    def get_or_build(
        self, bucket: str, fingerprint: Fingerprint, build: Callable[[], bytes]
    ) -> tuple[bytes, bool]:
        """As `Store.get_or_build`."""

        def make() -> tuple[bytes, float]:
            begin = time.perf_counter()
            payload = build()
            return payload, time.perf_counter() - begin

        return self.get_or_make(bucket, fingerprint, make)

    def get_or_make(
        self, bucket: str, fingerprint: Fingerprint, make: Callable[[], tuple[bytes, float]]
    ) -> tuple[bytes, bool]:
        """As `get_or_build`, where `make` says itself how many seconds the payload takes."""
        digest = fingerprint.digest
        if (found := self._get(bucket, digest)) is not None:
            return found, True
        with self._only_one(bucket, digest):
            if (found := self._get(bucket, digest)) is not None:
                return found, True
            payload, seconds = make()
            self.put(bucket, fingerprint, payload, seconds=seconds)
            return payload, False

    def about(self, bucket: str, digest: str) -> About | None:
        """As `Store.about`."""
        return entry.read_about(self.path(bucket, digest), digest)

    def factors(self, bucket: str, digest: str) -> tuple[Factor, ...] | None:
        """As `Store.factors`."""
        about = self.about(bucket, digest)
        return None if about is None else about.factors

    def entries(self, bucket: str) -> Iterator[Entry]:
        """As `Store.entries`."""
        for item in layout.scan(layout.bucket_path(self.root, bucket)):
            if item.digest:
                yield Entry(item.digest, item.size, item.used)

    def close(self) -> None:
        """As `Store.close`; here everything is in its place at once."""

    def check(self, bucket: str, digest: str) -> bool:
        """Whether an entry is whole, or gone meanwhile; a damaged one is removed.

        Raises:
            OSError: the entry cannot be read or removed.
        """
        path = self.path(bucket, digest)
        if self._read(path, digest) is not None:
            return True
        with self._only_one(bucket, digest):  # nobody heals it meanwhile
            whole = self._read(path, digest) is not None or not path.exists()
            if not whole:
                path.unlink()
        return whole

    def path(self, bucket: str, digest: str) -> Path:
        """Where an entry is, or would be."""
        return layout.entry_path(self.root, bucket, digest)

    def _get(self, bucket: str, digest: str) -> bytes | None:
        path = self.path(bucket, digest)
        try:
            found = self._read(path, digest)
        except OSError as error:
            self._warn(error)
            return None
        if found is None:  # what is damaged is replaced when it was built again
            return None
        payload, used = found
        if (now := self._clock()) - used > _TOUCH_SECONDS:
            with contextlib.suppress(OSError):  # pruned this moment, or another user's file
                os.utime(path, (now, now))
        return payload

    def _read(self, path: Path, digest: str) -> tuple[bytes, float] | None:
        """Payload and last use of an entry; None where it is damaged or absent."""
        try:
            with path.open("rb") as file:
                used = os.fstat(file.fileno()).st_mtime
                decoded = entry.decode(file.read(), digest)
        except FileNotFoundError:
            return None
        return None if decoded is None else (decoded[1], used)

    @contextlib.contextmanager
    def _only_one(self, bucket: str, digest: str) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            try:
                lock = layout.locks_path(self.root) / f"{bucket}-{digest}"
                stack.enter_context(locks.held(lock))
            except OSError as error:  # read-only, or without locks: work may be done twice
                self._warn(error)
            yield

    def _warn(self, error: OSError) -> None:
        # Not found: the bucket was cleaned away between two steps, as it could have been after.
        if not self._warned and not isinstance(error, FileNotFoundError):
            self._warned = True
            what = f"the store in {self.root} cannot be used: {error.strerror}"
            warnings.warn(
                f"{what}; building without it. Set NEXUS_CACHE to a directory that can be written",
                StoreWarning,
                stacklevel=2,
            )
