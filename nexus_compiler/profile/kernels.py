"""The kernels of one call: how long each takes, and how long it would at least."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence

import msgspec

from nexus_compiler.profile.roofline import Roofline
from nexus_runtime import work
from nexus_runtime.executors.base import CallTime
from nexus_runtime.work import Kernel, Work


class KernelTime(msgspec.Struct, frozen=True):
    """One kernel with one set of shapes, over all of its calls in one run of the function.

    Attributes:
        name: in the module.
        label: its operators.
        family: the schedule that shaped it.
        shapes: its arguments, inputs before outputs.
        dtype: of most of its arithmetic.
        calls: in one run.
        seconds: of all calls in one run; medians over the runs, summed.
        share: of the time of all kernels.
        flops: of one call; None: not known.
        bytes: of one call; None: not known.
        gflops: 10^9 operations a second.
        gbytes: 10^9 bytes a second.
        roofline: the least time that the machine allows over the time taken, at most about 1.
        bound: "compute" or "memory", whichever sets the least time.
    """

    name: str
    label: str
    family: str
    shapes: tuple[str, ...]
    dtype: str
    calls: int
    seconds: float
    share: float
    flops: int | None
    bytes: int | None
    gflops: float | None
    gbytes: float | None
    roofline: float | None
    bound: str


_UNKNOWN = Kernel(label="?", family="?", shapes=(), dtype="", flops=None, bytes=None)
_Place = tuple[str, tuple[tuple[int, ...] | int, ...]]


def summarise(
    runs: Sequence[Sequence[CallTime]], said: Work, machine: Roofline
) -> list[KernelTime]:
    """The kernels of a traced function, the one that takes longest first.

    Args:
        runs: what `Module.trace` found.
        said: what the artifact tells of its kernels.
        machine: what this machine can do.
    """
    calls: dict[_Place, list[float]] = collections.defaultdict(list)
    # Runs of one function may differ (branches, loops); the k-th call is compared over those alike.
    for position in range(max(map(len, runs), default=0)):
        here: dict[_Place, list[float]] = collections.defaultdict(list)
        for run in runs:
            if position < len(run):
                here[run[position].name, run[position].arguments].append(run[position].seconds)
        for place, seconds in here.items():
            calls[place].append(statistics.median(seconds))
    total = sum(map(sum, calls.values())) or 1.0
    rows = [_row(place, seconds, total, said, machine) for place, seconds in calls.items()]
    return sorted(rows, key=lambda row: (-row.seconds, row.name))


def _row(
    place: _Place, seconds: list[float], total: float, said: Work, machine: Roofline
) -> KernelTime:
    name, arguments = place
    kernel = said.kernels.get(name, _UNKNOWN)
    flops, moved = work.count(kernel.flops, arguments), work.count(kernel.bytes, arguments)
    taken = sum(seconds)
    each = max(taken / len(seconds), 1e-9)
    arithmetic = (flops or 0) / machine.peak(kernel.dtype)
    transfer = (moved or 0) / machine.bandwidth(moved or 0)
    known = flops is not None and moved is not None
    return KernelTime(
        name=name,
        label=kernel.label,
        family=kernel.family,
        shapes=_shapes(kernel, arguments),
        dtype=kernel.dtype,
        calls=len(seconds),
        seconds=taken,
        share=taken / total,
        flops=flops,
        bytes=moved,
        gflops=None if flops is None else flops / each / 1e9,
        gbytes=None if moved is None else moved / each / 1e9,
        roofline=max(arithmetic, transfer) / each if known else None,
        bound="" if not known else "compute" if arithmetic > transfer else "memory",
    )


def _shapes(kernel: Kernel, arguments: Sequence[tuple[int, ...] | int]) -> tuple[str, ...]:
    """The shapes of this call, with the types that the kernel tells."""
    if len(kernel.shapes) != len(arguments):
        return kernel.shapes
    return tuple(
        str(given) if isinstance(given, int) else f"{told.partition('[')[0]}{list(given)}"
        for told, given in zip(kernel.shapes, arguments)
    )


def families(rows: Sequence[KernelTime]) -> dict[str, float]:
    """The share of the kernels' time by family, the largest first."""
    shares: dict[str, float] = collections.defaultdict(float)
    for row in rows:
        shares[row.family] += row.share
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
