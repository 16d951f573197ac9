"""What `nexusc bench --profile` does and prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nexus_compiler.cli import console
from nexus_runtime import files
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import UserError
from nexus_runtime.signature import FunctionSpec

if TYPE_CHECKING:
    import numpy as np

    from nexus_compiler.profile.kernels import KernelTime
    from nexus_compiler.profile.roofline import Roofline

# Quick calls are timed in turns of so many seconds.
_TURN = 0.001
_HEAD = (
    *("time", "share", "calls", "GFLOP/s", "GB/s", "of roofline", "bound", "family"),
    *("operators", "arguments"),
)


def profile(
    artifact: Artifact,
    function: FunctionSpec,
    arrays: Mapping[str, np.ndarray],
    *,
    target: str | None,
    threads: int | None,
    rounds: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time the kernels of one function, and print them beside what the machine can do.

    Raises:
        UserError: the artifact does not tell of its kernels.
        DeviceError: the module does not run here, or its kernels cannot be told apart.
    """
    from nexus_compiler.profile import kernels, roofline
    from nexus_compiler.profile import plot as plots
    from nexus_compiler.verify import timing
    from nexus_runtime.module import load

    module = load(artifact, target=target, num_threads=threads)
    said = artifact.work(module.target)
    if said is None:
        raise UserError(
            f"the artifact does not tell of the kernels for '{module.target}'",
            hint="compile it again with this release, for a CPU target",
        )
    machine = roofline.load(threads or roofline.default_threads())
    (call,) = timing.alternate(
        {"call": lambda: module.run(function.name, arrays)}, rounds=rounds, turn=_TURN
    )
    module.trace(function.name, arrays, rounds=2)
    rows = kernels.summarise(module.trace(function.name, arrays, rounds=rounds), said, machine)
    if plot:
        files.write_atomically(plot, plots.roofline_svg(function.name, rows, machine).encode())
    value = {
        "function": function.name,
        "target": module.target,
        "machine": msgspec.to_builtins(machine, str_keys=True),
        "memory": {name: msgspec.to_builtins(one) for name, one in said.memory.items()},
        "call_seconds": call.median,
        "families": kernels.families(rows),
        "kernels": [msgspec.to_builtins(row) for row in rows],
    }
    text = "\n\n".join(
        (
            _machine(machine),
            _rows(rows),
            _whole(rows, call.median),
            _families(kernels.families(rows)),
        )
    )
    console.emit(value, text, as_json=as_json)


def _machine(machine: Roofline) -> str:
    flops = ", ".join(f"{name} {rate:.0f}" for name, rate in machine.gflops.items())
    rates = sorted(machine.gbytes.items())
    moved = ", ".join(f"{rate:.0f} in {console.size(size)}" for size, rate in rates)
    return (
        f"machine     {machine.machine}, {machine.threads} thread(s)\n"
        f"GFLOP/s     {flops}\nGB/s        {moved}"
    )


def _rows(rows: list[KernelTime]) -> str:
    cells = [
        (
            console.seconds(row.seconds),
            f"{row.share:.1%}",
            row.calls,
            "-" if row.gflops is None else f"{row.gflops:.1f}",
            "-" if row.gbytes is None else f"{row.gbytes:.1f}",
            "-" if row.roofline is None else f"{row.roofline:.0%}",
            row.bound,
            row.family,
            row.label,
            "; ".join(row.shapes),
        )
        for row in rows
    ]
    return console.table(_HEAD, cells)


def _whole(rows: list[KernelTime], call: float) -> str:
    within = sum(row.seconds for row in rows)
    least = sum(row.seconds * min(row.roofline or 0.0, 1.0) for row in rows)
    return (
        f"a call      {console.seconds(call)}\nkernels     {console.seconds(within)}\n"
        f"at the roof {console.seconds(least)}"
    )


def _families(shares: Mapping[str, float]) -> str:
    return console.table(
        ("family", "share"), [(name, f"{share:.1%}") for name, share in shares.items()]
    )
