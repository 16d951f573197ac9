"""Finds what a sequence of region calls repeats: the layers of a network.

Layers are equal when they call equal regions in the same order and hand tensors on in the same way,
whatever they are called and whichever weights they use. What comes from outside of a layer may
come from anywhere, so that the first of many equal layers is like the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import relax, tirx

from nexus_compiler.ir.dataflow import Key, kind_of, sizes_in
from nexus_compiler.ir.region import Occurrence

Step = Occurrence | None
"""A call of a region; None is anything else."""


@dataclass(eq=False)
class Window:
    """Neighbouring steps of one layer: where it begins, and what it reads from outside."""

    start: int
    key: Key
    inputs: list[relax.Var]
    weights: list[relax.Var]


@dataclass
class Repeat:
    """Equal layers.

    Attributes:
        length: steps of one layer.
        windows: where they stand, in order.
        outputs: what any of them hands out: (step within the layer, output of this step).
    """

    length: int
    windows: list[Window]
    outputs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


def repeats(
    steps: Sequence[Step],
    *,
    least_nodes: int,
    least_times: int,
    used: Mapping[relax.Var, set[int]],
) -> list[Repeat]:
    """The layers that come at least `least_times` in a row, without overlaps.

    Args:
        steps: the calls, in order.
        least_nodes: operators that a layer must have.
        least_times: how often it must come in a row, at least twice.
        used: for each variable, the steps that read it (-1: what is no step reads it).
    """
    found: dict[Key, Repeat] = {}
    place = 0
    while place < len(steps):
        windows = _longest(steps, place, least_nodes)
        if len(windows) < max(2, least_times):
            # What begins within a run that is too short is another cut of the same run.
            place += max(1, (len(windows) - 1) * (len(windows[0].key) if windows else 0))
            continue
        length = len(windows[0].key)
        found.setdefault(windows[0].key, Repeat(length, [])).windows.extend(windows)
        place = windows[-1].start + length
    for repeat in found.values():
        repeat.outputs = _outputs(steps, repeat, used)
    return list(found.values())


def _longest(steps: Sequence[Step], start: int, least_nodes: int) -> list[Window]:
    """The equal windows from `start` on that cover most; the shortest length of those."""
    best, covered = list[Window](), 0
    for length in _periods(steps, start):
        if _size(steps[start : start + length]) < least_nodes:
            continue
        first = _window(steps, start, length)
        windows = [first]
        while True:
            following = start + len(windows) * length
            if not _alike(steps, start, following, length):
                break
            window = _window(steps, following, length)
            if window.key != first.key:
                break
            windows.append(window)
        if len(windows) > 1 and len(windows) * length > covered:
            best, covered = windows, len(windows) * length
    return best


def _periods(steps: Sequence[Step], start: int, most: int = 4) -> list[int]:
    """Distances to the next places where the step at `start` comes again."""
    head, found = steps[start], list[int]()
    if head is None:
        return found
    for place in range(start + 1, (start + len(steps)) // 2 + 1):
        step = steps[place]
        if step is None:
            break
        if step.region is head.region:
            found.append(place - start)
            if len(found) == most:
                break
    return found


def _alike(steps: Sequence[Step], one: int, other: int, length: int) -> bool:
    if other + length > len(steps):
        return False
    for offset in range(length):
        here, there = steps[one + offset], steps[other + offset]
        if here is None or there is None or here.region is not there.region:
            return False
    return True


def _size(steps: Sequence[Step]) -> int:
    return sum(len(step.region.operators) for step in steps if step is not None)


def _window(steps: Sequence[Step], start: int, length: int) -> Window:
    """The steps from `start` on, with variables numbered in the order in which they are met."""
    names: dict[relax.Var, Hashable] = {}
    sizes: dict[tirx.Var, int] = {}
    window = Window(start, (), [], [])
    rows: list[Key] = []
    for place in range(length):
        step = steps[start + place]
        assert step is not None  # `_alike` has looked
        row: list[Hashable] = [id(step.region)]
        for own, variables in ((window.inputs, step.inputs), (window.weights, step.weights)):
            for variable in variables:
                if variable not in names:
                    names[variable] = (own is window.weights, len(own))
                    own.append(variable)
                row.append((names[variable], _sizes(variable, sizes)))
        for output, variable in enumerate(step.outputs):
            names[variable] = ("step", place, output)
        rows.append(tuple(row))
    window.key = tuple(rows)
    return window


def _sizes(variable: relax.Var, numbers: dict[tirx.Var, int]) -> Key:
    """Which open sizes of a layer's tensors are the same."""
    return tuple(
        [
            (size.text, *[numbers.setdefault(v, len(numbers)) for v in size.variables])
            for size in sizes_in(kind_of(variable.ty))
        ]
    )


def _outputs(
    steps: Sequence[Step], repeat: Repeat, used: Mapping[relax.Var, set[int]]
) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for window in repeat.windows:
        inside = set(range(window.start, window.start + repeat.length))
        for place in range(repeat.length):
            step = steps[window.start + place]
            assert step is not None
            for output, variable in enumerate(step.outputs):
                if not used.get(variable, set()) <= inside:
                    found.add((place, output))
    return sorted(found)
