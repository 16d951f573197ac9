"""The door that every room of `codegen/` has: one room, one target kind.

A room turns a Relax module into one *module file* for a target, in three steps that the store can
come between: cut the module into *units*, build each unit to an *object*, link objects to a module.
Outside the rooms nobody knows what a unit or an object is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm import IRModule

from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.passes.base import Pass
from nexus_compiler.targets import TargetSpec
from nexus_runtime.errors import TargetError, nearest
from nexus_runtime.executors.base import Executor
from nexus_runtime.signature import FunctionSpec, Signature
from nexus_runtime.steps import Steps
from nexus_runtime.threads import Threads
from nexus_runtime.work import Kernel as Work
from nexus_runtime.work import Memory


@dataclass(frozen=True)
class Unit:
    """A piece that is built on its own and kept in the store.

    Attributes:
        name: what the linker calls the piece; follows from the content, not the model's names.
        content: canonical bytes; equal pieces have equal content, whatever they were called.
        payload: what the room's `build` takes (a PrimFunc, a Relax function, ...).
        kernel: what it computes, where it is a kernel.
    """

    name: str
    content: bytes
    payload: Any
    kernel: Work | None = None


@dataclass(frozen=True)
class Plan:
    """A module after the room's passes, cut into units; `host` is what is left for the linker.

    `memory` finds out, where the room plans it, what each function sets aside. `steps` are the
    functions that need no virtual machine, where the room tells.
    """

    units: tuple[Unit, ...]
    host: Any
    memory: Callable[[], Mapping[str, Memory]] = dict
    steps: Steps | None = None


@dataclass(frozen=True)
class Requirement:
    """Something that a target needs on this machine, whether it is there, and how to get it."""

    what: str
    found: str
    cure: str


class Trial(Protocol):
    """A few kernels that run by themselves."""

    def draw(self, seed: int, copies: int) -> None:
        """Draw arguments, so many sets of them, that trials of one question have in common."""
        ...

    def run(self, turn: int) -> None:
        """Compute with one set of arguments, the next one in each turn."""
        ...

    def results(self) -> list[np.ndarray]:
        """What is computed of the first set."""
        ...


class Room(Protocol):
    """What a room offers. `target` has been through `resolve` in all calls but that one."""

    executor: str
    """The runtime's executor for the modules of this room (`nexus_runtime/executors/`)."""
    suffix: str
    """File name ending of a module, with its dot."""
    versions: tuple[tuple[str, str], ...]
    """Named versions of the tools whose release changes the objects: factors of every key."""

    def resolve(self, target: TargetSpec) -> TargetSpec:
        """Fill in what depends on this machine ("native"); others come back as they are."""
        ...

    def requirements(self, target: TargetSpec) -> Sequence[Requirement]:
        """What building and checking for `target` needs here; `found` is "" where it is missing."""
        ...

    def graph_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """The passes over whole graphs, after the common ones."""
        ...

    def region_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """The passes that turn one region into calls of kernels.

        A room without any takes functions whole; graphs are not cut into regions for it.
        """
        ...

    def describe(self, kernel: Any, label: str) -> Work:
        """What a kernel that `region_passes` made computes; `label` is what TVM called it."""
        ...

    def cut(
        self,
        module: IRModule,
        signature: Signature,
        target: TargetSpec,
        kernels: Mapping[str, Kernel],
    ) -> Plan:
        """Cut a module into units; `kernels` are those that it calls, by name."""
        ...

    def build(self, unit: Unit, target: TargetSpec) -> bytes:
        """Build one unit to an object. A pure function of the unit, the target and `versions`."""
        ...

    def revive(self, content: str, kernel: bytes) -> Unit:
        """The unit of `content` from what the store keeps of its payload, to be built again.

        Raises:
            TargetError: the room keeps no payloads, or `kernel` is of another content.
        """
        ...

    def link(self, plan: Plan, objects: Mapping[str, bytes], target: TargetSpec) -> bytes:
        """Put objects (by unit name) together to a module file; same input, same bytes."""
        ...

    def open(
        self,
        plan: Plan,
        objects: Mapping[str, bytes],
        signature: Signature,
        target: TargetSpec,
        setting: Threads,
    ) -> Executor:
        """Run what `link` would make in this process, at once.

        Raises:
            TargetError: a tool that this needs is not installed.
        """
        ...

    def trials(
        self, modules: Sequence[IRModule], target: TargetSpec, setting: Threads
    ) -> Sequence[Trial]:
        """Kernels of one question (`codegen/choices.py`), lowered by several choices, to be timed.

        Raises:
            TargetError: they cannot run by themselves, or a tool that this needs is not installed.
        """
        ...

    def emulate(
        self,
        module: bytes,
        function: FunctionSpec,
        arguments: Sequence[np.ndarray],
        target: TargetSpec,
    ) -> list[np.ndarray]:
        """Run a module of a foreign device with the emulator that the target names.

        `arguments` are the inputs and then the parameters of `function`.

        Raises:
            TargetError: the target has no emulator, or it is not installed.
        """
        ...


_ROOMS = {
    "llvm": "nexus_compiler.codegen.llvm.room:LlvmRoom",
    "xla": "nexus_compiler.codegen.xla:room",
}


def room_for(target: TargetSpec) -> Room:
    """The room that builds for `target`.

    Raises:
        TargetError: no room has this kind, or a package that it needs is not installed.
    """
    if target.kind not in _ROOMS:
        raise TargetError(
            f"target '{target.name}' is of kind '{target.kind}', for which there is no room",
            hint=nearest(target.kind, _ROOMS),
        )
    module, _, attribute = _ROOMS[target.kind].partition(":")
    return getattr(importlib.import_module(module), attribute)()
