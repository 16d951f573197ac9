"""Changes around a model: of the target, of an option of a pass, of the version of a library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.passes.base import Pass
from nexus_compiler.targets import TargetSpec


class EditedRoom(LlvmRoom):
    """The room with one thing changed: a version, or an option of a pass."""

    def __init__(self, *, version: str = "", option: Pass | None = None) -> None:
        self._version, self._option = version, option

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """With another number for the library whose version was changed."""
        return tuple(
            (name, "0.0" if name == self._version else value) for name, value in super().versions
        )

    def graph_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """With the changed one in its place."""
        return self._with_option(super().graph_passes(target))

    def region_passes(self, target: TargetSpec) -> Sequence[Pass]:
        """With the changed one in its place."""
        return self._with_option(super().region_passes(target))

    def _with_option(self, passes: Sequence[Pass]) -> Sequence[Pass]:
        return tuple(
            self._option if self._option is not None and type(p) is type(self._option) else p
            for p in passes
        )


Around = Callable[[TargetSpec, Room], tuple[TargetSpec, Room]]


def limit(name: str, value: Any) -> Around:
    """Another limit of the target."""
    return lambda target, room: (
        msgspec.structs.replace(target, limits={**target.limits, name: value}),
        room,
    )


def flag(name: str, value: Any) -> Around:
    """Another option of the target's code generator."""
    return lambda target, room: (
        msgspec.structs.replace(target, options={**target.options, name: value}),
        room,
    )


def described(**fields: Any) -> Around:
    """Another field of the target, which no code follows from."""
    return lambda target, room: (msgspec.structs.replace(target, **fields), room)


def version(name: str) -> Around:
    """Another version of a library."""
    return lambda target, room: (target, EditedRoom(version=name))


def option(name: str, **fields: Any) -> Around:
    """Other options of the pass of the class `name`."""

    def edited(target: TargetSpec, room: Room) -> tuple[TargetSpec, Room]:
        passes = (*room.graph_passes(target), *room.region_passes(target))
        (step,) = [step for step in passes if type(step).__name__ == name]
        return target, EditedRoom(option=dataclasses.replace(step, **fields))

    return edited
