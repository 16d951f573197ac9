"""`nexusc verify` of models: its options, and how it tells what is proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from nexus_compiler.cli import console, models, options
from nexus_runtime.errors import UserError

if TYPE_CHECKING:
    from nexus_compiler.verify.compare import Difference
    from nexus_compiler.verify.report import FunctionVerdict, RegionVerdict, Report

_NAMES = {
    "shapes": "--shape",
    "frozen": "--freeze",
    "everything": "--all",
    "regions_only": "--regions-only",
    "store_url": "--store",
    "trust": "--trust",
    "sign": "--sign",
}

_INPUTS = (
    "hint: inputs that are not given are random, whole numbers from 0 to 9; where they are classes "
    "or places, say so: --input labels=random:0:3"
)
_BETWEEN = (
    "hint: every region agrees: what differs lies between them (import, passes over whole graphs, "
    "plan of memory), or a value that was rounded the other way went on through the model"
)
_WIDEST = 40


def choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that only models have."""
    for option in (
        click.option(
            "--regions-only", is_flag=True, help="Do not compare the whole model end to end."
        ),
        click.option("--all", "everything", is_flag=True, help="Take no proof for granted."),
        options.FREEZE,
        options.SHAPE,
    ):
        command = option(command)
    return command


def refuse(given: Mapping[str, Any]) -> None:
    """Refuse options that artifacts do not have.

    Raises:
        UserError: one was given.
    """
    for name, option in _NAMES.items():
        if given[name]:
            raise UserError(
                f"{option} is for models, and an artifact is compared end to end",
                hint="name the model that it was compiled from",
            )


def prove(
    model: str, target: str | None, chosen: Mapping[str, Any], *, as_json: bool, **how: Any
) -> int:
    """Verify the model named `model`; the exit status is 1 where something differs."""
    named = models.Named(model)
    shapes = options.shapes(chosen["shapes"])
    constants = options.arrays(chosen["frozen"], option="--freeze")
    from nexus_compiler import CompileOptions
    from nexus_compiler.store.opening import open_store
    from nexus_compiler.verify.api import verify
    from nexus_compiler.verify.report import DIFFERS

    given = named.make()
    store = open_store(chosen["store_url"], trust=chosen["trust"], sign=chosen["sign"])
    with console.progress() as progress:
        report = verify(
            given.model,
            args=given.args,
            kwargs=given.kwargs or None,
            target=target or "native",
            shapes=shapes,
            constants=constants,
            everything=chosen["everything"],
            end_to_end=not chosen["regions_only"],
            options=CompileOptions(store=store, progress=progress),
            **how,
        )
    store.close()
    value = {"passed": report.passed, **msgspec.to_builtins(report)}
    console.emit(value, _text(report), as_json=as_json)
    if not report.passed:
        console.say(_INPUTS if report.count(DIFFERS) or not report.regions else _BETWEEN)
    return 0 if report.passed else 1


def outputs_table(differences: Sequence[Difference]) -> str:
    """How far outputs are from a reference."""
    head = ("output", "dtype", "shape", "max abs", "max rel", "bound", "")
    rows = [
        (one.output, one.dtype, list(one.shape), *_figures(one), "ok" if one.passed else "DIFFERS")
        for one in differences
    ]
    return console.table(head, rows)


def _figures(one: Difference) -> tuple[str, str, str]:
    return f"{one.max_abs:.2e}", f"{one.max_rel:.2e}", f"{one.bound:.1e}"


def _text(report: Report) -> str:
    from nexus_compiler.verify import report as told

    parts: list[str] = []
    if report.regions:
        head = ("region", "places", "where", "operators", "max rel", "bound", "reference")
        parts.append(console.table(head, [_row(one) for one in report.regions]))
    for one in report.functions:
        parts.append(_function(one))
    names = (told.PROVED, told.INHERITED, told.DIFFERS, told.UNCHECKED)
    counts = ", ".join(f"{n} {name}" for name in names if (n := report.count(name)))
    verdict = "verified" if report.passed else "NOT VERIFIED"
    regions = f": of {len(report.regions)} regions {counts}" if report.regions else ""
    if report.regions and report.loose:
        named = ", ".join(report.loose[:3]) + (", …" if len(report.loose) > 3 else "")
        parts.append(f"in no region, so that only the whole says something of them: {named}")
    times = [console.seconds(one) for one in (report.build_seconds, report.seconds)]
    parts.append(f"{report.target}: {verdict}{regions}; built in {times[0]}, checked in {times[1]}")
    return "\n\n".join(parts)


def _row(one: RegionVerdict) -> tuple[object, ...]:
    worst = max(one.outputs, key=lambda o: (not o.passed, o.max_rel), default=None)
    figures = _figures(worst)[1:] if worst is not None else ("-", "-")
    status = one.status.upper() if one.status == "differs" else one.status
    operators = " ".join(one.operators[:4]) + (" …" if len(one.operators) > 4 else "")
    origin = one.origin if len(one.origin) <= _WIDEST else f"{one.origin[: _WIDEST - 1]}…"
    where = f"{origin} at {one.location}" if one.location else origin
    return (status, one.places, where, operators, *figures, one.reference or one.reason)


def _function(one: FunctionVerdict) -> str:
    head = f"{one.function} end to end, against {one.reference}: {one.status}"
    if one.reason:
        return f"{head} ({one.reason})"
    return f"{head}\n{outputs_table(one.outputs)}"
