"""How much memory a model takes, each contender in a fresh process of its own.

What is told is growth of the resident set: by loading (weights, code), and by the first calls
beyond that (activations; ours lays out its weights in the first call, ONNX Runtime when it loads).
The allocators' spare room counts: the system cannot give it to anybody else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nexus_runtime.errors import DeviceError, InternalError

NEXUS, ONNXRUNTIME = "nexus", "onnxruntime"
_CALLS = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Growth(msgspec.Struct, frozen=True):
    """Bytes by which the resident set of a process grew: by loading, and by calls beyond that."""

    load: int
    calls: int


def measure(
    contender: str,
    model: Path,
    inputs: Mapping[str, np.ndarray],
    *,
    function: str = "main",
    threads: int = 0,
) -> Growth:
    """The growth of a fresh process that loads `model` and calls it.

    Args:
        contender: `NEXUS`, with an artifact, or `ONNXRUNTIME`, with an ONNX file.
        model: path of the file.
        inputs: by name.
        function: of the artifact.
        threads: of one call; 0 for the contender's own choice.

    Raises:
        DeviceError: this system does not tell.
        InternalError: the process failed; its message comes along.
    """
    if not (_STATUS.exists() and _RESET.exists()):
        raise DeviceError("this system does not tell how much memory a process takes")
    given: dict[str, Any] = dict(inputs)
    with tempfile.TemporaryDirectory() as directory:
        arrays = Path(directory) / "inputs.npz"
        np.savez(arrays, **given)
        command = [sys.executable, "-m", "nexus_compiler.verify.memory", contender, str(model)]
        command += [str(arrays), "--function", function, "--threads", str(threads)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InternalError(f"measuring memory failed: {done.stderr.strip()}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Growth)


def _status(field: str) -> int:
    """A field of this process' status in bytes."""
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) << 10


def _grow(load: Callable[[], Callable[[], object]]) -> Growth:
    before = _status("VmRSS")
    call = load()
    loaded = _status("VmRSS")
    _RESET.write_text("5")  # the peak so far is forgotten
    for _ in range(_CALLS):
        call()
    return Growth(load=loaded - before, calls=max(_status("VmHWM") - loaded, 0))


def _nexus(model: Path, arrays: Mapping[str, np.ndarray], function: str, threads: int) -> Growth:
    import nexus_runtime

    def load() -> Callable[[], object]:
        module = nexus_runtime.load(model, num_threads=threads or None)
        return lambda: module.run(function, arrays)

    return _grow(load)


def _onnxruntime(model: Path, arrays: Mapping[str, np.ndarray], threads: int) -> Growth:
    import onnxruntime  # noqa: F401  # pyright: ignore[reportUnusedImport]

    from nexus_compiler.verify.reference import OnnxRuntime

    def load() -> Callable[[], object]:
        session = OnnxRuntime(model, num_threads=threads)
        return lambda: session.run(arrays)

    return _grow(load)


def main() -> None:
    """Measure this process and print the growth as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=[NEXUS, ONNXRUNTIME])
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--function", default="main")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    with np.load(given.inputs) as file:
        arrays = {name: file[name] for name in file.files}
    if given.contender == NEXUS:
        growth = _nexus(given.model, arrays, given.function, given.threads)
    else:
        growth = _onnxruntime(given.model, arrays, given.threads)
    sys.stdout.write(msgspec.json.encode(growth).decode() + "\n")


if __name__ == "__main__":
    main()
