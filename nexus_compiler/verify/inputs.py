"""Inputs for a function: from files, or made up from its signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nexus_runtime.errors import InputError, nearest
from nexus_runtime.signature import FunctionSpec, TensorSpec
from nexus_runtime.tensors import dtype_of

RANDOM = "random"


def make(
    function: FunctionSpec,
    given: Mapping[str, str],
    *,
    sizes: Mapping[str, int],
    seed: int = 0,
    fill: str | None = None,
) -> dict[str, np.ndarray]:
    """Arrays for all inputs of `function`.

    Args:
        function: what is to be called.
        given: by input name, the path of an `.npy` file, `random`, or `random:LOW:HIGH`.
        sizes: sizes of symbolic dimensions for made-up inputs; those not given follow from files,
            and are 1 where nothing says otherwise.
        seed: made-up values follow from it.
        fill: what stands in for an input that is not given; None makes that an error.

    Raises:
        InputError: a name is unknown, an input is missing, a file cannot be read or does not fit.
    """
    names = [spec.name for spec in function.inputs]
    for name in given:
        if name not in names:
            raise InputError(f"there is no input '{name}'", hint=nearest(name, names))
    arrays: dict[str, np.ndarray] = {}
    known = dict(sizes)
    made_up = {spec.name: _source(spec, given, fill) for spec in function.inputs}
    for spec in function.inputs:
        if not made_up[spec.name].startswith(RANDOM):
            arrays[spec.name] = _read(spec, Path(made_up[spec.name]))
            for dim, size in zip(spec.shape, arrays[spec.name].shape):
                if isinstance(dim, str):
                    known.setdefault(dim, size)
    generator = np.random.default_rng(seed)
    for spec in function.inputs:
        if spec.name not in arrays:
            arrays[spec.name] = _random(spec, made_up[spec.name], known, generator)
    function.check(arrays)
    return arrays


def _source(spec: TensorSpec, given: Mapping[str, str], fill: str | None) -> str:
    source = given.get(spec.name, fill)
    if source is None:
        raise InputError(
            f"input '{spec.name}' is missing",
            hint=f"it is {spec}: --input {spec.name}=FILE.npy or --input {spec.name}=random",
        )
    return source


def _read(spec: TensorSpec, path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot read {path} for input '{spec.name}': {reason}", hint="it must be an .npy file"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays; input '{spec.name}' takes one .npy file")
    return array


def _random(
    spec: TensorSpec, source: str, sizes: Mapping[str, int], generator: np.random.Generator
) -> np.ndarray:
    shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape)
    dtype = dtype_of(spec.dtype)
    bounds = source.split(":")[1:]
    if bounds and len(bounds) != 2:
        raise InputError(f"'{source}' for input '{spec.name}': write random or random:LOW:HIGH")
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    try:
        if dtype.kind in "iu":
            # Small numbers by default: they may be indices.
            low, high = (int(bounds[0]), int(bounds[1])) if bounds else (0, 10)
            return generator.integers(low, high, shape).astype(dtype)
        if bounds:
            return generator.uniform(float(bounds[0]), float(bounds[1]), shape).astype(dtype)
    except ValueError as error:
        raise InputError(f"'{source}' for input '{spec.name}': {error}") from error
    return generator.standard_normal(shape).astype(dtype)
