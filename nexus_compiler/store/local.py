"""A content-addressed store in a directory.

Layout: `<root>/objects-v1/<2 hex>/<62 hex>`; the bucket's version is in its path, so that a new
layout never meets old files. An entry is a 32-byte SHA-256 of its payload and then the payload:
a torn or damaged entry is found when it is read, and is built again. Writes go to a temporary file
in the same directory and are renamed into place, so that a reader sees all of an entry or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from nexus_runtime import files

BUCKET = "objects-v1"
_DIGEST_BYTES = 32


class LocalStore:
    """Objects by key (a SHA-256 in hexadecimal). Safe for many processes and threads at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or files.cache_root()

    def get(self, key: str) -> bytes | None:
        """The object of `key`, or None where it is absent or damaged (a damaged one is removed)."""
        path = self._path(key)
        try:
            entry = path.read_bytes()
        except FileNotFoundError:
            return None
        payload = entry[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == entry[:_DIGEST_BYTES]:
            return payload
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, payload: bytes) -> None:
        """Keep `payload` under `key`; the last writer of equal content wins, unseen by readers."""
        files.write_atomically(self._path(key), hashlib.sha256(payload).digest() + payload)

    def get_or_build(self, key: str, build: Callable[[], bytes]) -> tuple[bytes, bool]:
        """The object of `key` and whether it was reused; `build` makes it where it is absent."""
        if (found := self.get(key)) is not None:
            return found, True
        payload = build()
        self.put(key, payload)
        return payload, False

    def _path(self, key: str) -> Path:
        return self.root / BUCKET / key[:2] / key[2:]
