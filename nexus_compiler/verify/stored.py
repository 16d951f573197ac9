"""Builds entries of a store again and compares the bytes: what is reused must be what is built."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from dataclasses import dataclass

from nexus_compiler import targets
from nexus_compiler.codegen.door import room_for
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.store.door import KERNELS, OBJECTS
from nexus_compiler.store.local import LocalStore
from nexus_runtime.errors import TargetError


@dataclass(frozen=True)
class Rebuilt:
    """What became of a sample of objects.

    Attributes:
        equal: digests of those that came out with the same bytes.
        differing: digests of those that did not.
        left_out: how many could not be built again here, by reason.
    """

    equal: tuple[str, ...]
    differing: tuple[str, ...]
    left_out: dict[str, int]


def rebuild(store: LocalStore, count: int, *, seed: int = 0) -> Rebuilt:
    """Build `count` objects of `store` again, chosen by `seed`; all where it holds fewer."""
    digests = sorted(entry.digest for entry in store.entries(OBJECTS))
    random.Random(seed).shuffle(digests)
    equal: list[str] = []
    differing: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for digest in digests:
        if len(equal) + len(differing) == count:
            break
        try:
            (equal if _is_equal(store, digest) else differing).append(digest)
        except TargetError as error:
            left_out[error.message] += 1
    return Rebuilt(tuple(equal), tuple(differing), dict(left_out))


def _is_equal(store: LocalStore, digest: str) -> bool:
    factors = store.factors(OBJECTS, digest) or ()
    said = dict(factors)
    target = targets.from_factors(said)
    room = room_for(target)
    for name, version in room.versions:
        if said.get(name) != version:
            raise TargetError(f"made by {name} {_short(said.get(name))}, here is {_short(version)}")
    content = said.get("content", "")
    kernel = store.get(KERNELS, Fingerprint((("content", content),)))
    if kernel is None:
        raise TargetError("the kernel is not kept")
    payload = store.get(OBJECTS, Fingerprint(factors))
    if payload is None:
        raise TargetError("damaged, or removed meanwhile")
    return room.build(room.revive(content, kernel), target) == payload


def _short(version: str | None) -> str:
    return "of an unknown release" if version is None else version[:20]


def discard(store: LocalStore, digests: Sequence[str]) -> None:
    """Remove objects that must not be used again."""
    for digest in digests:
        store.path(OBJECTS, digest).unlink(missing_ok=True)
