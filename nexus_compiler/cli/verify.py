"""`nexusc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from nexus_compiler.cli import console, options, proving
from nexus_compiler.cli.loading import open_with_inputs
from nexus_runtime.errors import UserError

_ARTIFACT = ".nxa"


@click.command("verify")
@click.argument("model")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="MODEL.onnx",
    help="Run this model with ONNX Runtime on the same inputs; an ONNX MODEL itself by default.",
)
@options.inputs
@options.TARGET
@options.THREADS
@options.SEED
@proving.choices
@options.store
@options.JSON
def verify(
    model: str,
    against: Path | None,
    given: tuple[str, ...],
    dims: tuple[str, ...],
    target: str | None,
    threads: int | None,
    seed: int,
    as_json: bool,
    **choices: Any,
) -> int:
    """Hold MODEL against a reference; leave with 1 where they differ past the dtype's bound.

    MODEL is an ONNX file or FILE.py:FUNCTION: its regions are checked one by one, but for those
    that have a proof in the store, and the whole end to end, if anything changed. An artifact
    (.nxa) is compared end to end with --against. Inputs that are not given are random.
    """
    if not model.endswith(_ARTIFACT):
        return proving.prove(
            model,
            target,
            choices,
            as_json=as_json,
            against=against,
            given=options.pairs(given, option="--input"),
            sizes=options.sizes(dims),
            seed=seed,
            num_threads=threads,
        )
    if against is None:
        raise UserError(
            f"{model} is compared end to end, and nothing says with what",
            hint="add --against MODEL.onnx, or verify the model itself, region by region",
        )
    proving.refuse(choices)
    return _artifact(Path(model), against, given, dims, target, threads, seed, as_json=as_json)


def _artifact(
    artifact: Path,
    against: Path,
    given: tuple[str, ...],
    dims: tuple[str, ...],
    target: str | None,
    threads: int | None,
    seed: int,
    *,
    as_json: bool,
) -> int:
    from nexus_compiler.verify import compare, inputs, reference, runner

    opened, function, arrays = open_with_inputs(
        artifact, given=given, dims=dims, seed=seed, fill=inputs.RANDOM
    )
    peer = reference.OnnxRuntime(against)
    expected = peer.run(arrays)
    found = runner.open_function(opened, function, target=target, num_threads=threads)(arrays)
    differences = compare.compare(found, expected)
    passed = all(one.passed for one in differences)
    value = {"passed": passed, "outputs": [msgspec.to_builtins(one) for one in differences]}
    console.emit(value, proving.outputs_table(differences), as_json=as_json)
    return 0 if passed else 1
