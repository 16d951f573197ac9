"""`nexusc verify`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from nexus_compiler.cli import console, options
from nexus_compiler.cli.loading import open_with_inputs


@click.command("verify")
@options.ARTIFACT
@click.option(
    "--against",
    required=True,
    type=click.Path(path_type=Path),
    metavar="MODEL.onnx",
    help="Run this model with ONNX Runtime on the same inputs.",
)
@options.inputs
@options.TARGET
@options.THREADS
@options.SEED
@options.JSON
def verify(
    artifact: Path,
    against: Path,
    given: tuple[str, ...],
    dims: tuple[str, ...],
    target: str | None,
    threads: int | None,
    seed: int,
    as_json: bool,
) -> int:
    """Compare ARTIFACT with ONNX Runtime; leave with 1 where they differ past the dtype's bound.

    Inputs that are not given are random.
    """
    from nexus_compiler.verify import compare, inputs, reference, runner

    opened, function, arrays = open_with_inputs(
        artifact, given=given, dims=dims, seed=seed, fill=inputs.RANDOM
    )
    peer = reference.OnnxRuntime(against)
    expected = peer.run(arrays)
    found = runner.open_function(opened, function, target=target, num_threads=threads)(arrays)
    differences = compare.compare(found, expected)
    passed = all(one.passed for one in differences)
    rows = [
        (
            one.output,
            one.dtype,
            list(one.shape),
            f"{one.max_abs:.2e}",
            f"{one.max_rel:.2e}",
            f"{one.bound:.1e}",
            "ok" if one.passed else "DIFFERS",
        )
        for one in differences
    ]
    head = ("output", "dtype", "shape", "max abs", "max rel", "bound", "")
    value = {"passed": passed, "outputs": [msgspec.to_builtins(one) for one in differences]}
    console.emit(value, console.table(head, rows), as_json=as_json)
    return 0 if passed else 1
