"""Runs a module for another instruction set under user-mode emulation.

The emulated process is `runner.cc` with TVM's slim runtime, no Python: a call takes a fraction of a
second. The runner is compiled on first use, for the versions that are installed here. This proves
numbers, and with the emulator's `-cpu` that no instruction is used which the device lacks; it says
nothing about speed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path

import numpy as np

from nexus_compiler.codegen.door import Requirement
from nexus_compiler.codegen.llvm import slim_runtime, tensor_file
from nexus_compiler.targets import TargetSpec
from nexus_runtime.errors import InternalError, TargetError
from nexus_runtime.signature import FunctionSpec

LEVEL = "emulate"

# Which Debian package brings a program, or the C and C++ libraries in a directory.
DEBIAN_PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "/usr/aarch64-linux-gnu": "libstdc++6-arm64-cross",
}

# The libraries are in the runner's own directory.
_FLAGS = ("-std=c++17", "-O1", "-s", "-Wl,-rpath,$ORIGIN")


def needs(target: TargetSpec) -> list[Requirement]:
    """What running modules of `target` here needs; nothing where it is not emulated."""
    if target.check.level != LEVEL:
        return []
    machine = target.requires.machine
    place = slim_runtime.directory(machine)
    runtime = Requirement(
        f"TVM's runtime for {machine}",
        str(place) if slim_runtime.is_present(machine) else "",
        "fetched on first use (100 MB, of which 5 are kept); without network put the wheels "
        f"into a directory and set {slim_runtime.WHEELS_VARIABLE} to it",
    )
    return [*_programs(target), runtime]


def run(
    module: bytes, function: FunctionSpec, arguments: Sequence[np.ndarray], target: TargetSpec
) -> list[np.ndarray]:
    """Run `function` of `module` under the emulator of `target`.

    Args:
        module: a shared library that the llvm room linked for `target`.
        function: what to call.
        arguments: the inputs and then the parameters of `function`, as its signature has them.
        target: says which emulator, CPU, compiler and libraries.

    Returns:
        The outputs, in the order of `function.outputs`.

    Raises:
        TargetError: `target` is not emulated, or something that `needs` lists is missing.
        InternalError: the emulated process failed; the message has what it said.
    """
    if target.check.level != LEVEL:
        raise TargetError(
            f"target '{target.name}' has no emulator",
            hint=f"it is checked by '{target.check.level}'; `nexusc targets` lists all",
        )
    _demand_programs(target)
    libraries = slim_runtime.provide(target.requires.machine)
    command = [*_emulator(target), str(_runner(target, libraries))]
    with tempfile.TemporaryDirectory(prefix="nexus-emulate-") as directory:
        library, given, made = (Path(directory) / name for name in ("module.so", "in", "out"))
        library.write_bytes(module)
        with given.open("wb") as stream:
            tensor_file.write(stream, arguments)
        _execute([*command, str(library), function.name, str(given), str(made)], target)
        with made.open("rb") as stream:
            results = tensor_file.read(stream)
    if len(results) != len(function.outputs):
        raise InternalError(
            f"'{function.name}' of target '{target.name}' gave {len(results)} results, "
            f"but its signature has {len(function.outputs)}"
        )
    return results


def _programs(target: TargetSpec) -> list[Requirement]:
    """What has to be installed: unlike the runtime, it is not fetched on first use."""
    check, compilers = target.check, _compilers(target)
    libraries = Path(check.sysroot) / "lib" / "libstdc++.so.6"
    return [
        _need("emulator", [check.emulator], shutil.which(check.emulator)),
        _need("C++ compiler", compilers, _first(compilers)),
        _need("C++ library", [check.sysroot], str(libraries) if libraries.exists() else None),
    ]


def _need(what: str, names: Sequence[str], found: str | None) -> Requirement:
    known = " or ".join(names)
    packages = " or ".join(DEBIAN_PACKAGES.get(name, "package unknown") for name in names)
    return Requirement(f"{what} {known}", found or "", f"install {known} (Debian: {packages})")


def _demand_programs(target: TargetSpec) -> None:
    for need in _programs(target):
        if not need.found:
            raise TargetError(
                f"target '{target.name}' cannot be run here without the {need.what}",
                hint=f"{need.cure}; `nexusc doctor` lists all that is missing",
            )


def _compilers(target: TargetSpec) -> list[str]:
    return list(target.toolchain.get("compiler", []))


def _first(names: Sequence[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def _emulator(target: TargetSpec) -> list[str]:
    check = target.check
    command = [check.emulator, "-L", check.sysroot, *(["-cpu", check.cpu] if check.cpu else [])]
    # The emulated process gets this one's environment, whose libraries are of another machine.
    return [*command, "-U", "LD_PRELOAD", "-U", "LD_LIBRARY_PATH"]


def _execute(command: Sequence[str], target: TargetSpec) -> None:
    threads = str(len(os.sched_getaffinity(0)))
    done = subprocess.run(
        command,
        # As for native modules: every core, and no worker bound to one.
        env={**os.environ, "TVM_NUM_THREADS": threads, "TVM_BIND_THREADS": "0"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    reason = f"left with {done.returncode}"
    if done.returncode < 0:
        reason = f"was ended by {signal.Signals(-done.returncode).name}"
    if done.returncode == -signal.SIGILL:
        reason += f" (an instruction that {target.check.cpu or 'the emulator'} lacks)"
    raise InternalError(
        f"the emulated process for target '{target.name}' {reason}: {done.stderr.strip()}\n"
        f"command: {' '.join(command)}"
    )


def _runner(target: TargetSpec, libraries: Path) -> Path:
    """The runner for `target`, compiled where it is not in the cache yet."""
    compiler = _first(_compilers(target)) or ""
    source = resources.files("nexus_compiler.codegen.llvm").joinpath("runner.cc").read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    factors = (source, compiler.encode(), version, " ".join(_FLAGS).encode())
    factors += (metadata.version("apache-tvm-ffi").encode(),)  # whose headers are used
    digest = hashlib.sha256(b"".join(hashlib.sha256(f).digest() for f in factors)).hexdigest()
    path = libraries / f"runner-{digest[:32]}"
    if not path.exists():
        _compile(source, compiler, path)
    return path


def _compile(source: bytes, compiler: str, path: Path) -> None:
    from tvm_ffi import libinfo

    includes = dict.fromkeys([libinfo.find_include_path(), libinfo.find_dlpack_include_path()])
    # In the same directory, so that the program appears there in one step and whole.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="runner-") as directory:
        program = Path(directory) / "runner"
        (program.with_suffix(".cc")).write_bytes(source)
        command = [compiler, *_FLAGS, *(f"-I{include}" for include in includes)]
        command += ["-o", str(program), str(program.with_suffix(".cc")), f"-L{path.parent}"]
        # The module needs libtvm_runtime, the runner itself only libtvm_ffi.
        command += ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InternalError(
                f"the runner does not compile: {' '.join(command)}\n{done.stderr.strip()}"
            )
        program.replace(path)
