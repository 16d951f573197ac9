"""Writing files so that they survive a crash at any moment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def cache_root() -> Path:
    """What can be made again: `NEXUS_CACHE`, `$XDG_CACHE_HOME/nexus` or `~/.cache/nexus`."""
    if explicit := os.environ.get("NEXUS_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nexus"


def write_atomically(path: Path, data: bytes) -> Path:
    """Write `data` to `path` in one step and return it: others see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    # Not tempfile: its files are for the owner only, and the mode would outlive the rename.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
