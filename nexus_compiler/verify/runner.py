"""Runs a function of an artifact here, or under the emulator of a foreign target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nexus_compiler import targets
from nexus_compiler.codegen.door import room_for
from nexus_runtime import host
from nexus_runtime.artifact import Artifact
from nexus_runtime.module import load
from nexus_runtime.signature import FunctionSpec

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def open_function(
    artifact: Artifact,
    function: FunctionSpec,
    *,
    target: str | None = None,
    num_threads: int | None = None,
) -> Run:
    """A callable from inputs to outputs by name.

    The module for `target` is emulated where it is for another machine and its target says how.

    Raises:
        DeviceError: it runs neither here nor under an emulator.
    """
    if target is not None and _is_foreign(artifact, target):
        return _emulated(artifact, function, target)
    module = load(artifact, target=target, num_threads=num_threads)
    return lambda inputs: module.run(function.name, inputs)


def _is_foreign(artifact: Artifact, target: str) -> bool:
    requires = artifact.module(target).requires
    spec = targets.load_all().get(target)
    return bool(host.unmet(requires)) and spec is not None and spec.check.level == "emulate"


def _emulated(artifact: Artifact, function: FunctionSpec, target: str) -> Run:
    spec = targets.load(target)
    room, module, params = room_for(spec), artifact.module_bytes(target), artifact.params()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        function.check(inputs)
        arguments = [inputs[given.name] for given in function.inputs]
        arguments += [params[name] for name in function.parameters]
        results = room.emulate(module, function, arguments, spec)
        return {output.name: result for output, result in zip(function.outputs, results)}

    return run
