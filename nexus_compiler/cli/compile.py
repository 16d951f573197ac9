"""`nexusc compile`."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_compiler.cli import console, models, options, planning
from nexus_runtime.errors import UserError

if TYPE_CHECKING:
    from nexus_runtime.artifact import Artifact


@click.command("compile")
@click.argument("model")
@click.option("--target", "targets", multiple=True, help="A target; give the option once for each.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write.")
@options.SHAPE
@options.FREEZE
@click.option("--jobs", type=click.IntRange(min=1), help="Objects built at once; one a core.")
@click.option(
    "--dump-ir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the module after each pass to this directory.",
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Say what would be built, and why; build nothing."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Tell the plan's reasons against this artifact; by default the one to be replaced.",
)
@click.option(
    "--max-rebuilds",
    type=click.IntRange(min=0),
    help="With --plan: leave with 1 where more regions would be built.",
)
@click.option(
    "--tune",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Measure for so long which kernels are the fastest here; 0: heed what was measured.",
)
@options.store
@options.JSON
def compile_(
    model: str,
    targets: tuple[str, ...],
    output: Path | None,
    shapes: tuple[str, ...],
    frozen: tuple[str, ...],
    jobs: int | None,
    dump_ir: Path | None,
    only_plan: bool,
    against: Path | None,
    max_rebuilds: int | None,
    tune: float | None,
    store_url: str | None,
    trust: tuple[Path, ...],
    sign: Path | None,
    as_json: bool,
) -> int:
    """Compile MODEL (an ONNX file, or FILE.py:FUNCTION) for every --target and write one artifact.

    Without --target it is built for this machine.
    """
    if not only_plan and (against is not None or max_rebuilds is not None):
        raise UserError("--against and --max-rebuilds belong to --plan")
    named = models.Named(model)
    output = output or named.path.with_suffix(".nxa")
    check_output(output, named.path)
    wanted, constants = options.shapes(shapes), options.arrays(frozen, option="--freeze")
    from nexus_compiler import CompileOptions, compile, plan
    from nexus_compiler.store.opening import open_store

    begin = time.perf_counter()
    given = named.make()
    store = open_store(store_url, trust=trust, sign=sign)
    settings: dict[str, Any] = {"store": store, "tune": tune}
    settings["hooks"] = [_dump_hook(dump_ir)] if dump_ir else []
    if jobs:
        settings["jobs"] = jobs
    if only_plan:
        plans = plan(
            given.model,
            args=given.args,
            kwargs=given.kwargs or None,
            targets=targets or ("native",),
            against=planning.earlier(against, output),
            shapes=wanted,
            constants=constants,
            options=CompileOptions(**settings),
        )
        store.close()
        return planning.emit(plans, max_rebuilds, as_json=as_json)
    with console.progress() as progress:
        settings["progress"] = progress
        artifact = compile(
            given.model,
            args=given.args,
            kwargs=given.kwargs or None,
            targets=targets or ("native",),
            shapes=wanted,
            constants=constants,
            options=CompileOptions(**settings),
        )
    artifact.save(output)
    store.close()
    _told(artifact, output, time.perf_counter() - begin, as_json=as_json)
    return 0


def _told(artifact: Artifact, output: Path, seconds: float, *, as_json: bool) -> None:
    written = output.stat().st_size
    result = {
        "output": str(output),
        "bytes": written,
        "sha256": artifact.digest,
        "seconds": round(seconds, 3),
        "targets": [
            {"name": entry.target, "objects": len(entry.objects)}
            for entry in artifact.manifest.modules
        ],
    }
    names = ", ".join(entry.target for entry in artifact.manifest.modules)
    text = f"{output}: {console.size(written)} for {names} in {seconds:.2f} s"
    console.emit(result, text, as_json=as_json)


def check_output(output: Path, model: Path) -> None:
    """Refuse what cannot be written.

    Raises:
        UserError: with the reason.
    """
    # Found out now and not after minutes of building.
    parent = output.parent
    if not parent.is_dir():
        raise UserError(f"cannot write {output}: there is no directory {parent}")
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {output}: {parent} is read-only")
    if output.is_dir():
        raise UserError(f"cannot write {output}: it is a directory")
    if output.exists() and model.exists() and output.samefile(model):
        raise UserError(f"{output} is the model itself", hint="choose another name with -o")


def _dump_hook(directory: Path) -> Any:
    directory.mkdir(parents=True, exist_ok=True)

    numbers = itertools.count()

    def dump(position: int, step: Any, module: Any, seconds: float) -> None:
        # Numbered over the whole build: the common passes first, then those of each target.
        path = directory / f"{next(numbers):02d}-{step.name}.py"
        path.write_text(module.script(), encoding="utf-8")

    return dump
