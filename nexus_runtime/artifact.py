"""The artifact, `.nxa`: one compiled model, for any number of targets.

A zip archive (stored, not compressed, so that members can be mapped) that holds

    manifest.json              what is said of it; has size and SHA-256 of every other member
    params.safetensors         the weights, once for all targets
    modules/<target><suffix>   one module per target
    modules/<target>.work.json what its kernels compute (see `work.py`); not all rooms tell

Nothing of a member is used before its hash was checked. Writing is atomic and reproducible: fixed
order, fixed dates, no host paths.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from nexus_runtime import archive, files, manifest, tensors
from nexus_runtime.errors import ArtifactError, nearest
from nexus_runtime.manifest import Manifest, Member, ModuleEntry
from nexus_runtime.steps import Steps
from nexus_runtime.work import Work

MANIFEST = "manifest.json"
PARAMS = "params.safetensors"


class Artifact:
    """An artifact in memory; `open` reads one from a file, `save` writes it.

    Attributes:
        manifest: the checked manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        members: Mapping[str, bytes],
        *,
        origin: str,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.manifest = manifest
        self._members = members
        self._origin = origin
        self._weights = weights

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Read and check `path`.

        Raises:
            ArtifactError: it is missing, no zip, truncated, tampered with, or of a later version.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls._read(file, str(path))
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str = "artifact") -> Artifact:
        """As `open`, of bytes; `origin` is what errors call it."""
        return cls._read(io.BytesIO(data), origin)

    @classmethod
    def _read(cls, file: IO[bytes], origin: str) -> Artifact:
        members = archive.read(file, origin)
        if MANIFEST not in members:
            raise ArtifactError(f"{origin} holds no {MANIFEST}", hint="this is no Nexus artifact")
        said = manifest.decode(members.pop(MANIFEST), origin=origin)
        _check_members(said, members, origin)
        return cls(said, members, origin=origin)

    def to_bytes(self) -> bytes:
        """The archive; equal artifacts give equal bytes."""
        buffer = io.BytesIO()
        self._write(buffer)
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the archive to `path` in one step: a reader sees the old file or the new one.

        Raises:
            ArtifactError: the weights are still in the model's own file, which has changed.
        """
        with files.atomically(Path(path)) as file:
            self._write(file)
        return Path(path)

    def _write(self, file: IO[bytes]) -> None:
        said = self.manifest.encode()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as writer:
            with writer.open(archive.info(MANIFEST, len(said)), "w") as member:
                member.write(said)
            for name, entry in sorted(self.manifest.members.items()):
                state = hashlib.sha256()
                with writer.open(archive.info(name, entry.size), "w") as member:
                    for piece in self._pieces(name):
                        state.update(piece)
                        member.write(piece)
                if state.hexdigest() != entry.sha256:
                    raise ArtifactError(
                        f"{name} has changed since it was compiled",
                        hint="the model's file was written to meanwhile: compile it again",
                    )

    def _pieces(self, name: str) -> Iterator[bytes | memoryview]:
        if name == PARAMS and self._weights is not None:
            yield from tensors.pieces(self._weights)
        else:
            yield self._members[name]

    def params(self) -> dict[str, np.ndarray]:
        """The weights by name, each in memory aligned to 64 bytes."""
        if self._weights is not None:
            return {n: tensors.copied(self._weights[n]) for n in sorted(self._weights)}
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

    def work(self, target: str) -> Work | None:
        """What the kernels of the module for `target` compute; None where it was not told.

        Raises:
            ArtifactError: there is no such module, or what is told of it is damaged.
        """
        data = self._members.get(work_member(self.module(target).target))
        return None if data is None else Work.decode(data, origin=self._origin)

    def steps(self, target: str) -> Steps | None:
        """The functions of the module for `target` that are lines; None where it was not told.

        Raises:
            ArtifactError: there is no such module, or what is told of it is damaged.
        """
        data = self._members.get(steps_member(self.module(target).target))
        return None if data is None else Steps.decode(data, origin=self._origin)

    def regions(self, target: str) -> bytes | None:
        """What the compiler tells of the regions of a module, for its plans; None: nothing.

        Raises:
            ArtifactError: there is no such module.
        """
        return self._members.get(regions_member(self.module(target).target))

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and by that of everything."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()


def regions_member(target: str) -> str:
    """The file that tells which regions the module for `target` was made of."""
    return f"modules/{target}.regions.json"


def steps_member(target: str) -> str:
    """The file with the functions of the module for `target` that are lines."""
    return f"modules/{target}.steps.json"


def work_member(target: str) -> str:
    """The file that tells what the kernels of the module for `target` compute."""
    return f"modules/{target}.work.json"


def assemble(
    draft: Manifest,
    members: Mapping[str, bytes],
    weights: Mapping[str, np.ndarray] | None = None,
) -> Artifact:
    """An artifact of `members` and `weights`; fills in the `members` table of the draft.

    Weights that nobody can write to (of a mapped file, for example) are not copied.
    """
    table = {
        name: Member(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in members.items()
    }
    if weights is not None:
        weights = {n: tensors.copied(a) if a.flags.writeable else a for n, a in weights.items()}
        state, size = hashlib.sha256(), 0
        for piece in tensors.pieces(weights):
            state.update(piece)
            size += len(piece)
        table[PARAMS] = Member(size=size, sha256=state.hexdigest())
    said = msgspec.structs.replace(draft, members=dict(sorted(table.items())))
    return Artifact(said, dict(members), origin="artifact", weights=weights)


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
