"""The way of a model as code: capture, passes, store, codegen, artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import IRModule

from nexus_compiler import targets as target_table
from nexus_compiler.build import CompileOptions, Progress, RegionCount, build_target, outlined
from nexus_compiler.codegen import package
from nexus_compiler.codegen.door import Room, room_for
from nexus_compiler.collection import WithoutFullCollections
from nexus_compiler.frontend import capture
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.record import Record
from nexus_compiler.passes.weights import DONATED, INPUTS
from nexus_compiler.planning.plan import TargetPlan, plan_graph
from nexus_compiler.targets import TargetSpec
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import TargetError

__all__ = ["CompileOptions", "Progress", "RegionCount", "TargetPlan", "compile", "plan"]


@WithoutFullCollections()
def compile(
    model: Any,
    *,
    targets: Sequence[str] = ("native",),
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    options: CompileOptions | None = None,
) -> Artifact:
    """Compile a model for every target of `targets`.

    Args:
        model: path of an ONNX file, an `onnx.ModelProto`, a `torch.nn.Module`, a `GraphBuilder` or
            a captured graph.
        targets: names that `nexusc targets` lists.
        args: example inputs of a PyTorch module, in order.
        kwargs: example inputs of a PyTorch module, by name.
        dynamic_shapes: which dimensions of these may vary, as `torch.export.export` takes it.
        shapes: sizes of inputs by name; None keeps a dimension as the model has it.
        constants: inputs of an ONNX model that become constants, by name, with their values.
        options: where and how to build; never changes the result.

    Returns:
        The artifact; `.save(path)` writes it, `nexus_runtime.load` loads it.

    Raises:
        CaptureError: the model cannot be read, or holds an operator that Nexus lacks.
        ShapeError: `shapes` or `constants` do not fit the model.
        TargetError: a target is unknown, or its tools are not installed.
    """
    options = options or CompileOptions()
    rooms = [prepare(name) for name in distinct(targets)]
    options.progress("capture", 0, 1)
    graph = capture(
        model, args, kwargs, shapes=shapes, constants=constants, dynamic_shapes=dynamic_shapes
    )
    options.progress("capture", 1, 1)
    module = common(graph, options.hooks)
    built = [build_target(module, graph, target, room, options) for target, room in rooms]
    return package.assemble(graph, module, built, flags=flags(targets, shapes, constants))


@WithoutFullCollections()
def plan(
    model: Any,
    *,
    targets: Sequence[str] = ("native",),
    against: Artifact | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    options: CompileOptions | None = None,
) -> list[TargetPlan]:
    """What `compile` would reuse and what it would build, region by region; builds nothing.

    Args:
        model: as of `compile`, like all others but `against`.
        against: an earlier build, for the reasons why regions are not known.

    Raises:
        CaptureError: as `compile`.
        ShapeError: as `compile`.
        TargetError: as `compile`.
        ArtifactError: what `against` tells of its regions is damaged.
    """
    options = options or CompileOptions()
    rooms = [prepare(name) for name in distinct(targets)]
    graph = capture(
        model, args, kwargs, shapes=shapes, constants=constants, dynamic_shapes=dynamic_shapes
    )
    before = {} if against is None else records(against)
    return plan_graph(common(graph, options.hooks), graph, rooms, options, before)


@WithoutFullCollections()
def regions(
    model: Any,
    *,
    targets: Sequence[str] = ("native",),
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    options: CompileOptions | None = None,
) -> dict[str, Record]:
    """The regions that a build of `model` would be made of, by target; builds nothing.

    Raises:
        CaptureError: as `compile`.
        ShapeError: as `compile`.
        TargetError: as `compile`.
    """
    options = options or CompileOptions()
    rooms = [prepare(name) for name in distinct(targets)]
    graph = capture(model, shapes=shapes)
    module = common(graph, options.hooks)
    found: dict[str, Record] = {}
    for target, room in rooms:
        cut = outlined(module, target, room, options)
        lowering = options.lowering(room, target)
        found[target.name] = options.memory.record(cut, graph, lowering)
    return found


def common(graph: CapturedGraph, hooks: Sequence[base.Hook] = ()) -> IRModule:
    """The module of `graph` after the passes that every target begins with."""
    return base.run(_marked(graph), pipelines.common(), hooks)


def records(artifact: Artifact) -> dict[str, Record]:
    """The regions that the modules of `artifact` were made of, by target.

    Raises:
        ArtifactError: they are damaged.
    """
    found: dict[str, Record] = {}
    for entry in artifact.manifest.modules:
        data = artifact.regions(entry.target)
        if data is not None:
            found[entry.target] = Record.decode(data, origin=f"the module for {entry.target}")
    return found


def _marked(graph: CapturedGraph) -> IRModule:
    """The module of `graph`, whose functions say how many of their parameters are inputs."""
    module = IRModule(dict(graph.module.functions.items()), attrs=graph.module.attrs)
    for spec in graph.signature.functions:
        function = module[spec.name].with_attr(INPUTS, len(spec.inputs))
        if any(place >= 0 for place in spec.donated):
            function = function.with_attr(DONATED, list(spec.donated))
        module.update_func(module.get_global_var(spec.name), function)
    return module


def flags(
    targets: Sequence[str],
    shapes: Mapping[str, Sequence[int | str | None]] | None,
    constants: Mapping[str, np.ndarray] | None,
) -> dict[str, str]:
    """What was asked for, as the provenance tells it."""
    told = {"targets": " ".join(targets)}
    for name, dims in (shapes or {}).items():
        told[f"shape {name}"] = ",".join("?" if dim is None else str(dim) for dim in dims)
    for name, value in (constants or {}).items():
        told[f"frozen {name}"] = hashlib.sha256(value.tobytes()).hexdigest()
    return told


def distinct(names: Sequence[str]) -> list[str]:
    """Each name once.

    Raises:
        TargetError: there is none.
    """
    if not names:
        raise TargetError("no target is given", hint="for this machine: --target native")
    return list(dict.fromkeys(names))


def prepare(name: str) -> tuple[TargetSpec, Room]:
    """The target called `name`, settled for this machine, and its room.

    Raises:
        TargetError: it is unknown, or its tools are not installed.
    """
    target = target_table.load(name)
    room = room_for(target)
    return room.resolve(target), room
