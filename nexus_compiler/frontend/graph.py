"""What every frontend returns: a captured graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tvm import IRModule

from nexus_runtime.manifest import Training
from nexus_runtime.signature import Signature


@dataclass(frozen=True)
class Source:
    """Where a graph came from, for provenance: its kind, its name and a hash of its bytes."""

    kind: str
    name: str
    sha256: str = ""


@dataclass(frozen=True)
class CapturedGraph:
    """A model as Relax.

    Attributes:
        module: one Relax function for each function of `signature`, of the same name. A function
            takes its inputs first and then its parameters, in the signature's order, and returns
            a tuple of its outputs. Only Relax operators: nothing is lowered yet.
        signature: names, dtypes and shapes of all of these.
        params: the weights by name.
        source: where it came from.
        training: set where the functions are those of a trainer.
        locations: file and line of the module that a weight belongs to, by the weight's name; only
            messages use it.
    """

    module: IRModule
    signature: Signature
    params: Mapping[str, np.ndarray]
    source: Source = field(default_factory=lambda: Source("memory", ""))
    training: Training | None = None
    locations: Mapping[str, str] = field(default_factory=dict[str, str])

    def params_digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of the weights."""
        state = hashlib.sha256()
        for name in sorted(self.params):
            array = self.params[name]
            state.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()
