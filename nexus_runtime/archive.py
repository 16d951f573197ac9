"""The zip that artifacts and deltas are: stored, in a fixed order, with fixed dates.

Not compressed, so that members can be mapped, and so that a small file cannot unpack to many
gigabytes; equal members give equal bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
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


def to_bytes(members: Mapping[str, bytes]) -> bytes:
    """An archive of `members`, in their order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            with archive.open(info(name, len(data)), "w") as member:
                member.write(data)
    return buffer.getvalue()


def read(file: IO[bytes], origin: str) -> dict[str, bytes]:
    """The members of an archive, in its order; `origin` is what errors call it.

    Raises:
        ArtifactError: it is no zip, is cut short or damaged, or not one that we write.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(names) != len(set(names)):
                raise ArtifactError(f"{origin} holds two members of one name", hint="compile again")
            if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                # A small file that unpacks to many gigabytes must not get that far.
                raise ArtifactError(f"{origin} holds compressed members, which no artifact does")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        # NotImplementedError, and for what claims to be encrypted RuntimeError.
        raise ArtifactError(
            f"{origin} is no artifact, or was cut short: {error}",
            hint="compile it again, or fetch it again",
        ) from error
