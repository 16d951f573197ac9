"""Where things are in a store's directory.

    <root>/objects-v2/<2 hex>/<62 hex>   an entry (see `entry.py`); buckets of other names alike
    <root>/locks-v2/<bucket>-<digest>    there while an entry is being built
    <root>/account-v2                    how much is held (see `prune.py`)

The version is in the paths, so that a new layout never meets old files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "v2"
_DIGEST = re.compile("[0-9a-f]{64}")


def bucket_path(root: Path, bucket: str) -> Path:
    """The directory of a bucket."""
    return root / f"{bucket}-{VERSION}"


def entry_path(root: Path, bucket: str, digest: str) -> Path:
    """Where an entry is, or would be."""
    return bucket_path(root, bucket) / digest[:2] / digest[2:]


def locks_path(root: Path) -> Path:
    """The directory of the locks."""
    return root / f"locks-{VERSION}"


def account_path(root: Path) -> Path:
    """The file that says how much is held."""
    return root / f"account-{VERSION}"


@dataclass(frozen=True)
class Item:
    """A file of a bucket; `digest` is "" for one that is being written, or was to be."""

    path: str
    digest: str
    size: int
    used: float


def scan(directory: Path) -> Iterator[Item]:
    """All files of a bucket; what vanishes meanwhile is left out."""
    for shard in _listing(directory):
        for file in _listing(shard.path):
            with contextlib.suppress(OSError):
                status = file.stat(follow_symlinks=False)
                name = shard.name + file.name
                digest = name if _DIGEST.fullmatch(name) else ""
                yield Item(file.path, digest, status.st_size, status.st_mtime)


def _listing(directory: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
