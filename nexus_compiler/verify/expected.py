"""What a whole model should give: from another runtime of it, or from its graph before any pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tvm import IRModule, relax

from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir.region import INPUTS, Region, RegionTable
from nexus_compiler.passes.regions import outline
from nexus_compiler.verify import walk
from nexus_compiler.verify.evaluate import Evaluator
from nexus_compiler.verify.reference import OnnxRuntime
from nexus_runtime.signature import FunctionSpec


class Expected(Protocol):
    """A reference for whole functions."""

    @property
    def name(self) -> str:
        """Who computes it."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what the results follow from but for the captured graph and the inputs."""
        ...

    def outputs(
        self, function: FunctionSpec, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """The outputs of `function` by name."""
        ...


@dataclass(eq=False)
class ByOnnxRuntime:
    """ONNX Runtime on a model file; `constants` are inputs of it that the build knew as constants.

    Raises:
        DeviceError: onnxruntime is not installed.
        CaptureError: it refuses the model.
    """

    model: Path
    constants: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    name: str = "onnxruntime"

    def __post_init__(self) -> None:
        self._session = OnnxRuntime(self.model)

    @property
    def digest(self) -> str:
        """As `Expected.digest`; of the file, as weights beside it are in the captured graph."""
        return hashlib.sha256(self.model.read_bytes()).hexdigest()

    def outputs(
        self, function: FunctionSpec, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """As `Expected.outputs`."""
        del function
        return self._session.run({**inputs, **self.constants})


@dataclass(eq=False)
class ByGraph:
    """The captured graph itself, computed by `evaluator`."""

    captured: CapturedGraph
    evaluator: Evaluator

    @property
    def name(self) -> str:
        """As `Expected.name`."""
        return self.evaluator.name

    @property
    def digest(self) -> str:
        """As `Expected.digest`: there is nothing else."""
        return ""

    def outputs(
        self, function: FunctionSpec, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """As `Expected.outputs`.

        Raises:
            UnsupportedOperator: something in it cannot be computed.
        """
        given = [inputs[one.name] for one in function.inputs]
        given += [self.captured.params[name] for name in function.parameters]
        names = [one.name for one in function.outputs]
        return dict(zip(names, self._computed(function, given), strict=True))

    def _computed(self, function: FunctionSpec, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        # In regions, of which equal ones are compiled once.
        main = self.captured.module[function.name].with_attr(INPUTS, len(function.inputs))
        module = IRModule(dict(self.captured.module.functions.items()))
        module.update_func(module.get_global_var(function.name), main)
        graph = outline(module, RegionTable())
        if walk.is_cut(graph, function.name):
            return walk.run(graph, function.name, given, at=self._region, evaluator=self.evaluator)
        callees = {
            variable: one
            for variable, one in self.captured.module.functions.items()
            if isinstance(one, relax.Function) and variable.name_hint != function.name
        }
        return self.evaluator.call(main, given, callees=callees)[1]

    def _region(
        self, place: int, region: Region, arguments: list[np.ndarray]
    ) -> Sequence[np.ndarray]:
        del place
        return self.evaluator.call(
            region.function, arguments, callees=region.parts, key=region.digest
        )[1]
