"""The artifact, `.nxa`: one compiled model, for any number of targets.

A zip archive (stored, not compressed, so that members can be mapped) that holds

    manifest.json              what is said of it; has size and SHA-256 of every other member
    params.safetensors         the weights, once for all targets
    modules/<target><suffix>   one module per target

Nothing of a member is used before its hash was checked. Writing is atomic and reproducible: fixed
order, fixed dates, no host paths.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from nexus_runtime import files, manifest, tensors
from nexus_runtime.errors import ArtifactError, nearest
from nexus_runtime.manifest import Manifest, Member, ModuleEntry

MANIFEST = "manifest.json"
PARAMS = "params.safetensors"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that zip knows


class Artifact:
    """An artifact in memory; `open` reads one from a file, `save` writes it.

    Attributes:
        manifest: the checked manifest.
    """

    def __init__(self, manifest: Manifest, members: Mapping[str, bytes], *, origin: str) -> None:
        self.manifest = manifest
        self._members = members
        self._origin = origin

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Read and check `path`.

        Raises:
            ArtifactError: it is missing, no zip, truncated, tampered with, or of a later version.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        return cls.from_bytes(data, origin=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str = "artifact") -> Artifact:
        """As `open`, of bytes; `origin` is what errors call it."""
        members = _read_zip(data, origin)
        if MANIFEST not in members:
            raise ArtifactError(f"{origin} holds no {MANIFEST}", hint="this is no Nexus artifact")
        said = manifest.decode(members.pop(MANIFEST), origin=origin)
        _check_members(said, members, origin)
        return cls(said, members, origin=origin)

    def to_bytes(self) -> bytes:
        """The archive; equal artifacts give equal bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            everything = {MANIFEST: self.manifest.encode(), **dict(sorted(self._members.items()))}
            for name, data in everything.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system = 3
                info.external_attr = 0o644 << 16
                archive.writestr(info, data)
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the archive to `path` in one step: a reader sees the old file or the new one."""
        return files.write_atomically(Path(path), self.to_bytes())

    def params(self) -> dict[str, np.ndarray]:
        """The weights by name, each in memory aligned to 64 bytes."""
        return tensors.decode(self._members[PARAMS], origin=self._origin)

    def module(self, target: str) -> ModuleEntry:
        """What is said of the module for `target`.

        Raises:
            ArtifactError: there is none.
        """
        entries = {entry.target: entry for entry in self.manifest.modules}
        if target not in entries:
            raise ArtifactError(
                f"{self._origin} has no module for target '{target}'", hint=nearest(target, entries)
            )
        return entries[target]

    def module_bytes(self, target: str) -> bytes:
        """The module file for `target`; its hash was checked when the artifact was opened."""
        return self._members[self.module(target).member]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and by that of everything."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()


def assemble(draft: Manifest, members: Mapping[str, bytes]) -> Artifact:
    """An artifact of `members`; fills in the `members` table of the draft."""
    table = {
        name: Member(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in sorted(members.items())
    }
    said = msgspec.structs.replace(draft, members=table)
    return Artifact(said, dict(members), origin="artifact")


def _read_zip(data: bytes, origin: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if len(names) != len(set(names)):
                raise ArtifactError(f"{origin} holds two members of one name", hint="compile again")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                # A small file that unpacks to many gigabytes must not get that far.
                raise ArtifactError(f"{origin} holds compressed members, which no artifact does")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise ArtifactError(
            f"{origin} is no artifact, or was cut short: {error}",
            hint="compile it again, or fetch it again",
        ) from error


def _check_members(said: Manifest, members: Mapping[str, bytes], origin: str) -> None:
    needed = {PARAMS, *(entry.member for entry in said.modules)}
    if missing := sorted((needed | set(said.members)) - set(members)):
        raise ArtifactError(f"{origin} lacks its member {missing[0]}", hint="fetch it again")
    if extra := sorted(set(members) - set(said.members)):
        raise ArtifactError(f"{origin} holds {extra[0]}, of which its manifest does not know")
    for name, member in said.members.items():
        found = hashlib.sha256(members[name]).hexdigest()
        if len(members[name]) != member.size or found != member.sha256:
            raise ArtifactError(
                f"{origin}: {name} is not what the manifest says "
                f"(SHA-256 {found[:12]}… instead of {member.sha256[:12]}…)",
                hint="it was changed after it was built: compile it again, or fetch it again",
            )
