"""What was built, ready to run: here, or under the emulator of a foreign target."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GlobalVar

from nexus_compiler.build import CompileOptions, Pieces, object_keys, objects_of
from nexus_compiler.codegen import package
from nexus_compiler.codegen.door import Plan, Room
from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.lowering import Lowering
from nexus_compiler.ir.region import INPUTS, Region, as_function
from nexus_compiler.ir.sizes import text
from nexus_compiler.passes.regions import Outlined, call
from nexus_compiler.store.door import OBJECTS
from nexus_compiler.targets import TargetSpec
from nexus_runtime import host, threads
from nexus_runtime.errors import DeviceError
from nexus_runtime.executors.base import Executor
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec


def is_emulated(target: TargetSpec) -> bool:
    """Whether modules for `target` run under an emulator here.

    Raises:
        DeviceError: they do not run at all.
    """
    lacking = host.unmet(package.needs(target))
    if lacking and target.check.level != "emulate":
        raise DeviceError(
            f"a module for '{target.name}' needs {' and '.join(lacking)}",
            hint="verify for a target of this machine: `nexusc targets` lists them",
        )
    return bool(lacking)


class Opened:
    """A plan that was built.

    Args:
        plan: cut by `room` for `target`.
        objects: of its units, by name.
        signature: what it offers.
        weights: of each function by name, in the order of its parameters.
        num_threads: of one call; None for the runtime's own choice.

    Raises:
        DeviceError: it does not run here.
    """

    def __init__(
        self,
        plan: Plan,
        objects: Mapping[str, bytes],
        signature: Signature,
        target: TargetSpec,
        room: Room,
        *,
        weights: Mapping[str, Sequence[np.ndarray]] | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._target, self._room, self._weights = target, room, weights or {}
        self._executor: Executor | None = None
        if is_emulated(target):
            self._module = room.link(plan, objects, target)
        else:
            setting = threads.settle(num_threads, None)
            self._executor = room.open(plan, objects, signature, target, setting)
            self._executor.keep(self._weights)

    def run(self, function: FunctionSpec, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs of `function`; what it may write over is a copy."""
        given = [
            np.array(one) if place in function.donated else one for place, one in enumerate(inputs)
        ]
        if self._executor is None:
            given += self._weights.get(function.name, ())
            return self._room.emulate(self._module, function, given, self._target)
        if function.name in self._weights:
            return list(self._executor.run_kept(function.name, given))
        return list(self._executor.run(function.name, given))


class RegionKernels:
    """The kernels of regions, and each of `regions` as a function of its own that calls them.

    Args:
        pieces: a build, whose objects they are.
        lowering: knows the kernels of all regions.
        options: with the store.
        num_threads: of one call.
    """

    def __init__(
        self,
        pieces: Pieces,
        lowering: Lowering,
        options: CompileOptions,
        *,
        num_threads: int | None = None,
    ) -> None:
        self._pieces, self._lowering, self._options = pieces, lowering, options
        self._num_threads = num_threads
        self._built = pieces.data()
        self._digests: dict[str, str] = {}
        self._opened: Opened | None = None
        self._functions: dict[str, FunctionSpec] = {}

    def objects(self, region: Region) -> dict[str, str]:
        """SHA-256 of the objects of the kernels of `region`, by kernel; "" for what is missing."""
        return {name: self._digest(region, name) for name in sorted(self._kernels(region))}

    def loose(self) -> tuple[str, ...]:
        """The kernels of the program that are of no region."""
        regions = self._pieces.regions.regions.values()
        own = {name for one in regions for name in self._kernels(one)}
        return tuple(unit.name for unit in self._pieces.plan.units if unit.name not in own)

    def _kernels(self, region: Region) -> Mapping[str, Kernel]:
        return self._lowering.region(region, self._options.store).kernels

    def _digest(self, region: Region, name: str) -> str:
        if name not in self._digests:
            data = self._built.get(name)
            if data is None:  # the whole program has another kernel in its place
                kernel = {name: self._kernels(region)[name]}
                keys = object_keys(kernel, self._pieces.target, self._pieces.room)
                data = self._options.store.get(OBJECTS, keys[name])
            self._digests[name] = "" if data is None else hashlib.sha256(data).hexdigest()
        return self._digests[name]

    def open(self, regions: Sequence[Region]) -> None:
        """Make `regions` callable; what of their kernels is missing is built."""
        target, room = self._pieces.target, self._pieces.room
        functions: dict[GlobalVar, relax.Function] = {}
        self._functions = {}
        for number, region in enumerate(regions):
            name = f"check_{number}"
            functions[GlobalVar(name)] = _caller(region, name)
            self._functions[region.digest] = _spec(region, name)
        graph = Outlined(IRModule(functions), {_name(region): region for region in regions})
        signature = Signature(tuple(self._functions.values()))
        program, kernels = self._lowering.program(graph, self._options.store)
        plan = room.cut(program, signature, target, kernels)
        missing = tuple(unit for unit in plan.units if unit.name not in self._built)
        if missing:
            rest = Plan(missing, plan.host)
            self._built |= objects_of(rest, target, room, self._options)
            self._digests.clear()
        used = {unit.name: self._built[unit.name] for unit in plan.units}
        self._opened = Opened(plan, used, signature, target, room, num_threads=self._num_threads)

    def run(self, region: Region, arguments: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs of the kernels of an opened region."""
        assert self._opened is not None
        return self._opened.run(self._functions[region.digest], arguments)


def _name(region: Region) -> str:
    return str(region.variable.name_hint)


def _caller(region: Region, name: str) -> relax.Function:
    """A function that does nothing but call `region`."""
    function = region.function
    params = [relax.Var(str(one.name), one.ty) for one in function.params]
    outputs = [relax.DataflowVar("output", kind) for kind in function.ret_ty.fields]
    made = as_function(params, call(region.variable, params, outputs), outputs)
    return made.with_attrs({INPUTS: int(function.attrs[INPUTS]), "global_symbol": name})


def _spec(region: Region, name: str) -> FunctionSpec:
    function = region.function
    inputs = tuple(_tensor(f"p{i}", one.ty) for i, one in enumerate(function.params))
    outputs = tuple(_tensor(f"output {i}", one) for i, one in enumerate(function.ret_ty.fields))
    return FunctionSpec(name, inputs, outputs)


def _tensor(name: str, kind: Any) -> TensorSpec:
    return TensorSpec(name, str(kind.dtype), tuple(text(size) for size in kind.shape.values))
