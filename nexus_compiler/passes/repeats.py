"""Finds what a sequence of steps repeats: the layers of a network.

Layers are equal when they take equal steps in the same order and hand tensors on in the same way,
whatever they are called and whichever weights they use. What comes from outside of a layer may
come from anywhere, so that the first of many equal layers is like the others.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import relax, tirx

from nexus_compiler.ir.dataflow import Key, Size


@dataclass(frozen=True, eq=False)
class Shape:
    """What equal steps have in common: one object, and how many operators they are."""

    operators: int


@dataclass(frozen=True, eq=False)
class Step:
    """A piece of a function: its shape, what it reads and makes there, and open sizes of these."""

    shape: Shape
    inputs: Sequence[relax.Var]
    weights: Sequence[relax.Var]
    outputs: Sequence[relax.Var]
    sizes: Mapping[relax.Var, Sequence[Size]]


Steps = Sequence[Step | None]
"""All of a function, in order; None is what can be in no layer."""
_Places = dict[Shape, list[int]]
"""Where steps of a shape stand."""


@dataclass(eq=False)
class Window:
    """Neighbouring steps of one layer: where it begins, and what it reads from outside.

    Windows of one key are equal.
    """

    start: int
    shapes: tuple[Shape, ...]
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

    def handed_out(self, steps: Steps, window: Window) -> list[relax.Var]:
        """The variables that `window` makes for others."""
        return [_present(steps, window.start + i).outputs[output] for i, output in self.outputs]


def repeats(
    steps: Steps,
    *,
    least_nodes: int,
    least_times: int,
    used: Mapping[relax.Var, set[int]],
) -> list[Repeat]:
    """The layers that come twice in a row somewhere, and at least `least_times` in all.

    Args:
        steps: the pieces of a function, in order.
        least_nodes: operators that a layer must have.
        least_times: how often it must come.
        used: for each variable, the steps that read it (-1: what is no step reads it).
    """
    free: list[Step | None] = list(steps)
    found: list[Repeat] = []
    for run in sorted(_runs(steps, least_nodes), key=lambda run: -len(run) * len(run[0].key)):
        length = len(run[0].key)
        windows = _everywhere(free, run[0])
        if len(windows) >= max(2, least_times):
            for window in windows:
                free[window.start : window.start + length] = [None] * length
            found.append(Repeat(length, windows))
    for repeat in found:
        repeat.outputs = _outputs(steps, repeat, used)
    return sorted(found, key=lambda repeat: repeat.windows[0].start)


def _runs(steps: Steps, least_nodes: int) -> list[list[Window]]:
    """Equal windows that follow upon each other, at least two."""
    places: _Places = {}
    for place, step in enumerate(steps):
        if step is not None:
            places.setdefault(step.shape, []).append(place)
    runs: list[list[Window]] = []
    place = 0
    while place < len(steps):
        windows = _longest(steps, places, place, least_nodes)
        if windows:
            runs.append(windows)
            place = windows[-1].start + len(windows[0].key)
        else:
            place += 1
    return runs


def _everywhere(steps: Steps, like: Window) -> list[Window]:
    """All windows equal to `like`, without overlaps: an edit of one layer cuts a run in two."""
    length = len(like.shapes)
    windows: list[Window] = []
    place = 0
    while place + length <= len(steps):
        window = _window(steps, place, length) if _begins(steps, place, like.shapes) else None
        if window is not None and window.key == like.key:
            windows.append(window)
            place += length
        else:
            place += 1
    return windows


def _begins(steps: Steps, start: int, shapes: Sequence[Shape]) -> bool:
    """Whether steps of `shapes` stand at `start`."""
    found = steps[start : start + len(shapes)]
    return len(found) == len(shapes) and all(
        step is not None and step.shape is shape for step, shape in zip(found, shapes)
    )


def _longest(steps: Steps, places: _Places, start: int, least_nodes: int) -> list[Window]:
    """The equal windows from `start` on that cover most; the shortest length of those."""
    best, covered = list[Window](), 0
    for length in _periods(steps, places, start):
        if _size(steps[start : start + length]) < least_nodes:
            continue
        first = _window(steps, start, length)
        windows = [first]
        while _begins(steps, following := start + len(windows) * length, first.shapes):
            window = _window(steps, following, length)
            if window.key != first.key:
                break
            windows.append(window)
        if len(windows) > 1 and len(windows) * length > covered:
            best, covered = windows, len(windows) * length
    return best


def _periods(steps: Steps, places: _Places, start: int, most: int = 4) -> list[int]:
    """Distances to the next places where the step at `start` comes again."""
    step = steps[start]
    if step is None:
        return []
    same = places[step.shape]
    first = bisect.bisect_right(same, start)
    distances = [place - start for place in same[first : first + most]]
    # Between the two there is one window, which nothing may interrupt.
    return [length for length in distances if None not in steps[start : start + length]]


def _present(steps: Steps, place: int) -> Step:
    step = steps[place]
    assert step is not None  # a window has no holes
    return step


def _size(steps: Steps) -> int:
    return sum(step.shape.operators for step in steps if step is not None)


def _window(steps: Steps, start: int, length: int) -> Window:
    """The steps from `start` on, with variables numbered in the order in which they are met."""
    names: dict[relax.Var, Hashable] = {}
    sizes: dict[tirx.Var, int] = {}
    taken = [_present(steps, start + place) for place in range(length)]
    window = Window(start, tuple([step.shape for step in taken]), (), [], [])
    rows: list[Key] = []
    for place, step in enumerate(taken):
        row: list[Hashable] = [id(step.shape)]
        for own, variables in ((window.inputs, step.inputs), (window.weights, step.weights)):
            for variable in variables:
                if variable not in names:
                    names[variable] = (own is window.weights, len(own))
                    own.append(variable)
                open_ = step.sizes.get(variable, ())
                row.append((names[variable], _numbers(open_, sizes)))
        for output, variable in enumerate(step.outputs):
            names[variable] = ("step", place, output)
        rows.append(tuple(row))
    window.key = tuple(rows)
    return window


def _numbers(sizes: Sequence[Size], numbers: dict[tirx.Var, int]) -> Key:
    """Which open sizes of a layer's tensors are the same."""
    return tuple(
        [(s.text, *[numbers.setdefault(v, len(numbers)) for v in s.variables]) for s in sizes]
    )


def _outputs(
    steps: Steps, repeat: Repeat, used: Mapping[relax.Var, set[int]]
) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for window in repeat.windows:
        inside = set(range(window.start, window.start + repeat.length))
        for place in range(repeat.length):
            step = _present(steps, window.start + place)
            for output, variable in enumerate(step.outputs):
                if not used.get(variable, set()) <= inside:
                    found.add((place, output))
    return sorted(found)
