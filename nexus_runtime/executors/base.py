"""What every executor offers, and the table that finds one by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nexus_runtime.errors import ArtifactError, nearest
from nexus_runtime.signature import Signature
from nexus_runtime.steps import Steps

Shapes = tuple[tuple[int, ...], ...]
Quick = Callable[..., "Sequence[np.ndarray] | None"]
"""Takes inputs in order, checks them itself, and gives None where they are not those that it was
made for."""


@dataclass(frozen=True)
class CallTime:
    """One call of a kernel: its name, how long it took, the shapes (or numbers) that it took."""

    name: str
    seconds: float
    arguments: tuple[tuple[int, ...] | int, ...]


class Executor(Protocol):
    """One opened module. Safe to call from many threads."""

    def run(self, function: str, arguments: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Run `function` on inputs and then parameters, in the signature's order.

        Every argument has the dtype and the shape that the signature allows; where it lies in
        memory, and how, is the executor's care.
        """
        ...

    def keep(self, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Keep the parameters of each function for `run_kept`; called once, before any call.

        What follows from them alone may be computed once: nobody writes to these arrays.
        """
        ...

    def run_kept(self, function: str, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """As `run`, with the parameters that were kept."""
        ...

    def quick(self, function: str, shapes: Shapes) -> Quick | None:
        """A shorter way than `run_kept` for NumPy arrays of `shapes`, where there is one."""
        ...

    def bind(
        self, function: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> Callable[[], object] | None:
        """What computes `outputs` from `inputs` where they lie; None where that cannot be.

        All have the dtypes and shapes of the signature, and those of the outputs can be written to.
        """
        ...

    def trace(
        self, function: str, inputs: Sequence[np.ndarray], *, rounds: int
    ) -> list[list[CallTime]]:
        """Run `function` with the kept parameters `rounds` times: the calls of kernels, in order.

        Raises:
            DeviceError: this executor's kernels cannot be told apart.
        """
        ...


_EXECUTORS = {
    "tvm-vm": "nexus_runtime.executors.tvm_vm",
    "jax-export": "nexus_runtime.executors.jax_export",
}


def open_module(
    executor: str,
    data: bytes,
    signature: Signature,
    *,
    num_threads: int | None,
    affinity: Sequence[int] | None = None,
    steps: Steps | None = None,
) -> Executor:
    """Open a module file with the executor called `executor`; `steps` are its lines, if it has any.

    Raises:
        ArtifactError: no executor of this release has this name.
        DeviceError: the executor lacks something on this machine.
    """
    if executor not in _EXECUTORS:
        raise ArtifactError(
            f"the module wants the executor '{executor}', which this release does not have",
            hint=nearest(executor, _EXECUTORS),
        )
    module = importlib.import_module(_EXECUTORS[executor])
    return module.open_module(
        data, signature, num_threads=num_threads, affinity=affinity, steps=steps
    )
