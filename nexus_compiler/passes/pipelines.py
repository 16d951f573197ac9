"""The lists of passes, to be read aloud."""

from __future__ import annotations

from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.decompose import DecomposeForInference
from nexus_compiler.passes.layers import Layers
from nexus_compiler.passes.simplify import Simplify
from nexus_compiler.passes.unify_sizes import UnifySizes


def common() -> tuple[Pass, ...]:
    """What every target begins with; the rooms' own lists (`codegen/*/`) follow."""
    return (
        UnifySizes(),
        Simplify(),
        Layers(),
        DecomposeForInference(),
        Simplify(),
    )
