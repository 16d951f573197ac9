"""Removes what does nothing: unused and repeated bindings, chains of copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import IRModule, relax

from nexus_compiler.passes.base import Pass, entries


@dataclass(frozen=True)
class Simplify(Pass):
    """Canonical bindings, then common subexpressions, then dead code; stands first and anywhere."""

    name: ClassVar[str] = "simplify"
    leaves: ClassVar[str] = "captured"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite every Relax function."""
        return tvm.transform.Sequential(
            [
                relax.transform.CanonicalizeBindings(),
                relax.transform.EliminateCommonSubexpr(),
                relax.transform.DeadCodeElimination(entries(module)),
            ]
        )(module)
