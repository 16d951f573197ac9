"""`nexusc inspect`."""

from __future__ import annotations

import collections
from pathlib import Path

import click
import msgspec

from nexus_compiler.cli import console, options
from nexus_runtime.artifact import Artifact
from nexus_runtime.manifest import Manifest
from nexus_runtime.work import NAIVE, Work


@click.command("inspect")
@options.ARTIFACT
@options.JSON
def inspect_(artifact: Path, as_json: bool) -> None:
    """Show signature, targets, regions, sizes, provenance and hashes of ARTIFACT."""
    opened = Artifact.open(artifact)
    manifest = opened.manifest
    value = {
        "artifact": str(artifact),
        "bytes": artifact.stat().st_size,
        "sha256": opened.digest,
        **msgspec.to_builtins(manifest),
    }
    told = {entry.target: opened.work(entry.target) for entry in manifest.modules}
    value["work"] = {name: msgspec.to_builtins(work) for name, work in told.items() if work}
    sections = [
        f"artifact    {artifact}  {console.size(artifact.stat().st_size)}  sha256 {opened.digest}",
        _signature(manifest),
        _targets(manifest),
        _regions(manifest),
        *(_work(name, work) for name, work in told.items() if work),
        _members(manifest),
        _provenance(manifest),
    ]
    console.emit(value, "\n\n".join(sections), as_json=as_json)


def _signature(manifest: Manifest) -> str:
    lines: list[str] = []
    for function in manifest.signature.functions:
        lines.append(f"function    {function.name}")
        lines += [f"  input     {spec}" for spec in function.inputs]
        lines += [f"  output    {spec}" for spec in function.outputs]
        lines += [f"  guard     {guard}" for guard in function.guards]
    count = len(manifest.signature.parameters)
    return "\n".join([*lines, f"parameters  {count} tensors"])


def _targets(manifest: Manifest) -> str:
    rows = [
        (
            entry.target,
            entry.executor,
            console.size(manifest.members[entry.member].size),
            len(entry.objects),
            " ".join([entry.requires.machine, *entry.requires.cpu_features]).strip() or "anything",
        )
        for entry in manifest.modules
    ]
    return console.table(("target", "executor", "module", "objects", "needs"), rows)


def _regions(manifest: Manifest) -> str:
    rows = [
        (r.function, r.sha256[:16], sum(r.operators.values()), _top(r.operators))
        for r in manifest.regions
    ]
    return console.table(("region", "digest", "operators", "most frequent"), rows)


def _top(operators: dict[str, int]) -> str:
    most = sorted(operators.items(), key=lambda item: (-item[1], item[0]))[:4]
    return ", ".join(f"{name} {count}" for name, count in most)


def _work(target: str, work: Work) -> str:
    """Kernels by family, those without a schedule by name, and the memory of each function."""
    families = collections.Counter(kernel.family for kernel in work.kernels.values())
    naive = sorted({k.label for k in work.kernels.values() if k.family == NAIVE})
    tuned = sorted((k for k in work.kernels.values() if k.tuned), key=lambda k: (k.label, k.shapes))
    lines = [
        f"kernels for {target}",
        *(f"  {name:<10}{count}" for name, count in sorted(families.items())),
        *(f"  not scheduled: {label}" for label in naive),
        *(f"  measured: {k.label} {', '.join(k.shapes)}: {k.tuned}" for k in tuned),
    ]
    for name, memory in work.memory.items():
        more = f" and {memory.open} pieces of sizes that a call tells" if memory.open else ""
        lines.append(f"  {name} sets aside {console.size(memory.fixed)}{more}")
    return "\n".join(lines)


def _members(manifest: Manifest) -> str:
    rows = [(n, console.size(m.size), m.sha256) for n, m in sorted(manifest.members.items())]
    return console.table(("member", "size", "sha256"), rows)


def _provenance(manifest: Manifest) -> str:
    said = manifest.provenance
    versions = ", ".join(f"{name} {version}" for name, version in said.versions.items())
    source = f"{said.source_kind} {said.source_name} {said.source_sha256}".strip()
    lines = [
        f"compiler    {said.compiler} on {said.host}",
        f"versions    {versions}",
        f"source      {source}",
    ]
    return "\n".join([*lines, *(f"asked for   {k} {v}" for k, v in said.options.items())])
