"""Where a remote store keeps its entries: any file system that fsspec knows.

<url>/objects-v2/<2 hex>/<62 hex>   a signed entry (see `signing.py`)
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any, Protocol

from nexus_compiler.store.layout import VERSION
from nexus_runtime import files
from nexus_runtime.errors import UserError

_PACKAGES = {
    "abfs": "adlfs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
}


class Transport(Protocol):
    """Moves signed entries. Any exception but those named means that the remote cannot be used."""

    url: str
    """What messages call it."""

    def claim(self, bucket: str, digest: str, *, publish: bool) -> bytes | None:
        """As `read`; where the entry is absent, the caller is about to build it.

        A remote that knows of others who do so lets all but one wait, who must then `write` the
        entry or `abandon` it. With `publish` the caller can be that one.
        """
        ...

    def abandon(self, bucket: str, digest: str) -> None:
        """The claimed entry will not be written; raises nothing."""
        ...

    def read(self, bucket: str, digest: str) -> bytes | None:
        """The signed entry, or None where it is absent."""
        ...

    def has(self, bucket: str, digest: str) -> bool:
        """Whether there is such an entry."""
        ...

    def write(self, bucket: str, digest: str, sealed: bytes) -> None:
        """Keep a signed entry.

        Raises:
            PermissionError: the remote can only be read.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class FileSystem:
    """A directory of any file system of fsspec, by its URL.

    Raises:
        UserError: fsspec does not know the URL, or lacks the package for it.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            package = _PACKAGES.get(url.partition(":")[0])
            hint = f"pip install {package}" if package else "write file:///…, s3://…, nexus://…"
            raise UserError(f"the store {url} cannot be used: {error}", hint=hint) from error

    def claim(self, bucket: str, digest: str, *, publish: bool) -> bytes | None:
        """As `Transport.claim`; a directory knows of nobody."""
        del publish
        return self.read(bucket, digest)

    def abandon(self, bucket: str, digest: str) -> None:
        """As `Transport.abandon`; nobody waits."""

    def read(self, bucket: str, digest: str) -> bytes | None:
        """As `Transport.read`."""
        try:
            return self._files.cat_file(self._path(bucket, digest))
        except FileNotFoundError:
            return None

    def has(self, bucket: str, digest: str) -> bool:
        """As `Transport.has`."""
        return bool(self._files.exists(self._path(bucket, digest)))

    def write(self, bucket: str, digest: str, sealed: bytes) -> None:
        """As `Transport.write`."""
        path, protocols = self._path(bucket, digest), self._protocols()
        if "http" in protocols:
            raise PermissionError("a web server can only be read")
        if "file" in protocols:  # others may read it at this moment
            files.write_atomically(Path(path), sealed, durable=False)
            return
        try:
            self._files.makedirs(posixpath.dirname(path), exist_ok=True)
            self._files.pipe_file(path, sealed)
        except NotImplementedError as error:
            raise PermissionError("it can only be read") from error

    def close(self) -> None:
        """As `Transport.close`; fsspec keeps its connections itself."""

    def _path(self, bucket: str, digest: str) -> str:
        return posixpath.join(self._root, f"{bucket}-{VERSION}", digest[:2], digest[2:])

    def _protocols(self) -> tuple[str, ...]:
        protocol: Any = self._files.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)
