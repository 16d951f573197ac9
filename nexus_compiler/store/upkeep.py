"""What a user does to a store: look at its size, check it, empty it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexus_compiler.store import layout
from nexus_compiler.store.door import BUCKETS
from nexus_compiler.store.local import LocalStore

_OURS = re.compile(r"([a-z][a-z-]*)-v\d+(\.removed-\d+)?")
"""Whatever is kept is in a directory or file of such a name; the root may be anybody's."""
_TRIES = 3


@dataclass(frozen=True)
class Usage:
    """One bucket, or another directory of the cache: its files and their bytes."""

    name: str
    files: int
    bytes: int


def usage(root: Path) -> list[Usage]:
    """What the cache in `root` holds, by name."""
    return [_usage(path) for path in _ours(root) if path.is_dir()]


def outdated(root: Path) -> list[Path]:
    """Buckets of other layouts than this release's, which it will never read."""
    names = (*BUCKETS, "locks", "account")
    present = {layout.bucket_path(root, name) for name in names}
    old = (path for path in _ours(root) if path not in present)
    return [path for path in old if path.name.split("-v")[0] in names]


def clean(root: Path) -> list[Usage]:
    """Remove everything that the cache in `root` holds; returns what that was.

    Raises:
        OSError: something cannot be removed.
    """
    held = usage(root)
    for path in _ours(root):
        remove(path)
    return held


def remove(path: Path) -> None:
    """Remove a directory, though others write to it, or a file.

    Raises:
        OSError: something in it cannot be removed.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # At once out of the way: a build that goes on meanwhile begins with an empty one.
    aside = path.with_name(f"{path.name}.removed-{os.getpid()}")
    path.rename(aside)
    # A writer that was on its way in as the directory was renamed may still leave a file in it.
    for _ in range(_TRIES):
        shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        shutil.rmtree(aside)


def damaged(store: LocalStore, bucket: str) -> Iterator[tuple[str, bool]]:
    """Read every entry of a bucket: its digest, and whether it was damaged (and is now gone)."""
    for found in store.entries(bucket):
        yield found.digest, not store.check(bucket, found.digest)


def _ours(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if _OURS.fullmatch(path.name))


def _usage(path: Path) -> Usage:
    count = size = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                size += (Path(directory) / name).lstat().st_size
                count += 1
    return Usage(path.name, count, size)
