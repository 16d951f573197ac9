"""One builder a key: a lock on a file, which the kernel frees when its holder dies.

`flock` belongs to the open file and not to the process, so that the same lock keeps the threads of
one process apart as well. The file is removed by its holder, before it lets go: whoever waited then
holds a file without a name, sees that, and begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Generator[bool]:
    """Hold the lock called `path`; yields False, without it, where it is taken and `wait` is off.

    Raises:
        OSError: the file cannot be made, or its file system knows no locks.
    """
    descriptor = _take(path, wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        # Closing would not do: a child that was forked meanwhile has the file open as well.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _take(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
