"""What commands do with the artifact that they are given."""

from __future__ import annotations

from nexus_runtime.artifact import Artifact
from nexus_runtime.module import MAIN
from nexus_runtime.signature import FunctionSpec


def main_function(artifact: Artifact, name: str | None) -> FunctionSpec:
    """The function called `name`; without one, `main` or the first.

    Raises:
        InputError: there is no such function.
    """
    signature = artifact.manifest.signature
    if name is not None:
        return signature.function(name)
    return next((f for f in signature.functions if f.name == MAIN), signature.functions[0])
