"""Weights by name: drawing them, checking them, and files of them."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nexus_compiler.frontend.builder import initial
from nexus_compiler.frontend.builder.layers.base import Parameter
from nexus_runtime.errors import ArtifactError, ShapeError
from nexus_runtime.files import write_atomically


def draw(specs: Mapping[str, Parameter], seed: int) -> dict[str, np.ndarray]:
    """Initial values, float32."""
    found: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        # One stream a name: adding a layer does not change the weights of the others.
        stream = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        found[name] = spec.initial.draw(stream, spec.shape, spec.fans).astype(np.float32)
    return found


def drawn(specs: Mapping[str, Parameter], seed: int) -> dict[str, np.ndarray]:
    """As `draw`, read-only; an array that somebody still holds is not drawn again."""
    found: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        # A class of the user's may draw from what does not show.
        known = type(spec.initial).__module__ == initial.__name__
        key = (name, repr(spec), seed)
        array = _DRAWN.get(key) if known else None
        if array is None:
            array = draw({name: spec}, seed)[name]
            array.flags.writeable = False
            if known:
                _DRAWN[key] = array
        found[name] = array
    return found


_DRAWN: weakref.WeakValueDictionary[tuple[str, str, int], np.ndarray] = (
    weakref.WeakValueDictionary()
)


def fitting(
    given: Mapping[str, np.ndarray], specs: Mapping[str, Parameter]
) -> dict[str, np.ndarray]:
    """`given` as float32, in the order of `specs`.

    Raises:
        ShapeError: weights are missing, unexpected or of another shape; all are named.
    """
    missing = [f"weight '{n}' {specs[n].shape} is missing" for n in specs if n not in given]
    unexpected = [
        f"weight '{n}' {np.shape(given[n])} is unexpected" for n in given if n not in specs
    ]
    misshapen = [
        f"weight '{n}' must be {specs[n].shape}, not {np.shape(given[n])}"
        for n in specs
        if n in given and np.shape(given[n]) != specs[n].shape
    ]
    if wrong := [*misshapen, *missing, *unexpected]:
        raise ShapeError("; ".join(wrong), hint="pass the weights of this very network")
    return {name: np.asarray(given[name], np.float32) for name in specs}


def save(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as safetensors, in one step: others see the old file or the new one."""
    from safetensors.numpy import save as encode

    held = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomically(Path(path), encode(held))


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of safetensors.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path}: these weights cannot be read: {error}",
            hint="name a file that save_weights wrote",
        ) from error
