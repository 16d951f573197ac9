"""`nexusc watch`."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_compiler.cli import console, models, options
from nexus_compiler.cli.compile import check_output
from nexus_runtime.errors import NexusError

if TYPE_CHECKING:
    from nexus_compiler.session import Session

_INTERVAL = 0.05
"""Seconds between two looks at the files: less than anyone notices, and no load."""

Stamp = dict[Path, tuple[int, int]]


@click.command("watch")
@click.argument("model")
@click.option("--target", "targets", multiple=True, help="A target; give the option once for each.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write.")
@click.option("--once-changed", type=click.IntRange(min=1), help="End after so many saves.")
@options.SHAPE
@options.FREEZE
@options.store
@options.JSON
def watch(
    model: str,
    targets: tuple[str, ...],
    output: Path | None,
    once_changed: int | None,
    shapes: tuple[str, ...],
    frozen: tuple[str, ...],
    store_url: str | None,
    trust: tuple[Path, ...],
    sign: Path | None,
    as_json: bool,
) -> None:
    """Compile MODEL (an ONNX file, or FILE.py:FUNCTION) now and whenever it is saved.

    Files of the same folder that it imports are watched, too. One line a save tells what was
    rebuilt; what is wrong in the file is shown, and the last good artifact stays.
    """
    named = models.Named(model)
    output = output or named.path.with_suffix(".nxa")
    check_output(output, named.path)
    fixed = {
        "shapes": options.shapes(shapes),
        "constants": options.arrays(frozen, option="--freeze"),
    }
    from nexus_compiler import CompileOptions, Session
    from nexus_compiler.store.opening import open_store

    store = open_store(store_url, trust=trust, sign=sign)
    session = Session(targets or ("native",), options=CompileOptions(store=store))
    rounds = None if once_changed is None else once_changed + 1
    try:
        loop(named, session, output, fixed=fixed, as_json=as_json, rounds=rounds)
    finally:
        store.close()


def loop(
    named: models.Named,
    session: Session,
    output: Path,
    *,
    fixed: Mapping[str, Any] | None = None,
    as_json: bool = False,
    rounds: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Compile `named` to `output`, now and after every change of its files.

    Args:
        named: the model.
        session: compiles.
        output: the artifact, which is replaced in one step.
        fixed: `shapes` and `constants` of the inputs, as `Session.compile` takes them.
        as_json: a line of JSON for each round.
        rounds: how often, in all; None: until the process ends.
        sleep: waits so many seconds.
    """
    done = 0
    while True:
        # Before the files are read: a save meanwhile is the next round's.
        before = stamps(named.files)
        value, text = _round(named, session, output, fixed or {})
        console.emit(value, text, as_json=as_json, flush=True)
        done += 1
        if rounds is not None and done >= rounds:
            return
        # Files that this round was the first to read.
        before = {**stamps(named.files), **before}
        while not changed(before, stamps(named.files)):
            sleep(_INTERVAL)


def stamps(files: Collection[Path]) -> Stamp:
    """Time of change and size of each file that is there."""
    found: Stamp = {}
    for path in files:
        try:
            status = path.stat()
        except OSError:  # editors take a file away for a moment
            continue
        found[path] = (status.st_mtime_ns, status.st_size)
    return found


def changed(before: Stamp, now: Stamp) -> bool:
    """Whether a file that is there now is not what it was, or was not there."""
    return any(before.get(path) != stamp for path, stamp in now.items())


def _round(
    named: models.Named, session: Session, output: Path, fixed: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """One compile: what to tell of it, as data and as text."""
    begin = time.perf_counter()
    try:
        given = named.make()
        artifact = session.compile(
            given.model, args=given.args, kwargs=given.kwargs or None, **fixed
        )
        artifact.save(output)
    except NexusError as error:
        hint = f"\n  hint: {error.hint}" if error.hint else ""
        return {"error": error.message, "hint": error.hint}, f"error: {error.message}{hint}"
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}"
        return {"error": told, "hint": ""}, _trace(error)
    seconds = time.perf_counter() - begin
    made = session.rebuilt
    assert made is not None  # it has just compiled
    value = {
        "output": str(output),
        "sha256": artifact.digest,
        "regions": made.regions,
        "regions_rebuilt": list(made.lowered),
        "kernels": made.kernels,
        "kernels_rebuilt": list(made.built),
        "seconds": round(seconds, 3),
    }
    text = (
        f"{output}: rebuilt {len(made.lowered)} of {made.regions} regions, "
        f"{len(made.built)} of {made.kernels} kernels in {seconds:.2f} s"
    )
    return value, text


def _trace(error: BaseException) -> str:
    """The traceback from the user's own file on; all of it where that is not in it."""
    here = str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    while frames and (frames[0].filename.startswith((here, "<frozen"))):
        frames.pop(0)
    if not frames:
        return "".join(traceback.format_exception(error))
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
    return "Traceback (most recent call last):\n" + "".join(lines)
