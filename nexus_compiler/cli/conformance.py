"""`nexusc conformance`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from nexus_compiler.cli import console, options
from nexus_runtime import files
from nexus_runtime.errors import UserError


@click.group("conformance")
def conformance() -> None:
    """Hold the compiler against the tests of a standard."""


@conformance.command("onnx")
@click.option("--filter", "pattern", default="", metavar="RE", help="Cases or operators like this.")
@click.option(
    "--against",
    type=click.Choice(["onnxruntime", "tvm"]),
    multiple=True,
    help="Let this peer run every case, too: TVM's is its own importer. May be repeated.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one a core.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds for one case.",
)
@click.option("--failures", is_flag=True, help="List what does not pass, and why.")
@click.option(
    "--write-docs",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.md",
    help="Write the result as a page, too.",
)
@options.JSON
def onnx_(
    pattern: str,
    against: tuple[str, ...],
    jobs: int | None,
    timeout: float,
    failures: bool,
    write_docs: Path | None,
    as_json: bool,
) -> None:
    """Run the tests of single operators that come with ONNX.

    Each goes through capture, compile, load and run. The exit status is 0 whatever they show.
    """
    from nexus_compiler.verify.conformance import cases, report
    from nexus_compiler.verify.conformance.runner import Runner
    from nexus_compiler.verify.conformance.worker import OURS

    chosen = cases.select(pattern)
    if not chosen:
        raise UserError(f"no case matches --filter {pattern}", hint="try an operator: --filter Add")
    with console.progress() as progress:
        runner = Runner(
            jobs=jobs or len(os.sched_getaffinity(0)),
            timeout=timeout,
            progress=progress,
        )
        found = runner.run([case.name for case in chosen], [OURS, *dict.fromkeys(against)])
    result = report.value({case.name: case.operator for case in chosen}, found)
    if write_docs:
        _write(write_docs, result)
    text = console.table(report.head(result), report.rows(result))
    if failures and (failed := report.failures(result)):
        text += "\n\n" + console.table(("case", "verdict", "reason"), failed)
    console.emit(result, text, as_json=as_json)


def _write(path: Path, result: Any) -> None:
    import onnx

    from nexus_compiler.verify.conformance import report

    files.write_atomically(path, report.document(result, onnx.__version__).encode())
