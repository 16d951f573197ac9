"""Proofs: what was found when kernels of a region, or a program, were held against a reference.

A proof is kept under everything that the kernels follow from and the shapes that they ran on, so
that a change of any factor asks for another one. It names the objects that ran by their SHA-256:
other bytes, however they came to be, have no proof.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.store.door import PROOFS, Store
from nexus_compiler.verify import compare
from nexus_compiler.verify.compare import Difference


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One check.

    Attributes:
        outputs: how far each output was from the reference.
        reference: what computed that.
        inputs: SHA-256 of all arguments, weights included.
        origin: the modules of the model where the check was made.
        location: file and line of these, where they are known.
        objects: SHA-256 of the objects that ran, by kernel.
    """

    outputs: tuple[Difference, ...]
    reference: str
    inputs: str
    origin: str
    location: str
    objects: dict[str, str]

    @property
    def holds(self) -> bool:
        """Whether every output is within its bound."""
        return all(one.passed for one in self.outputs)


@dataclass(frozen=True)
class Ledger:
    """The proofs in a store."""

    store: Store

    def find(self, key: Fingerprint, objects: Mapping[str, str]) -> Proof | None:
        """The proof under `key`, if it holds and is of these objects."""
        payload = self.store.get(PROOFS, key)
        proof = None if payload is None else _decode(payload)
        valid = proof is not None and proof.holds and proof.objects == objects
        return proof if valid else None

    def keep(self, key: Fingerprint, proof: Proof) -> None:
        """Keep a proof; a check that failed replaces one that passed before."""
        if proof.holds or self.store.get(PROOFS, key) is not None:
            payload = msgspec.json.encode(proof, order="deterministic")
            self.store.put(PROOFS, key, payload)


def _decode(payload: bytes) -> Proof | None:
    try:
        return msgspec.json.decode(payload, type=Proof)
    except msgspec.DecodeError:
        return None


def key_of(factors: Iterable[Factor], shapes: Sequence[Sequence[int]]) -> Fingerprint:
    """The key of the proof of what follows from `factors`, run on arguments of `shapes`."""
    said = ", ".join("x".join(map(str, shape)) for shape in shapes)
    return Fingerprint((*factors, ("shapes", said), ("comparison", _rules())))


@functools.cache
def _rules() -> str:
    """SHA-256 of the source that says how far results may be apart."""
    return hashlib.sha256(Path(compare.__file__).read_bytes()).hexdigest()


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over dtypes, shapes and bytes, in order."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.name}{array.shape};".encode())
        # Dtypes of other packages have no buffers.
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def digests_of(objects: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each object by name."""
    return {name: hashlib.sha256(objects[name]).hexdigest() for name in sorted(objects)}
