"""The manifest of an artifact: plain data with a version, checked strictly when it is read."""

from __future__ import annotations

from typing import Any

import msgspec

from nexus_runtime.errors import ArtifactError
from nexus_runtime.signature import Signature, TensorSpec

FORMAT = "nexus-artifact"
VERSION = 2
"""1 had no guards in its functions; a reader that knows none must not run a model that has some."""
READABLE = (1, VERSION)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the archive: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class Requires(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine must have before the module may be loaded."""

    machine: str = ""
    cpu_features: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class ObjectEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object that was linked into a module: its key in the store and its size."""

    name: str
    fingerprint: str
    size: int


class ModuleEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The module for one target; `member` is its file, `executor` what runs it."""

    target: str
    executor: str
    member: str
    rank: int
    requires: Requires
    objects: tuple[ObjectEntry, ...]
    factors: dict[str, str]


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region of the graph: the function that it belongs to and its canonical digest."""

    function: str
    sha256: str
    operators: dict[str, int]


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes an artifact trainable.

    It has the functions `predict`, `gradients` and `update` (see `nexus_runtime/trainer.py`);
    `states` are the optimiser's tensors, which start at zero.
    """

    loss: str
    optimizer: str
    options: dict[str, Any]
    features: str
    labels: str
    states: tuple[TensorSpec, ...]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who built the artifact, from what, with which versions and passes."""

    compiler: str
    source_kind: str
    source_name: str
    source_sha256: str
    host: str
    versions: dict[str, str]
    options: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is said of an artifact; `members` has the hash of every other file."""

    format: str
    version: int
    signature: Signature
    modules: tuple[ModuleEntry, ...]
    regions: tuple[Region, ...]
    provenance: Provenance
    members: dict[str, Member]
    training: Training | None = None

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, so that equal manifests are equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


class _Header(msgspec.Struct, frozen=True):
    format: str = ""
    version: int = 0


def decode(data: bytes, *, origin: str) -> Manifest:
    """Read a manifest.

    Raises:
        ArtifactError: it is no JSON, of another format, of a later version, or a field is wrong.
    """
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format != FORMAT:
            raise ArtifactError(
                f"{origin}: the manifest says format '{header.format}', not '{FORMAT}'",
                hint="this is no Nexus artifact",
            )
        if header.version not in READABLE:
            raise ArtifactError(
                f"{origin} has manifest version {header.version}, this release reads "
                f"{' and '.join(map(str, READABLE))}",
                hint="update nexus-compiler" if header.version > VERSION else "compile it again",
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{origin}: the manifest is damaged: {error}") from error


def json_schema() -> dict[str, Any]:
    """The JSON schema of this version (published as `docs/manifest-v2.schema.json`)."""
    return msgspec.json.schema(Manifest)
