"""Lists that an artifact holds beside the code of a module: its kernels, its steps, its regions."""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec

from nexus_runtime.errors import ArtifactError


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list as canonical JSON: equal lists have equal bytes.

    Class attributes:
        of: what is listed, for messages.
    """

    of: ClassVar[str]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes, *, origin: str) -> Self:
        """Read what `encode` wrote.

        Raises:
            ArtifactError: it is damaged.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{origin}: the list of {cls.of} is damaged: {error}") from error
