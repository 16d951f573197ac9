"""Links objects and host code to the shared library that the virtual machine loads."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm import IRModule, relax

from nexus_compiler.targets import TargetSpec
from nexus_runtime import host
from nexus_runtime.errors import InternalError, TargetError

_HOST_LINKERS = ("cc", "gcc", "clang")


def linkers(target: TargetSpec) -> tuple[str, ...]:
    """Programs that can link for `target`, the best first."""
    own = _HOST_LINKERS if target.requires.machine in ("", host.machine()) else ()
    return (*own, *target.toolchain["linker"])


def find_linker(target: TargetSpec) -> str | None:
    """The path of the first of the target's linkers that is installed."""
    return next((path for name in linkers(target) if (path := shutil.which(name))), None)


def needed_linker(target: TargetSpec) -> str:
    """As `find_linker`.

    Raises:
        TargetError: none is installed.
    """
    if (found := find_linker(target)) is None:
        raise TargetError(
            f"target '{target.name}' needs one of these linkers: {', '.join(linkers(target))}",
            hint="`nexusc doctor` says how to install it",
        )
    return found


def link(
    program: IRModule, objects: Mapping[str, bytes], target: TargetSpec, llvm: tvm.target.Target
) -> bytes:
    """The shared library of `program` and the kernels in `objects`; same input, same bytes.

    Raises:
        TargetError: no linker for the target is installed.
    """
    linker = needed_linker(target)
    with tempfile.TemporaryDirectory(prefix="nexus-link-") as directory:
        executable = _executable(program, objects, llvm, Path(directory))
        library = Path(directory) / "module.so"
        executable.export_library(
            str(library),
            fcompile=lambda output, inputs, **_: run_linker(linker, output, inputs),
            workspace_dir=directory,
        )
        return library.read_bytes()


def _executable(
    program: IRModule, objects: Mapping[str, bytes], llvm: tvm.target.Target, directory: Path
) -> relax.VMExecutable:
    libraries: list[tvm.runtime.Module] = []
    for name in sorted(objects):
        path = directory / f"{name}.o"
        path.write_bytes(objects[name])
        libraries.append(tvm.runtime.load_static_library(str(path), [name]))
    builder = bytecode(program, llvm)
    return relax.VMExecutable(relax.vm_build._ffi_api.VMLink(builder, llvm, None, libraries, {}))


def bytecode(program: IRModule, llvm: tvm.target.Target) -> relax.ExecBuilder:
    """`program` as code of the virtual machine."""
    builder = relax.ExecBuilder()
    with llvm:
        relax.vm_build._vmcodegen(builder, program, "bytecode")
    return builder


def run_linker(linker: str, output: str, inputs: Sequence[str]) -> None:
    """Link `inputs` to the shared library `output`."""
    # No build id and no debug sections: both would carry the temporary directory's name.
    command = [linker, "-shared", "-fPIC", "-Wl,--build-id=none", "-s", "-o", output, *inputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"linking failed: {' '.join(command)}\n{done.stderr.strip()}")
