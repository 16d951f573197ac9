"""TVM's virtual machine for what a test has built."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tvm
from tvm import relax


def machine(executable: relax.VMExecutable) -> relax.VirtualMachine:
    """The program as a library, linked and loaded.

    LLVM's just-in-time compiler takes several times as long as code generation and linking do.
    """
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "module.so"
        executable.export_library(str(library))
        # It stays mapped when the file is gone.
        return relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
