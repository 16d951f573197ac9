"""Keeps a store below its limit: what was used longest ago goes first.

Nobody lists a large directory for every entry that is written. The account is a file that begins
with what the last listing found and grows by a byte for every 4 KiB written since, so that its
length tells when the limit is near, whatever number of processes write. The listing then runs in a
thread beside the build, in one process at a time, and makes room for a tenth of the limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nexus_compiler.store import layout, locks
from nexus_compiler.store.door import BUCKETS
from nexus_runtime import files
from nexus_runtime.errors import UserError

DEFAULT_LIMIT = 10 * 10**9
_BLOCK = 4096
_HEAD = 16  # digits of the first number of the account
_ROOM = 0.9  # of the limit may stay
_ABANDONED = 3600.0
"""Seconds after which a temporary file has no writer any more."""

_UNITS = {"": 1} | {
    name + suffix: base**power
    for suffix, base in (("", 1000), ("i", 1024))
    for power, name in enumerate("kmgt", start=1)
}
_threads: dict[Path, threading.Thread] = {}
_mutex = threading.Lock()


@dataclass(frozen=True)
class Pruned:
    """How many entries were removed and how many bytes they had, and how many bytes stay."""

    entries: int
    bytes: int
    left: int


def parse_size(text: str, *, origin: str) -> int:
    """Bytes of "500M", "10GB" (powers of ten) or "2GiB" (powers of two).

    Raises:
        UserError: it is no size; the message names `origin`.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if not found:
        raise UserError(f"{origin} is '{text}', which is no size", hint="write 500MB, 10GB or 2GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def default_limit() -> int:
    """`NEXUS_CACHE_LIMIT` in bytes, or 10 GB.

    Raises:
        UserError: it is no size.
    """
    text = os.environ.get("NEXUS_CACHE_LIMIT")
    return parse_size(text, origin="NEXUS_CACHE_LIMIT") if text else DEFAULT_LIMIT


def account(root: Path, size: int, limit: int) -> None:
    """Enter `size` new bytes; where that passes the limit, begin to prune in a thread.

    Raises:
        OSError: the account cannot be written.
    """
    path = layout.account_path(root)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, b"." * -(-size // _BLOCK))
        head, length = os.pread(descriptor, _HEAD, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    # A file that does not begin with a number is new or damaged: a listing puts it right.
    if not head.isdigit() or (int(head) + length - _HEAD) * _BLOCK > limit:
        _prune_beside(root, limit)


def wait(root: Path) -> None:
    """Wait for the pruning of `root` that this process has begun, if it has."""
    with _mutex:
        thread = _threads.get(root)
    if thread is not None:
        thread.join()


def prune(root: Path, limit: int, *, now: float) -> Pruned | None:
    """Remove what was used longest ago until `limit` bytes are left, and what lost writers left.

    Returns None where another process is at it. `now` is in seconds of the epoch.

    Raises:
        OSError: the store cannot be written.
    """
    with locks.held(layout.locks_path(root) / "prune", wait=False) as mine:
        return _prune(root, limit, now) if mine else None


def _prune(root: Path, limit: int, now: float) -> Pruned:
    _drop_locks(root)
    _drop_accounts(root, now)
    begin = _length(root)
    items = [item for bucket in BUCKETS for item in layout.scan(layout.bucket_path(root, bucket))]
    total, count, freed = sum(item.size for item in items), 0, 0
    for item in sorted(items, key=lambda item: item.used):
        torn = not item.digest and now - item.used > _ABANDONED
        if torn or (item.digest and total - freed > limit):
            with contextlib.suppress(OSError):
                os.unlink(item.path)  # noqa: PTH108 - a Path for each of a million files is slow
                freed += item.size
                count += 1
    left = total - freed
    # What was written meanwhile the listing may have missed: it counts twice rather than never.
    text = f"{-(-left // _BLOCK):0{_HEAD}d}" + "." * max(0, _length(root) - begin)
    files.write_atomically(layout.account_path(root), text.encode(), durable=False)
    return Pruned(count, freed, left)


def _length(root: Path) -> int:
    try:
        return layout.account_path(root).stat().st_size
    except FileNotFoundError:
        return 0


def _drop_accounts(root: Path, now: float) -> None:
    """Remove what a process left that died while it wrote an account."""
    for path in root.glob(f".{layout.account_path(root).name}-*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _drop_locks(root: Path) -> None:
    """Remove the files of locks whose holders died; whoever takes one removes it."""
    for path in layout.locks_path(root).glob("*-*"):
        with contextlib.suppress(OSError), locks.held(path, wait=False):
            pass


def _prune_beside(root: Path, limit: int) -> None:
    def work() -> None:
        with contextlib.suppress(OSError):  # the next writer tries again
            prune(root, int(limit * _ROOM), now=time.time())

    with _mutex:
        running = _threads.get(root)
        if running is None or not running.is_alive():
            _threads[root] = threading.Thread(target=work, name="nexus-prune")
            _threads[root].start()
