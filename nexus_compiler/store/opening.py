"""The store that a user asked for, by options or by the environment."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_compiler.store.local import LocalStore
from nexus_runtime import files
from nexus_runtime.errors import UserError

if TYPE_CHECKING:
    from nexus_compiler.store.remote import LayeredStore
    from nexus_compiler.store.transport import Transport


def open_store(
    url: str | None = None,
    *,
    trust: Sequence[Path] = (),
    sign: Path | None = None,
    root: Path | None = None,
) -> LocalStore | LayeredStore:
    """The store in `root` (by default the user's cache), with the remote at `url` behind it.

    What is not given is taken from the environment: `NEXUS_STORE`, `NEXUS_STORE_TRUST` (files, with
    the system's separator of paths between them) and `NEXUS_STORE_SIGN`.

    Args:
        url: any URL of fsspec, or nexus://HOST:PORT?credentials=DIR for a scheduler's store.
        trust: files with the public keys whose entries may be used.
        sign: the private key that signs what is built here, and is trusted too; without it the
            remote is only read.

    Raises:
        UserError: the URL or a key cannot be used, or no key is given.
    """
    url = url or os.environ.get("NEXUS_STORE") or None
    local = LocalStore(root)
    if url is None:
        if trust or sign:
            raise UserError("keys are given, but no store", hint="add --store URL")
        return local
    # What most builds do not need must not cost them time.
    from nexus_compiler.store import signing
    from nexus_compiler.store.remote import LayeredStore

    listed = os.environ.get("NEXUS_STORE_TRUST", "").split(os.pathsep)
    trusted = list(trust) or [Path(part) for part in listed if part]
    key = sign or (Path(found) if (found := os.environ.get("NEXUS_STORE_SIGN")) else None)
    if not trusted and key is None:
        raise UserError(
            f"nobody is trusted to fill the store {url}",
            hint="name the public keys of those who are: --trust FILE or NEXUS_STORE_TRUST",
        )
    signer = None if key is None else signing.read_signer(key)
    keys = signing.read_trust(trusted, own=[] if signer is None else [signer.public])
    return LayeredStore(local, _transport(url), trust=keys, signer=signer)


def default_store() -> LocalStore | LayeredStore:
    """The store that the environment names; a remote one is opened once a process.

    Raises:
        UserError: as for `open_store`.
    """
    names = ("NEXUS_STORE", "NEXUS_STORE_TRUST", "NEXUS_STORE_SIGN", "NEXUS_STORE_CREDENTIALS")
    said = tuple(os.environ.get(name, "") for name in names)
    return _shared(said, files.cache_root()) if said[0] else LocalStore()


@functools.cache
def _shared(said: tuple[str, ...], root: Path) -> LocalStore | LayeredStore:
    del said  # what `open_store` reads
    return open_store(root=root)


def _transport(url: str) -> Transport:
    if url.startswith("nexus://"):
        from nexus_compiler.store.served import Served

        return Served.at(url)
    from nexus_compiler.store.transport import FileSystem

    return FileSystem(url)
