"""Keys of everything that is built: a SHA-256 over a named list of factors.

The names are what makes a key explainable: two fingerprints can be compared factor by factor
(after `jax/_src/cache_key.py`, which logs each factor for the same reason).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

Factor = tuple[str, str]


@dataclass(frozen=True)
class Fingerprint:
    """Named factors, in the order in which they were declared."""

    factors: tuple[Factor, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the factors in hexadecimal; names and values are length-prefixed."""
        state = hashlib.sha256()
        for name, value in self.factors:
            for part in (name.encode(), value.encode()):
                state.update(len(part).to_bytes(8, "little") + part)
        return state.hexdigest()

    def diff(self, other: Fingerprint) -> list[tuple[str, str | None, str | None]]:
        """The factors that differ: (name, value here, value there); None where one has no such."""
        here, there = dict(self.factors), dict(other.factors)
        names = [*here, *(name for name in there if name not in here)]
        return [
            (name, here.get(name), there.get(name))
            for name in names
            if here.get(name) != there.get(name)
        ]
