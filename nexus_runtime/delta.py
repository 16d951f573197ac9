"""Deltas: what a device must download to turn the artifact that it has into the next one.

A delta, `.nxd`, is a zip that holds

    delta.json    the members of the new artifact, with size and SHA-256, and how each comes about
    0, 1, 2, ...  what cannot be had from the old artifact

Weights that stayed are taken from the old file, tensor by tensor and 64 KiB at a time, wherever
they stood in it. Code that moved differs in addresses all over: it is patched byte by byte with
bsdiff (C. Percival, "Naive differences of executable code", 2003). The result is the new artifact
to the byte; both sides are checked by their hashes, and nothing is written unless all is right.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from nexus_runtime import archive, files
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import ArtifactError

FORMAT = "nexus-delta"
VERSION = 1
HEAD = "delta.json"
_CHUNK = 1 << 16
_LARGEST_PATCHED = 1 << 26
"""Bytes. bsdiff sorts all of a file, in ten times the memory."""


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """`size` bytes of the old artifact's member `source`, from `offset` on.

    With source "" they are the next `size` bytes of the delta's own.
    """

    source: str
    offset: int
    size: int


class MemberDelta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member of the new artifact.

    Attributes:
        data: the delta's own member for it, or "".
        patch: the old member that `data` is a bsdiff of, or "".
        patch_sha256: SHA-256 of that bsdiff.
        pieces: what it is put together from, where it is no patch.
    """

    name: str
    size: int
    sha256: str
    data: str = ""
    patch: str = ""
    patch_sha256: str = ""
    pieces: tuple[Piece, ...] = ()


class Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a delta: `old` has the hashes of the members that are needed."""

    format: str
    version: int
    old: dict[str, str]
    sha256: str
    size: int
    members: tuple[MemberDelta, ...]


def make(old: Path, new: Path) -> bytes:
    """The delta from the artifact `old` to `new`.

    Raises:
        ArtifactError: one of them cannot be read, or `new` was written by another release.
    """
    for path in (old, new):
        Artifact.open(path)
    before, after = archive.mapped(old), archive.mapped(new)
    with tempfile.TemporaryFile() as again:
        archive.write(again, ((name, len(data), [data]) for name, data in after.items()))
        size, sha256 = again.tell(), _file_sha(again)
    if sha256 != _path_sha(new):
        raise ArtifactError(
            f"{new} is laid out as this release does not do it", hint="compile it again"
        )
    maker = _Maker(before)
    members = tuple(maker.member(name, data) for name, data in after.items())
    used = {p.source for m in members for p in m.pieces} | {m.patch for m in members}
    head = Delta(
        format=FORMAT,
        version=VERSION,
        old={name: _sha(before[name]) for name in sorted(used - {""})},
        sha256=sha256,
        size=size,
        members=members,
    )
    own = {HEAD: msgspec.json.encode(head), **maker.data}
    buffer = io.BytesIO()
    archive.write(buffer, ((name, len(data), [data]) for name, data in own.items()))
    return buffer.getvalue()


def apply(old: Path, delta: Path, output: Path) -> Path:
    """Write to `output` the artifact that `delta` makes of `old`.

    Raises:
        ArtifactError: one of them cannot be read or is damaged, or the delta is from another `old`.
    """
    own, before = archive.mapped(delta), archive.mapped(old)
    head = _head(own, str(delta))
    for name, sha in head.old.items():
        if _sha(before.get(name, b"")) != sha:
            raise ArtifactError(
                f"{delta} is no delta of {old}: {name} is another",
                hint="fetch the delta from the version that is installed, or the whole artifact",
            )
    origin = str(delta)
    with files.atomically(output) as file:
        archive.write(
            file, ((m.name, m.size, _built(m, before, own, origin)) for m in head.members)
        )
        if file.tell() != head.size or _file_sha(file) != head.sha256:
            raise ArtifactError(f"{delta} does not give the artifact that it promises")
    return output


def _head(own: Mapping[str, memoryview], origin: str) -> Delta:
    try:
        data = bytes(own.get(HEAD, b"{}"))
        said = json.loads(data)
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise ArtifactError(f"{origin} is no delta", hint="`nexusc delta OLD NEW` makes one")
        if said.get("version") != VERSION:
            raise ArtifactError(
                f"{origin} is of version {said.get('version')}, this release reads {VERSION}",
                hint="update this release, or make the delta again",
            )
        return msgspec.json.decode(data, type=Delta)
    except (ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{origin}: its head is damaged: {error}") from error


def _built(
    member: MemberDelta,
    before: Mapping[str, memoryview],
    own: Mapping[str, memoryview],
    origin: str,
) -> Iterator[bytes | memoryview]:
    """The bytes of a member in pieces; raises at the end if they are not what was promised."""
    state, size = hashlib.sha256(), 0
    try:
        for piece in (
            _patched(member, before, own) if member.patch else _pieces(member, before, own)
        ):
            state.update(piece)
            size += len(piece)
            if size > member.size:
                break
            yield piece
    except (KeyError, ValueError, OSError) as error:  # OSError is bz2's
        raise ArtifactError(f"{origin}: {member.name} cannot be made: {error}") from error
    if size != member.size or state.hexdigest() != member.sha256:
        raise ArtifactError(
            f"{origin}: {member.name} comes out other than promised", hint="fetch the delta again"
        )


def _pieces(
    member: MemberDelta, before: Mapping[str, memoryview], own: Mapping[str, memoryview]
) -> Iterator[memoryview]:
    place = 0
    for piece in member.pieces:
        if piece.source:
            yield before[piece.source][piece.offset : piece.offset + piece.size]
        else:
            yield own[member.data][place : place + piece.size]
            place += piece.size


def _patched(
    member: MemberDelta, before: Mapping[str, memoryview], own: Mapping[str, memoryview]
) -> Iterator[bytes]:
    patch = bytes(own[member.data])
    # The patch says itself how much memory it takes: not more than was announced.
    fits = patch[:8] == b"BSDIFF40" and int.from_bytes(patch[24:32], "little") == member.size
    if not fits or _sha(patch) != member.patch_sha256:
        raise ValueError("the patch is damaged")
    yield _bsdiff().patch(bytes(before[member.patch]), patch)


def _bsdiff() -> Any:
    try:
        import bsdiff4
    except ImportError as error:
        raise ArtifactError(
            "deltas need the package bsdiff4", hint="pip install bsdiff4"
        ) from error
    return bsdiff4


class _Maker:
    """Turns members of a new artifact into what is not in the old one."""

    def __init__(self, before: Mapping[str, memoryview]) -> None:
        self.data: dict[str, bytes] = {}
        self._before = before
        self._known: dict[bytes, Piece] = {}
        for name, data in before.items():
            for offset, chunk in _chunks(data, _is_tensors(name)):
                self._known.setdefault(
                    hashlib.sha256(chunk).digest(), Piece(name, offset, len(chunk))
                )

    def member(self, name: str, data: memoryview) -> MemberDelta:
        old = self._before.get(name)
        small = old is not None and max(len(old), len(data)) <= _LARGEST_PATCHED
        if old is not None and old != data and small and not _is_tensors(name):
            patch = _bsdiff().diff(bytes(old), bytes(data))
            added = self._add(patch)
            return MemberDelta(name, len(data), _sha(data), added, name, _sha(patch))
        pieces, own = self._split(name, data)
        return MemberDelta(
            name, len(data), _sha(data), self._add(own) if own else "", pieces=tuple(pieces)
        )

    def _split(self, name: str, data: memoryview) -> tuple[list[Piece], bytes]:
        if self._before.get(name) == data:
            return [Piece(name, 0, len(data))], b""
        pieces: list[Piece] = []
        own: list[memoryview] = []
        for _, chunk in _chunks(data, _is_tensors(name)):
            piece = self._known.get(hashlib.sha256(chunk).digest())
            if piece is None:
                own.append(chunk)
                piece = Piece("", 0, len(chunk))
            if pieces and _follows(pieces[-1], piece):
                piece = Piece(piece.source, pieces[-1].offset, pieces.pop().size + piece.size)
            pieces.append(piece)
        return pieces, b"".join(own)

    def _add(self, data: bytes) -> str:
        name = str(len(self.data))
        self.data[name] = data
        return name


def _follows(last: Piece, piece: Piece) -> bool:
    if last.source != piece.source:
        return False
    return not piece.source or last.offset + last.size == piece.offset


def _chunks(view: memoryview, tensors: bool) -> Iterator[tuple[int, memoryview]]:
    """Pieces of at most 64 KiB, which begin anew at every tensor, and where they stand."""
    borders = sorted({0, len(view), *(_borders(view) if tensors else ())})
    for begin, end in itertools.pairwise(borders):
        for offset in range(begin, end, _CHUNK):
            yield offset, view[offset : min(offset + _CHUNK, end)]


def _borders(data: memoryview) -> Iterator[int]:
    """Where the tensors of a safetensors file begin and end."""
    start = 8 + int.from_bytes(data[:8], "little")
    yield start
    for name, tensor in json.loads(bytes(data[8:start])).items():
        if name != "__metadata__":
            yield from (start + offset for offset in tensor["data_offsets"])


def _is_tensors(name: str) -> bool:
    return name.endswith(".safetensors")


def _sha(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _path_sha(path: Path) -> str:
    with path.open("rb") as file:
        return _file_sha(file)


def _file_sha(file: IO[bytes]) -> str:
    file.seek(0)
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()
