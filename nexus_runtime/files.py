"""Writing files so that they survive a crash at any moment."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import IO


def cache_root() -> Path:
    """What can be made again: `NEXUS_CACHE`, `$XDG_CACHE_HOME/nexus` or `~/.cache/nexus`."""
    if explicit := os.environ.get("NEXUS_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nexus"


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> Path:
    """Write `data` to `path` in one step and return it: others see the old file or the new one.

    With `durable` that holds even if the power fails; it takes milliseconds.
    """
    with atomically(path, durable=durable) as file:
        file.write(data)
    return path


@contextlib.contextmanager
def atomically(path: Path, *, durable: bool = True) -> Generator[IO[bytes]]:
    """A file to write and read, which becomes `path` when all went well, and nothing otherwise.

    For `durable` see `write_atomically`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # Somebody removed it between the two looks that this takes; a file there fails again.
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    # Not tempfile: its files are for the owner only, and the mode would outlive the rename.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
