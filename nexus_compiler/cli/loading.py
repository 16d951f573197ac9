"""What commands do with the artifact and the inputs that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nexus_compiler.cli import options
from nexus_runtime.artifact import Artifact
from nexus_runtime.module import MAIN
from nexus_runtime.signature import FunctionSpec


def open_with_inputs(
    path: Path,
    *,
    given: Sequence[str],
    dims: Sequence[str],
    seed: int,
    function_name: str | None = None,
    fill: str | None = None,
) -> tuple[Artifact, FunctionSpec, dict[str, np.ndarray]]:
    """The artifact, the function to call, and arrays for all of its inputs.

    Args:
        path: of the artifact.
        given: values of `--input`.
        dims: values of `--dim`.
        seed: made-up inputs follow from it.
        function_name: by default `main`, or the first.
        fill: what stands in for an input that is not given; None makes that an error.

    Raises:
        ArtifactError: the artifact cannot be read.
        InputError: there is no such function, or an input is missing or does not fit.
    """
    from nexus_compiler.verify import inputs

    artifact = Artifact.open(path)
    function = _function(artifact, function_name)
    arrays = inputs.make(
        function,
        options.pairs(given, option="--input"),
        sizes=options.sizes(dims),
        seed=seed,
        fill=fill,
    )
    return artifact, function, arrays


def _function(artifact: Artifact, name: str | None) -> FunctionSpec:
    signature = artifact.manifest.signature
    if name is not None:
        return signature.function(name)
    return next((f for f in signature.functions if f.name == MAIN), signature.functions[0])
