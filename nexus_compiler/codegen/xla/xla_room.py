"""The room: one unit per Relax function, one `jax.export` blob per unit."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tvm import IRModule, relax

from nexus_compiler.codegen.door import Plan, Requirement, Trial, Unit
from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.xla.program import Program, content
from nexus_compiler.passes.base import Pass
from nexus_compiler.targets import TargetSpec
from nexus_runtime.errors import DeviceError, TargetError
from nexus_runtime.executors import jax_export
from nexus_runtime.executors.base import Executor, open_module
from nexus_runtime.signature import FunctionSpec, Signature
from nexus_runtime.threads import Threads
from nexus_runtime.work import Kernel as Work

_PACKAGES = ("jax", "jaxlib", "flatbuffers")
_PRECISIONS = ("default", "high", "highest")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _translation_digest() -> str:
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


class XlaRoom:
    """Builds StableHLO for the platforms that the target's table `[xla]` lists.

    Options of a target:
        platforms: what XLA shall compile it for, the most wanted first ("tpu", "cpu", "cuda").
        precision: of products of float32: "highest" (the default here: what the other rooms
            compute) or, faster on a TPU, "high" or "default" (bfloat16).
    """

    def __init__(self) -> None:
        self.executor = "jax-export"
        self.suffix = ".stablehlo"
        self.versions: tuple[tuple[str, str], ...] = (
            ("jax", _version("jax")),
            ("jaxlib", _version("jaxlib")),
            ("tvm", _version("apache-tvm")),
            # A unit's content is what is translated; how it is translated counts as well.
            ("translation", _translation_digest()),
        )

    def resolve(self, target: TargetSpec) -> TargetSpec:
        """Nothing of an XLA target depends on this machine."""
        return target

    def requirements(self, target: TargetSpec) -> Sequence[Requirement]:
        """JAX, and flatbuffers, which `jax.export` needs and does not ask for."""
        del target
        cure = "pip install nexus-compiler[xla]"
        return [Requirement(package, _version(package), cure) for package in _PACKAGES]

    def graph_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """None: XLA does its own optimisation."""
        del target
        return ()

    def region_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """None: XLA takes functions whole."""
        del target
        return ()

    def describe(self, kernel: Any, label: str) -> Work:
        """Nobody asks: there are no kernels before XLA makes them."""
        raise NotImplementedError

    def cut(
        self,
        module: IRModule,
        signature: Signature,
        target: TargetSpec,
        kernels: Mapping[str, Kernel],
    ) -> Plan:
        """One unit per function of the signature; equal functions share one.

        Raises:
            UnsupportedOperator: the module is no captured graph.
            TargetError: the target's options are wrong.
        """
        del kernels
        _options(target)
        whole: Any = module
        callees = {
            variable.name_hint: function
            for variable, function in whole.functions.items()
            if isinstance(function, relax.Function)
        }
        units: dict[str, Unit] = {}
        names: dict[str, str] = {}
        for spec in signature.functions:
            program = Program(spec.name, callees[spec.name], callees)
            text = content(program)
            name = f"xla_{hashlib.sha256(text).hexdigest()[:32]}"
            units.setdefault(name, Unit(name, text, program))
            names[spec.name] = name
        return Plan(tuple(units.values()), names)

    def build(self, unit: Unit, target: TargetSpec) -> bytes:
        """Export one function.

        Raises:
            UnsupportedOperator: an operator of it has no translation.
            TargetError: JAX is not installed, or the target's options are wrong.
        """
        platforms, precision = _options(target)
        _load()
        from nexus_compiler.codegen.xla.export import export_function

        return export_function(unit.payload, platforms=platforms, precision=precision)

    def open(
        self,
        plan: Plan,
        objects: Mapping[str, bytes],
        signature: Signature,
        target: TargetSpec,
        setting: Threads,
    ) -> Executor:
        """The module, linked and opened."""
        data = self.link(plan, objects, target)
        return open_module(self.executor, data, signature, num_threads=setting.count)

    def revive(self, content: str, kernel: bytes) -> Unit:
        """Not possible: graphs are not kept.

        Raises:
            TargetError: always.
        """
        del kernel
        raise TargetError(f"of the graph {content[:12]} only its export is kept")

    def link(self, plan: Plan, objects: Mapping[str, bytes], target: TargetSpec) -> bytes:
        """Put the blobs into one container (see `nexus_runtime/executors/jax_export.py`)."""
        platforms, _ = _options(target)
        used = {unit.name: objects[unit.name] for unit in plan.units}
        return jax_export.pack(platforms, plan.host, used)

    def trials(
        self, modules: Sequence[IRModule], target: TargetSpec, setting: Threads
    ) -> Sequence[Trial]:
        """Nobody asks: XLA makes its choices itself."""
        raise TargetError(f"'{target.name}' has no kernels of ours that could be timed")

    def emulate(
        self,
        module: bytes,
        function: FunctionSpec,
        arguments: Sequence[np.ndarray],
        target: TargetSpec,
    ) -> list[np.ndarray]:
        """Never needed: a module that lists the platform "cpu" runs on XLA's CPU.

        Raises:
            TargetError: always.
        """
        del module, function, arguments
        raise TargetError(
            f"target '{target.name}' has no emulator",
            hint='its modules run directly where `platforms` lists "cpu"',
        )


def _load() -> None:
    try:
        jax_export.import_jax(("cpu",))
    except DeviceError as error:
        raise TargetError(error.message, hint=error.hint) from error


def _options(target: TargetSpec) -> tuple[tuple[str, ...], str]:
    platforms = tuple(target.options.get("platforms", ()))
    precision = target.options.get("precision", "highest")
    if not platforms or not all(isinstance(item, str) for item in platforms):
        raise TargetError(
            f"target '{target.name}' names no platforms for XLA",
            hint='add `platforms = ["cpu"]` to its table [xla]',
        )
    if precision not in _PRECISIONS:
        raise TargetError(
            f"target '{target.name}' asks for the precision '{precision}'",
            hint=f"known: {', '.join(_PRECISIONS)}",
        )
    return platforms, precision
