"""An entry as bytes: a SHA-256 of all the rest, what the entry says of itself, the payload.

    32 bytes   SHA-256 of everything that follows
     4 bytes   length of the head, little endian
               the head: JSON with the factors of the fingerprint and the seconds of the build
               the payload

The head makes an entry prove that it belongs to its name: a file that was renamed, or copied from
another store, is found out like one that was damaged.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store.door import About

_HASH = 32
_LENGTH = 4
_LONGEST_HEAD = 1 << 28


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    factors: tuple[Factor, ...]
    seconds: float


def encode(fingerprint: Fingerprint, payload: bytes, seconds: float) -> bytes:
    """The entry of `payload`, which took `seconds` to build."""
    head = msgspec.json.encode(_Head(fingerprint.factors, round(seconds, 6)))
    rest = b"".join((len(head).to_bytes(_LENGTH, "little"), head, payload))
    return hashlib.sha256(rest).digest() + rest


def decode(data: bytes, digest: str) -> tuple[About, bytes] | None:
    """What the entry says of itself and its payload; None where it is damaged or not of `digest`.

    The payload is a copy, so that `data` can be let go.
    """
    view = memoryview(data)
    if len(data) < _HASH + _LENGTH or hashlib.sha256(view[_HASH:]).digest() != data[:_HASH]:
        return None
    start = _HASH + _LENGTH
    stop = start + int.from_bytes(view[_HASH:start], "little")
    about = _about(bytes(view[start:stop]), digest)
    return None if about is None else (about, bytes(view[stop:]))


def read_about(path: Path, digest: str) -> About | None:
    """As `decode`, but only what the entry at `path` says of itself; its payload is not checked.

    The factors are: they give `digest`.
    """
    try:
        with path.open("rb") as file:
            file.seek(_HASH)
            length = int.from_bytes(file.read(_LENGTH), "little")
            head = file.read(length) if length <= _LONGEST_HEAD else b""
    except OSError:
        return None
    return _about(head, digest) if len(head) == length else None


def _about(head: bytes, digest: str) -> About | None:
    try:
        said = msgspec.json.decode(head, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if Fingerprint(said.factors).digest != digest:
        return None
    return About(said.factors, said.seconds)
