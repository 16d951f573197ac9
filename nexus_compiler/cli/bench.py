"""`nexusc bench`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from nexus_compiler.cli import console, options, profiling
from nexus_compiler.cli.loading import open_with_inputs
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import UserError


@click.command("bench")
@options.ARTIFACT
@click.option(
    "--against",
    type=click.Choice(["onnxruntime"]),
    help="Take turns with this peer; needs --model.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model for the peer; by default the source file, beside the artifact or here.",
)
@click.option("--profile", "by_kernel", is_flag=True, help="Time each kernel of a call instead.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="With --profile: write a roofline plot (SVG) to this file.",
)
@click.option("--memory", is_flag=True, help="Tell how much memory each takes, too (Linux).")
@click.option("--rounds", type=click.IntRange(min=1), default=100, show_default=True)
@options.inputs
@options.TARGET
@options.THREADS
@options.SEED
@options.JSON
def bench(
    artifact: Path,
    against: str | None,
    model: Path | None,
    by_kernel: bool,
    plot: Path | None,
    memory: bool,
    rounds: int,
    given: tuple[str, ...],
    dims: tuple[str, ...],
    target: str | None,
    threads: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Time ARTIFACT: median and p99 of alternating calls in random order.

    Inputs that are not given are random. The outputs of both are compared first. With --profile:
    time, GFLOP/s, GB/s and share of this machine's roofline of each kernel, which is measured once.
    """
    from nexus_compiler.verify import compare, inputs, reference, runner, timing
    from nexus_compiler.verify import memory as footprint

    opened, function, arrays = open_with_inputs(
        artifact, given=given, dims=dims, seed=seed, fill=inputs.RANDOM
    )
    if by_kernel:
        if against:
            raise UserError("--profile and --against are two things: run one after the other")
        profiling.profile(
            opened,
            function,
            arrays,
            target=target,
            threads=threads,
            rounds=rounds,
            plot=plot,
            as_json=as_json,
        )
        return
    if plot:
        raise UserError("--plot draws what --profile measures: give both")
    own = runner.open_function(opened, function, target=target, num_threads=threads)
    contenders: dict[str, Callable[[], object]] = {"nexus": lambda: own(arrays)}
    files = {"nexus": artifact}
    if against:
        files[against] = model or _find_source(opened, artifact)
        peer = reference.OnnxRuntime(files[against], num_threads=threads or 0)
        contenders[against] = lambda: peer.run(arrays)
        if not all(one.passed for one in compare.compare(own(arrays), peer.run(arrays))):
            raise UserError(
                "the outputs differ, so that times cannot be compared",
                hint="`nexusc verify` shows by how much",
            )
    timings = timing.alternate(contenders, rounds=rounds, seed=seed)
    grown = {
        name: footprint.measure(name, path, arrays, function=function.name, threads=threads or 0)
        for name, path in (files.items() if memory else ())
    }
    _show(timings, grown, as_json=as_json)


def _show(timings: list[Any], grown: dict[str, Any], *, as_json: bool) -> None:
    own = timings[0]
    rows = [
        (
            one.name,
            console.seconds(one.median),
            console.seconds(one.p99),
            f"{one.median / own.median:.2f}x",
            *map(console.size, msgspec.structs.astuple(grown[one.name]) if grown else ()),
        )
        for one in timings
    ]
    more = ("memory, loaded", "more for calls") if grown else ()
    head = ("", "median", "p99", "median over nexus", *more)
    value = {
        "timings": [msgspec.to_builtins(one) for one in timings],
        "memory": {name: msgspec.to_builtins(one) for name, one in grown.items()},
        "ratio": timings[1].median / own.median if len(timings) > 1 else None,
    }
    console.emit(value, console.table(head, rows), as_json=as_json)


def _find_source(opened: Artifact, artifact: Path) -> Path:
    said = opened.manifest.provenance
    for directory in (artifact.parent, Path()):
        path = directory / said.source_name
        if path.is_file() and _digest(path) == said.source_sha256:
            return path
    raise UserError(
        f"the source of the artifact, '{said.source_name}', is not here",
        hint="give it with --model",
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
