"""The targets that Nexus can build for: one TOML file each, data and not code.

The files ship as package data (`nexus_targets`); every directory in `NEXUS_TARGETS_PATH` adds a
user's own, which win over ours by name. `kind` names the room in `codegen/` that builds for the
target, and the table of that name holds what only this room understands.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from nexus_runtime.errors import TargetError, nearest

SCHEMA = 1


class Requires(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine must have to run the module; the runtime checks it before loading."""

    machine: str = ""
    cpu_features: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a module of the target is checked where there is no such device.

    `level` is `run` (on this machine), `emulate` (another instruction set) or `source` (read only).
    For `emulate`: the program, the CPU that it plays, and where the device's C libraries are.
    """

    level: str
    emulator: str = ""
    cpu: str = ""
    sysroot: str = ""


class TargetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One concrete target, as its TOML file describes it.

    Attributes:
        name: what `--target` takes.
        kind: the room in `codegen/` that builds it.
        rank: of several modules that fit a machine, the one of highest rank is loaded.
        options: the room's own table (instruction set, platforms, ...); a factor of every key.
        limits: registers, vector bits, dtypes: what schedules follow from; a factor of every key.
        toolchain: programs that the build needs; found at build time, not a factor.
    """

    name: str
    kind: str
    description: str
    rank: int
    options: dict[str, Any]
    requires: Requires
    check: Check
    limits: dict[str, Any] = {}
    toolchain: dict[str, Any] = {}

    def factors(self) -> tuple[tuple[str, str], ...]:
        """The named factors by which this target changes the code that is built."""
        encode = functools.partial(msgspec.json.encode, order="deterministic")
        return (
            ("target.kind", self.kind),
            ("target.options", encode(self.options).decode()),
            ("target.limits", encode(self.limits).decode()),
        )


def from_factors(factors: Mapping[str, str]) -> TargetSpec:
    """The target that gave these factors, with what matters to the code and nothing else.

    Raises:
        TargetError: they are no target's.
    """
    try:
        return TargetSpec(
            name="",
            kind=factors["target.kind"],
            description="from the factors of an object",
            rank=0,
            options=msgspec.json.decode(factors["target.options"], type=dict[str, Any]),
            requires=Requires(),
            check=Check(level=""),
            limits=msgspec.json.decode(factors["target.limits"], type=dict[str, Any]),
        )
    except (KeyError, msgspec.DecodeError) as error:
        raise TargetError(f"these factors are of no target: {error}") from error


def load_all() -> dict[str, TargetSpec]:
    """Every known target by name, in the order of their names.

    Raises:
        TargetError: a file is no TOML, or a field of it is missing, unknown or of a wrong type.
    """
    found: dict[str, TargetSpec] = {}
    for directory in _directories():
        for entry in sorted(directory.iterdir(), key=lambda e: e.name):
            if entry.name.endswith(".toml"):
                spec = parse(entry.read_text(encoding="utf-8"), origin=entry.name)
                found[spec.name] = spec
    return dict(sorted(found.items()))


def load(name: str) -> TargetSpec:
    """The target called `name`.

    Raises:
        TargetError: there is none; the hint has the nearest names.
    """
    known = load_all()
    if name not in known:
        raise TargetError(
            f"unknown target '{name}'",
            hint=f"{nearest(name, known)} (`nexusc targets` lists them all)",
        )
    return known[name]


def parse(text: str, *, origin: str) -> TargetSpec:
    """Read one target file.

    Raises:
        TargetError: as for `load_all`; the message names `origin` and the field.
    """
    try:
        table = tomllib.loads(text)
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise TargetError(f"{origin}: schema is {schema!r}, but this release reads {SCHEMA}")
        table["options"] = table.pop(str(table.get("kind")), {})
        return msgspec.convert(table, TargetSpec)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{origin} is no TOML file: {error}") from error
    except msgspec.ValidationError as error:
        raise TargetError(f"{origin} is no target: {error}") from error


def _directories() -> list[Any]:
    users = os.environ.get("NEXUS_TARGETS_PATH", "")
    paths = [Path(part) for part in users.split(os.pathsep) if part]
    for path in paths:
        if not path.is_dir():
            raise TargetError(
                f"NEXUS_TARGETS_PATH names {path}, which is no directory",
                hint="correct or unset NEXUS_TARGETS_PATH",
            )
    return [resources.files("nexus_targets"), *paths]


def host_table(spec: TargetSpec) -> Mapping[str, Any]:
    """What the manifest says of the target: enough for the runtime to choose and to refuse."""
    return {"rank": spec.rank, "requires": msgspec.to_builtins(spec.requires)}
