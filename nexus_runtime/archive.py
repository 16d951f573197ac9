"""The zip that artifacts and deltas are: stored, in a fixed order, with fixed dates.

Not compressed, so that members can be mapped, and so that a small file cannot unpack to many
gigabytes; equal members give equal bytes.
"""

from __future__ import annotations

import contextlib
import mmap
import zipfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO

from nexus_runtime.errors import ArtifactError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that zip knows


def info(name: str, size: int) -> zipfile.ZipInfo:
    """How a member of `size` bytes is entered."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    entry.file_size = size  # more than 2 GiB need another header
    return entry


def write(
    file: IO[bytes], members: Iterable[tuple[str, int, Iterable[bytes | memoryview]]]
) -> None:
    """Write an archive of members, each with its size and its bytes in pieces, in their order."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, size, pieces in members:
            with archive.open(info(name, size), "w") as member:
                for piece in pieces:
                    member.write(piece)


def read(file: IO[bytes], origin: str) -> dict[str, bytes]:
    """The members of an archive, in its order; `origin` is what errors call it.

    Raises:
        ArtifactError: it is no zip, is cut short or damaged, or not one that we write.
    """
    with _told(origin), zipfile.ZipFile(file) as archive:
        return {one.filename: archive.read(one) for one in _entries(archive, origin)}


def mapped(path: Path) -> dict[str, memoryview]:
    """As `read`, of a file that is mapped and not read: only what is looked at takes memory.

    Nothing of it is checked.

    Raises:
        ArtifactError: as for `read`, or `path` cannot be read.
    """
    try:
        with path.open("rb") as file, _told(str(path)), zipfile.ZipFile(file) as archive:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return {one.filename: _bytes(view, one) for one in _entries(archive, str(path))}
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error


def _bytes(view: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    # The name and the extra field stand in the member's own header once more.
    head = bytes(view[entry.header_offset : entry.header_offset + 30])
    if len(head) < 30 or head[:4] != b"PK\3\4":
        raise ValueError(f"{entry.filename} does not begin where it should")
    lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    start = entry.header_offset + 30 + lengths
    found = view[start : start + entry.file_size]
    if len(found) < entry.file_size:
        raise ValueError(f"{entry.filename} ends early")
    return found


def _entries(archive: zipfile.ZipFile, origin: str) -> list[zipfile.ZipInfo]:
    entries = archive.infolist()
    if len(entries) != len({one.filename for one in entries}):
        raise ArtifactError(f"{origin} holds two members of one name", hint="compile again")
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        # A small file that unpacks to many gigabytes must not get that far.
        raise ArtifactError(f"{origin} holds compressed members, which no artifact does")
    return entries


@contextlib.contextmanager
def _told(origin: str) -> Generator[None]:
    """Errors of zip files as ours."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        # NotImplementedError, and for what claims to be encrypted RuntimeError.
        raise ArtifactError(
            f"{origin} is no artifact, or was cut short: {error}",
            hint="compile it again, or fetch it again",
        ) from error
