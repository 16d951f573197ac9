"""A local store with a remote one behind it, which a team shares.

What is not here is looked for there, and what had to be built is carried there beside the build. A
remote that cannot be reached is one warning and is left alone for a while; one that holds an entry
which nobody trusted has signed, or which was damaged, is as one that has none.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store import entry
from nexus_compiler.store.door import About, Entry
from nexus_compiler.store.local import LocalStore, StoreWarning
from nexus_compiler.store.signing import Refused, Signer, Trust
from nexus_compiler.store.transport import Transport

PAUSE_SECONDS = 60.0
"""A remote that could not be reached is not asked again for so long."""
_CARRIERS = 4
_Answer = TypeVar("_Answer")


@dataclass
class Traffic:
    """What moved: entries and bytes in each direction, and how many entries were refused."""

    fetched: int = 0
    fetched_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    refused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class LayeredStore:
    """See `Store` in `door.py`; `close` waits until everything was carried to the remote.

    Args:
        local: what is asked first.
        transport: where the remote is.
        trust: whose entries may be used.
        signer: signs what is built here; without it nothing is carried to the remote.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        local: LocalStore,
        transport: Transport,
        *,
        trust: Trust,
        signer: Signer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.local, self.transport, self.traffic = local, transport, Traffic()
        self._trust, self._signer, self._clock = trust, signer, clock
        self._away_until = float("-inf")
        self._read_only = False
        self._warned: set[str] = set()
        self._refused: set[tuple[str, str]] = set()
        self._carriers: concurrent.futures.ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def get(self, bucket: str, fingerprint: Fingerprint) -> bytes | None:
        """As `Store.get`."""
        found = self.local.get(bucket, fingerprint)
        if found is not None:
            return found
        fetched = self._fetch(bucket, fingerprint.digest)
        if fetched is None:
            return None
        about, payload = fetched
        self.local.put(bucket, fingerprint, payload, seconds=about.seconds)
        return payload

    def put(self, bucket: str, fingerprint: Fingerprint, payload: bytes) -> None:
        """As `Store.put`."""
        self.local.put(bucket, fingerprint, payload)
        self._carry(bucket, entry.encode(fingerprint, payload, 0.0), fingerprint.digest)

    def get_or_build(
        self, bucket: str, fingerprint: Fingerprint, build: Callable[[], bytes]
    ) -> tuple[bytes, bool]:
        """As `Store.get_or_build`; others on this machine wait for what is being fetched, too."""
        digest, fetched = fingerprint.digest, False

        def make() -> tuple[bytes, float]:
            nonlocal fetched
            sealed = self._ask(lambda: self.transport.claim(bucket, digest, publish=self._writes()))
            if sealed and (found := self._opened(bucket, digest, sealed)) is not None:
                fetched = True
                return found[1], found[0].seconds
            begin = time.perf_counter()
            try:
                payload = build()
            except BaseException:
                self.transport.abandon(bucket, digest)
                raise
            seconds = time.perf_counter() - begin
            self._carry(bucket, entry.encode(fingerprint, payload, seconds), digest)
            return payload, seconds

        payload, reused = self.local.get_or_make(bucket, fingerprint, make)
        return payload, reused or fetched

    def about(self, bucket: str, digest: str) -> About | None:
        """As `Store.about`, of what is here: plans must not wait for a network."""
        return self.local.about(bucket, digest)

    def factors(self, bucket: str, digest: str) -> tuple[Factor, ...] | None:
        """As `Store.factors`, of what is here."""
        return self.local.factors(bucket, digest)

    def entries(self, bucket: str) -> Iterator[Entry]:
        """As `Store.entries`, of what is here."""
        return self.local.entries(bucket)

    def close(self) -> None:
        """Wait until everything was carried to the remote, and let go of it."""
        with self._lock:
            carriers, self._carriers = self._carriers, None
        if carriers is not None:
            carriers.shutdown(wait=True)
        self.transport.close()

    def _fetch(self, bucket: str, digest: str) -> tuple[About, bytes] | None:
        sealed = self._ask(lambda: self.transport.read(bucket, digest))
        return None if sealed is None else self._opened(bucket, digest, sealed)

    def _opened(self, bucket: str, digest: str, sealed: bytes) -> tuple[About, bytes] | None:
        try:
            data = self._trust.open(bucket, digest, sealed)
            found = entry.decode(data, digest)
            if found is None:
                raise Refused("it is damaged, or of another name, though its signature is right")
        except Refused as reason:
            self._refused.add((bucket, digest))
            self.traffic.add(refused=1)
            # Once a reason: one key concerns many entries.
            text = f"an entry of {self.transport.url} is refused: {reason}"
            self._warn(text, text)
            return None
        self.traffic.add(fetched=1, fetched_bytes=len(sealed))
        return found

    def _writes(self) -> bool:
        return self._signer is not None and not self._read_only

    def _carry(self, bucket: str, data: bytes, digest: str) -> None:
        if self._signer is None or not self._writes() or self._is_away():
            self.transport.abandon(bucket, digest)
            return
        sealed = self._signer.seal(bucket, digest, data)
        with self._lock:
            if self._carriers is None:
                self._carriers = concurrent.futures.ThreadPoolExecutor(
                    _CARRIERS, thread_name_prefix="nexus-store"
                )
            self._carriers.submit(self._send, bucket, digest, sealed)

    def _send(self, bucket: str, digest: str, sealed: bytes) -> None:
        def send() -> bool:
            replace = (bucket, digest) in self._refused
            if not replace and self.transport.has(bucket, digest):
                return False
            self.transport.write(bucket, digest, sealed)
            return True

        if self._writes() and self._ask(send):
            self.traffic.add(sent=1, sent_bytes=len(sealed))
        else:
            self.transport.abandon(bucket, digest)

    def _ask(self, question: Callable[[], _Answer]) -> _Answer | None:
        """Ask the remote; None while it is away."""
        if self._is_away():
            return None
        try:
            return question()
        except PermissionError as error:
            self._read_only = True
            self._warn("writing", f"the store {self.transport.url} takes no entries: {error}")
        except Exception as error:  # each file system has errors of its own
            self._away_until = self._clock() + PAUSE_SECONDS
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            url = self.transport.url
            self._warn("away", f"the store {url} cannot be reached ({what}); building without it")
        return None

    def _is_away(self) -> bool:
        return self._clock() < self._away_until

    def _warn(self, what: str, text: str) -> None:
        """Say `text`, the first time that `what` is the matter."""
        with self._lock:
            fresh = what not in self._warned
            self._warned.add(what)
        if fresh:
            warnings.warn(text, StoreWarning, stacklevel=2)
