"""The entries of a store service in a directory, bounded in size.

<root>/<bucket>/<2 hex>/<62 hex>   a signed entry, as a client put it
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

from nexus_runtime import files
from nexus_runtime.errors import SchedulerError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}/[0-9a-f]{64}")


class Shelf:
    """Bytes by name, "bucket/digest". What was used longest ago goes first where space is short.

    Args:
        root: the directory, which belongs to this process alone.
        limit: bytes that it may hold.
    """

    def __init__(self, root: Path, *, limit: int) -> None:
        self._root, self._limit, self.size = root, limit, 0
        self._sizes: OrderedDict[str, int] = OrderedDict()
        found = [(path.stat(), path) for path in root.glob("*/??/*")]
        for status, path in sorted(found, key=lambda one: one[0].st_mtime):
            name = f"{path.parts[-3]}/{path.parts[-2]}{path.parts[-1]}"
            if _NAME.fullmatch(name):
                self._enter(name, status.st_size)
            else:  # a write that was cut short
                path.unlink()

    @staticmethod
    def is_name(name: str) -> bool:
        """Whether an entry could be called so; names come from the network."""
        return _NAME.fullmatch(name) is not None

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def get(self, name: str) -> bytes | None:
        """The entry, or None where there is none."""
        if name not in self._sizes:
            return None
        self._sizes.move_to_end(name)
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:  # somebody tidied up by hand
            self.size -= self._sizes.pop(name)
            return None

    def put(self, name: str, data: bytes) -> None:
        """Keep an entry.

        Raises:
            SchedulerError: `name` is none, or the entry is larger than all space.
        """
        path = self._path(name)
        if len(data) > self._limit:
            raise SchedulerError(f"an entry of {len(data)} bytes passes the limit {self._limit}")
        files.write_atomically(path, data, durable=False)  # clients check signatures
        self._enter(name, len(data))
        while self.size > self._limit:
            oldest, size = self._sizes.popitem(last=False)
            self.size -= size
            self._path(oldest).unlink(missing_ok=True)

    def _enter(self, name: str, size: int) -> None:
        self.size += size - self._sizes.pop(name, 0)
        self._sizes[name] = size

    def _path(self, name: str) -> Path:
        if not self.is_name(name):  # it must not lead anywhere else
            raise SchedulerError(f"{name!r} is no name of an entry")
        bucket, _, digest = name.partition("/")
        return self._root / bucket / digest[:2] / digest[2:]
