"""The pass before an export: drop what has no effect, so that it changes no key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass


@dataclass(frozen=True)
class Tidy(Pass):
    """Remove renamings and dead bindings. Operators stay: XLA does its own optimisation."""

    name: ClassVar[str] = "tidy-for-xla"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Return `module` without trivial and dead bindings."""
        steps = [
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
        ]
        return tvm.transform.Sequential(steps)(module)
