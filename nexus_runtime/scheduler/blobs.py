"""Content-addressed bytes: what they are called, how they travel, where they are kept.

Weights and gradients are safetensors; a blob's name is the SHA-256 of its bytes. It travels in
chunks of at most 1 MiB, so that no message comes near gRPC's limits however large the model is (the
most frequent
failure of federated systems: flwr#3006), and it can go on where a broken transfer stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from nexus_runtime import tensors
from nexus_runtime.errors import SchedulerError

CHUNK = 1 << 20
"""Bytes in a message, at most."""


class BlobRef(msgspec.Struct, frozen=True):
    """The name (SHA-256, hexadecimal) and the size in bytes of a blob."""

    digest: str
    size: int


class BlobError(SchedulerError):
    """Bytes arrived that are not what was announced; nothing of them was used."""


def ref(data: bytes) -> BlobRef:
    """What `data` is called."""
    return BlobRef(hashlib.sha256(data).hexdigest(), len(data))


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named tensors as bytes; equal tensors give equal bytes."""
    return tensors.encode(arrays)


def decode(data: bytes, like: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Named tensors from bytes that were verified; with `like`, of the same names and shapes.

    Raises:
        BlobError: a name, a dtype or a shape differs from `like`.
        ArtifactError: these are no tensors.
    """
    arrays = tensors.decode(data, origin="a blob")
    if like is not None:
        for name in sorted(arrays.keys() | like.keys()):
            if name not in arrays or name not in like or _kind(arrays[name]) != _kind(like[name]):
                raise BlobError(f"tensor '{name}' of a blob does not fit the model")
    return arrays


def _kind(array: np.ndarray) -> Any:
    return array.shape, array.dtype


def chunks(data: bytes, offset: int = 0) -> Iterator[bytes]:
    """The bytes from `offset` on, in pieces of at most `CHUNK`; one empty piece for no bytes."""
    view = memoryview(data)
    for start in range(offset, len(data), CHUNK) or (len(data),):
        yield bytes(view[start : start + CHUNK])


class Assembler:
    """Puts a blob together from its chunks, and believes only its hash."""

    def __init__(self, announced: BlobRef, *, limit: int) -> None:
        """Expect `announced`.

        Raises:
            BlobError: it announces more than `limit` bytes.
        """
        if not 0 <= announced.size <= limit:
            raise BlobError(f"a blob of {announced.size} bytes was announced, the limit is {limit}")
        self._announced = announced
        self._hash = hashlib.sha256()
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._data)

    def add(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            BlobError: more bytes than announced.
        """
        if len(self._data) + len(chunk) > self._announced.size:
            raise BlobError(f"a blob is longer than the {self._announced.size} bytes announced")
        self._data += chunk
        self._hash.update(chunk)

    def finish(self) -> bytes:
        """The verified bytes.

        Raises:
            BlobError: bytes are missing, or were changed on the way.
        """
        if len(self._data) != self._announced.size:
            raise BlobError(
                f"a blob ended after {len(self._data)} of {self._announced.size} bytes",
            )
        if self._hash.hexdigest() != self._announced.digest:
            raise BlobError(f"the bytes of blob {self._announced.digest[:12]} were changed")
        return bytes(self._data)
