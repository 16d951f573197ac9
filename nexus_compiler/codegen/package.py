"""Writes what was built as an artifact; the bridge from the compiler to the runtime's format."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import tvm
from tvm import IRModule, relax

from nexus_compiler.codegen.door import Room
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir import calls, canonical
from nexus_compiler.passes.record import Record
from nexus_compiler.targets import TargetSpec
from nexus_runtime import artifact, manifest
from nexus_runtime.artifact import Artifact
from nexus_runtime.steps import Steps
from nexus_runtime.work import Work


@dataclass(frozen=True)
class BuiltModule:
    """A module file for one target, and what went into it.

    Attributes:
        objects: key in the store and size in bytes, by the object's name.
        factors: everything that the module follows from, but for the graph.
        regions: the regions that it was made of, where the room takes them.
        work: what its kernels compute, where the room tells.
        steps: its functions that need no virtual machine, where the room tells.
    """

    target: TargetSpec
    room: Room
    data: bytes
    objects: dict[str, tuple[str, int]]
    factors: tuple[tuple[str, str], ...]
    regions: Record
    work: Work | None = None
    steps: Steps | None = None


def assemble(
    graph: CapturedGraph,
    module: IRModule,
    built: Sequence[BuiltModule],
    *,
    flags: Mapping[str, str],
) -> Artifact:
    """The artifact of a captured graph.

    Args:
        graph: what was captured.
        module: the graph after the common passes.
        built: a module for each target.
        flags: what the user asked for, for the provenance.
    """
    members = {_member(one): one.data for one in built}
    for one in built:
        members[artifact.regions_member(one.target.name)] = one.regions.encode()
        if one.work is not None:
            members[artifact.work_member(one.target.name)] = one.work.encode()
        if one.steps is not None:
            members[artifact.steps_member(one.target.name)] = one.steps.encode()
    draft = manifest.Manifest(
        format=manifest.FORMAT,
        version=manifest.VERSION,
        signature=graph.signature,
        modules=tuple(_entry(one) for one in built),
        regions=_regions(module),
        provenance=_provenance(graph, [one.room for one in built], flags),
        members={},
        training=graph.training,
    )
    return artifact.assemble(draft, members, graph.params)


def unwritten(graph: CapturedGraph, room: Room, flags: Mapping[str, str]) -> manifest.Manifest:
    """What is said of a module that stays in this process: of no file, and so without hashes."""
    return manifest.Manifest(
        format=manifest.FORMAT,
        version=manifest.VERSION,
        signature=graph.signature,
        modules=(),
        regions=(),
        provenance=_provenance(graph, [room], flags),
        members={},
        training=graph.training,
    )


def _member(built: BuiltModule) -> str:
    return f"modules/{built.target.name}{built.room.suffix}"


def needs(target: TargetSpec) -> manifest.Requires:
    """What a machine must have to run modules for `target`, as the manifest says it."""
    requires = target.requires
    return manifest.Requires(requires.machine, requires.cpu_features, requires.packages)


def _entry(built: BuiltModule) -> manifest.ModuleEntry:
    return manifest.ModuleEntry(
        target=built.target.name,
        executor=built.room.executor,
        member=_member(built),
        rank=built.target.rank,
        requires=needs(built.target),
        objects=tuple(
            manifest.ObjectEntry(name=name, fingerprint=key, size=size)
            for name, (key, size) in sorted(built.objects.items())
        ),
        factors=dict(built.factors),
    )


def _regions(module: IRModule) -> tuple[manifest.Region, ...]:
    # One region a function, until graphs are cut at repeated subgraphs.
    return tuple(
        manifest.Region(
            function=str(variable.name_hint),
            sha256=canonical.digest(function),
            operators=_count_operators(function),
        )
        for variable, function in sorted(module.functions.items(), key=lambda i: i[0].name_hint)
        if isinstance(function, relax.Function)
    )


def _count_operators(function: relax.Function) -> dict[str, int]:
    found = calls.count(function)
    return {name.removeprefix("relax."): found[name] for name in sorted(found)}


def _provenance(
    graph: CapturedGraph, rooms: Sequence[Room], flags: Mapping[str, str]
) -> manifest.Provenance:
    versions = {"tvm": tvm.__version__, "python": platform.python_version()}
    for room in rooms:
        versions.update(room.versions)
    return manifest.Provenance(
        compiler=f"nexus-compiler {metadata.version('nexus-compiler')}",
        source_kind=graph.source.kind,
        source_name=graph.source.name,
        source_sha256=graph.source.sha256,
        # The kind of machine, not its name: two of one kind give the same bytes.
        host=f"{platform.system()} {platform.machine()}",
        versions=dict(sorted(versions.items())),
        options=dict(sorted(flags.items())),
    )
