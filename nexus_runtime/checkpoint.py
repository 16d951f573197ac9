"""Checkpoints: named tensors, a step and a note, written so that a crash loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nexus_runtime.errors import ArtifactError
from nexus_runtime.files import write_atomically

FORMAT = "nexus-checkpoint-1"


class Head(msgspec.Struct, frozen=True):
    """What stands beside the tensors; `about` is the writer's."""

    format: str
    step: int
    about: dict[str, Any]


class Checkpoint(msgspec.Struct, frozen=True):
    """What was read."""

    arrays: dict[str, np.ndarray]
    step: int
    about: dict[str, Any]


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], *, step: int, about: Mapping[str, Any]
) -> None:
    """Write in one step (temporary file, fsync, rename): others see the old file or the new one."""
    from safetensors.numpy import save

    # Not ascontiguousarray, which turns scalars into vectors.
    held = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = msgspec.json.encode(Head(FORMAT, step, dict(about))).decode()
    write_atomically(Path(path), save(held, metadata={"nexus": head}))


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ArtifactError: it is missing, damaged, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            head = msgspec.json.decode((file.metadata() or {}).get("nexus", ""), type=Head)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(
            f"{path}: this checkpoint cannot be read: {error}",
            hint="name another file, or remove it to start from the beginning",
        ) from error
    if head.format != FORMAT:
        raise ArtifactError(f"{path}: unknown checkpoint format '{head.format}'")
    return Checkpoint(arrays, head.step, head.about)
