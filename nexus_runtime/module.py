"""Load an artifact for this machine and call it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from nexus_runtime import binding, host
from nexus_runtime.artifact import Artifact
from nexus_runtime.binding import Binding
from nexus_runtime.calls import CallPlan
from nexus_runtime.errors import ArtifactError, DeviceError, InputError
from nexus_runtime.executors.base import CallTime, Executor, Quick, open_module
from nexus_runtime.manifest import Manifest
from nexus_runtime.signature import FunctionSpec, Signature

MAIN = "main"


class Module:
    """A loaded model. Safe to call from many threads at once.

    Attributes:
        manifest: what the artifact says of itself.
        target: the target whose module was loaded.
        parameters: the weights by name, read-only; pass others to `run` to use others.
    """

    def __init__(
        self,
        artifact: Artifact,
        target: str,
        *,
        num_threads: int | None = None,
        affinity: Sequence[int] | None = None,
    ) -> None:
        entry = artifact.module(target)
        if lacking := host.unmet(entry.requires):
            raise DeviceError(
                f"the module for '{target}' needs {' and '.join(lacking)}",
                hint="compile for another target: `nexusc targets` lists them",
            )
        self.manifest: Manifest = artifact.manifest
        self.target = target
        weights = artifact.params()
        _check_weights(weights, self.manifest.signature)
        executor = open_module(
            entry.executor,
            artifact.module_bytes(target),
            self.manifest.signature,
            num_threads=num_threads,
            affinity=affinity,
            steps=artifact.steps(target),
        )
        self._bind(executor, weights)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        target: str,
        executor: Executor,
        weights: Mapping[str, np.ndarray],
    ) -> Self:
        """A module of what was opened before.

        Args:
            manifest: has the signature.
            target: what `executor` was built for.
            executor: which nobody has called yet.
            weights: all that the signature names, by name; nobody writes to them any more.

        Raises:
            ArtifactError: a weight is missing, or is not what the signature says.
        """
        made = cls.__new__(cls)
        made.manifest, made.target = manifest, target
        _check_weights(weights, manifest.signature)
        made._bind(executor, weights)
        return made

    def _bind(self, executor: Executor, weights: Mapping[str, np.ndarray]) -> None:
        self._executor = executor
        functions = self.manifest.signature.functions
        self._executor.keep({f.name: [weights[name] for name in f.parameters] for f in functions})
        self.parameters = {name: _read_only(array) for name, array in weights.items()}
        self._plans = {f.name: CallPlan(f) for f in functions}
        self._main = self._plans[self.main.name]
        # What was last called, by function: a way that checks for itself whether it fits again.
        self._quick: dict[str, Quick] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """Run the main function on arrays, given in order or by name.

        Any NumPy or DLPack array on the CPU will do: unaligned, strided, read-only or empty.

        Returns:
            The output, or a dict of outputs by name where there are several.

        Raises:
            InputError: an array is missing, unknown, or does not fit the signature.
        """
        plan = self._main
        quick = None if kwargs else self._quick.get(plan.spec.name)
        results = None if quick is None else quick(*args)
        if results is None:
            arguments = plan.mixed(args, kwargs) if kwargs else plan.in_order(args)
            results = self._run_kept(plan, arguments)
        return results[0] if len(results) == 1 else dict(zip(plan.outputs, results))

    @functools.cached_property
    def main(self) -> FunctionSpec:
        """The function that `module(x)` calls: `main`, or the first of the signature."""
        functions = self.manifest.signature.functions
        return next((f for f in functions if f.name == MAIN), functions[0])

    def run(
        self,
        function: str,
        inputs: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run any function of the signature; `parameters` stand in for the artifact's own weights.

        Raises:
            InputError: as for a call; a parameter of another name, dtype or shape too.
        """
        plan = self._plan(function)
        if parameters is None and (quick := self._quick.get(function)) is not None:
            ordered = plan.ordered(inputs)
            if ordered is not None and (results := quick(*ordered)) is not None:
                return dict(zip(plan.outputs, results))
        arguments = plan.by_name(inputs)
        if parameters is None:
            results = self._run_kept(plan, arguments)
        else:
            weights = self._checked(parameters)
            more = [weights[name] for name in plan.spec.parameters]
            results = self._executor.run(function, [*arguments, *more])
        return dict(zip(plan.outputs, results))

    def _run_kept(self, plan: CallPlan, arguments: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        name = plan.spec.name
        results = self._executor.run_kept(name, arguments)
        quick = self._executor.quick(name, tuple([array.shape for array in arguments]))
        if quick is not None:
            self._quick[name] = quick
        return results

    def bind(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, np.ndarray] | None = None,
        *,
        function: str | None = None,
    ) -> Binding:
        """Settle where the inputs and outputs of many calls lie: nothing is made or checked again.

        >>> bound = module.bind({"x": x})
        >>> x[...] = ...                    # new values in the same place
        >>> bound.run()
        >>> bound.outputs["y"]

        Args:
            inputs: arrays by name, of which each run reads what then stands there. One that is no
                contiguous NumPy array costs what it costs in a call.
            outputs: arrays to write to, by name; others are made.
            function: by default that of `module(x)`.

        Raises:
            InputError: as for a call; or an output cannot be written to the array that is given.
        """
        plan = self._main if function is None else self._plan(function)
        arrays = plan.by_name(inputs)
        spec, names = plan.spec, [given.name for given in plan.spec.inputs]
        sizes = spec.check(dict(zip(names, arrays)))
        made = binding.outputs_for(spec, arrays, sizes, outputs or {})
        run = self._executor.bind(spec.name, arrays, made)
        if run is None:
            run = binding.in_python(lambda: self._executor.run_kept(spec.name, arrays), made)
        return Binding(dict(zip(names, arrays)), dict(zip(plan.outputs, made)), run)

    def trace(
        self, function: str, inputs: Mapping[str, Any], *, rounds: int = 1
    ) -> list[list[CallTime]]:
        """Run a function `rounds` times and time every kernel that it calls; outputs are dropped.

        Raises:
            InputError: as for a call.
            DeviceError: the executor's kernels cannot be told apart.
        """
        arguments = self._plan(function).by_name(inputs)
        return self._executor.trace(function, arguments, rounds=rounds)

    def _plan(self, function: str) -> CallPlan:
        if (plan := self._plans.get(function)) is None:
            # Which raises what tells the nearest name.
            return self._plans[self.manifest.signature.function(function).name]
        return plan

    def _checked(self, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        checked: dict[str, np.ndarray] = {}
        for name, own in self.parameters.items():
            if name not in parameters:
                raise InputError(f"parameter '{name}' is missing")
            given = parameters[name]
            if given.shape != own.shape or given.dtype != own.dtype:
                raise InputError(
                    f"parameter '{name}' is {given.dtype}{list(given.shape)}, "
                    f"but the model has {own.dtype}{list(own.shape)}"
                )
            checked[name] = given
        return checked


def _check_weights(weights: Mapping[str, np.ndarray], signature: Signature) -> None:
    """Check once what no call checks again.

    Raises:
        ArtifactError: a weight is missing, or is not what the signature says.
    """
    for spec in signature.parameters:
        found = weights.get(spec.name)
        if found is None or found.dtype.name != spec.dtype or found.shape != spec.shape:
            told = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ArtifactError(
                f"the weight '{spec.name}' of the artifact is {told}, but its signature has {spec}",
                hint="compile the model again",
            )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def load(
    source: str | Path | Artifact,
    *,
    target: str | None = None,
    num_threads: int | None = None,
    affinity: Sequence[int] | None = None,
) -> Module:
    """Load the module of `source` that suits this machine best, or the one for `target`.

    Args:
        source: the path of an `.nxa` file, or an artifact in memory.
        target: which module; by default the one of highest rank whose needs this machine meets.
        num_threads: threads for one call, the caller's among them; 1 is the sequential mode, in
            which no other thread ever runs. By default one for each core that this process may
            use (hyperthreads of a core count once, and no more than a container's share), or
            `TVM_NUM_THREADS`. Modules share their workers, whatever number each of them uses.
        affinity: numbers of the cores that the workers keep to; by default those that the calling
            thread may run on now. A caller's own thread is never moved.

    Raises:
        ArtifactError: the file is missing, damaged or was changed.
        DeviceError: no module runs on this machine; the message says what each lacks. Or the
            threads that are asked for cannot be had.
    """
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    return Module(
        artifact, target or _best_target(artifact), num_threads=num_threads, affinity=affinity
    )


def _best_target(artifact: Artifact) -> str:
    lacking = {entry.target: host.unmet(entry.requires) for entry in artifact.manifest.modules}
    fitting = [entry for entry in artifact.manifest.modules if not lacking[entry.target]]
    if not fitting:
        reasons = "; ".join(f"{name} needs {', '.join(what)}" for name, what in lacking.items())
        raise DeviceError(
            f"no module of the artifact runs on this machine: {reasons or 'it holds none'}",
            hint="compile with `--target native` on this machine",
        )
    return max(fitting, key=lambda entry: entry.rank).target
