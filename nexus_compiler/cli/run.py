"""`nexusc run`."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np

from nexus_compiler.cli import console, options
from nexus_compiler.cli.loading import open_with_inputs
from nexus_runtime import files


@click.command("run")
@options.ARTIFACT
@options.inputs
@click.option("--output", type=click.Path(path_type=Path), help="Write all outputs to this .npz.")
@options.TARGET
@options.FUNCTION
@options.THREADS
@options.SEED
@options.JSON
def run(
    artifact: Path,
    given: tuple[str, ...],
    dims: tuple[str, ...],
    output: Path | None,
    target: str | None,
    function_name: str | None,
    threads: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run ARTIFACT once and show its outputs."""
    from nexus_compiler.verify import runner

    opened, function, arrays = open_with_inputs(
        artifact, given=given, dims=dims, seed=seed, function_name=function_name
    )
    call = runner.open_function(opened, function, target=target, num_threads=threads)
    results = call(arrays)
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **results)  # pyright: ignore[reportArgumentType]
        files.write_atomically(output, buffer.getvalue())
        console.say(f"wrote {output}")
    rows = [(name, a.dtype.name, list(a.shape), *_range(a)) for name, a in results.items()]
    summary = [dict(zip(("name", "dtype", "shape", "min", "max"), row)) for row in rows]
    text = console.table(("output", "dtype", "shape", "min", "max"), rows)
    console.emit({"outputs": summary}, text, as_json=as_json)


def _range(array: np.ndarray) -> tuple[float | None, float | None]:
    return (float(array.min()), float(array.max())) if array.size else (None, None)
