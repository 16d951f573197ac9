"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from nexus_runtime.errors import ShapeError, UserError

ARTIFACT = click.argument("artifact", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
TARGET = click.option("--target", help="The module for this target; by default the best that fits.")
THREADS = click.option("--threads", type=click.IntRange(min=1), help="Threads of one call.")
FUNCTION = click.option("--function", "function_name", help="The function; by default main.")
SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=D,D,...",
    help="Fix the shape of an input; ? keeps a dimension open.",
)
FREEZE = click.option(
    "--freeze",
    "frozen",
    multiple=True,
    metavar="NAME=FILE.npy",
    help="Make an input a constant of this value.",
)
SEED = click.option("--seed", default=0, show_default=True, help="Made-up inputs follow from it.")


def store(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`, `--trust` and `--sign`."""
    command = click.option(
        "--sign",
        type=click.Path(path_type=Path),
        help="Sign what is built with this private key, and share it.  [NEXUS_STORE_SIGN]",
    )(command)
    command = click.option(
        "--trust",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Use what these public keys have signed.  [NEXUS_STORE_TRUST]",
    )(command)
    return click.option(
        "--store",
        "store_url",
        metavar="URL",
        help="A store shared with others: file:, s3:, gs:, http:, nexus:.  [NEXUS_STORE]",
    )(command)


def inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--input` and `--dim`."""
    command = click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        help="Size of an open dimension of made-up inputs; 1 by default.",
    )(command)
    return click.option(
        "--input",
        "given",
        multiple=True,
        metavar="NAME=FILE.npy|random[:LOW:HIGH]",
        help="An input; give the option once for each.",
    )(command)


def pairs(values: Sequence[str], *, option: str) -> dict[str, str]:
    """`NAME=VALUE` each.

    Raises:
        UserError: one is not of this form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise UserError(f"{option} {value}: it must be NAME=VALUE")
        if name in found:
            raise UserError(f"{option}: '{name}' is given twice")
        found[name] = rest
    return found


def arrays(values: Sequence[str], *, option: str) -> dict[str, np.ndarray]:
    """`NAME=FILE.npy` each.

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    for name, text in pairs(values, option=option).items():
        try:
            found[name] = np.load(Path(text), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{option} {name}={text}: it cannot be read: {error}") from error
    return found


def sizes(values: Sequence[str]) -> dict[str, int]:
    """`--dim NAME=SIZE` each.

    Raises:
        UserError: a size is no whole number.
    """
    found: dict[str, int] = {}
    for name, text in pairs(values, option="--dim").items():
        if not text.isdecimal():
            raise UserError(f"--dim {name}={text}: the size must be a whole number")
        found[name] = int(text)
    return found


def shapes(values: Sequence[str]) -> dict[str, tuple[int | str | None, ...]]:
    """`--shape NAME=1,3,48,192` each; `?` keeps a dimension as the model has it, a name renames it.

    Raises:
        ShapeError: a dimension is neither a whole number above 0, nor `?`, nor a name.
    """
    return {
        name: tuple(_dim(name, part) for part in _parts(text))
        for name, text in pairs(values, option="--shape").items()
    }


def _parts(text: str) -> list[str]:
    # 1x3x224x224 is what many people write; an x within a name is left alone.
    return text.split("x" if re.fullmatch(r"[\d?]+(x[\d?]+)+", text) else ",")


def _dim(name: str, text: str) -> int | str | None:
    part = text.strip()
    if part == "?":
        return None
    if part.isdecimal() and int(part) > 0:
        return int(part)
    if part.isidentifier():
        return part
    raise ShapeError(
        f"--shape {name}: '{part}' is no dimension",
        hint="write whole numbers above 0, ? or names: --shape x=1,3,48,192",
    )
