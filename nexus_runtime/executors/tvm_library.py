"""TVM's runtime, and modules of the llvm room as files that the system can load.

Only `libtvm_runtime` (3 MB) and `tvm_ffi` are loaded, never TVM's compiler. The loader of the
operating system gives an old library back when a new one is loaded from the same path.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from nexus_runtime import files
from nexus_runtime.errors import ArtifactError, DeviceError
from nexus_runtime.executors import line as lines
from nexus_runtime.light import without_torch

_LIBRARY = "libtvm_runtime.so"


@functools.cache
def load_runtime() -> Any:
    """The module `tvm_ffi`, with TVM's runtime behind it.

    Raises:
        DeviceError: the runtime is not there, or cannot be loaded.
    """
    with without_torch():
        import tvm_ffi
    library = runtime_library()
    # Sorts live in a library of their own, which a very small device may go without.
    extra = library.with_name("libtvm_runtime_extra.so")
    try:
        for path in (library, extra) if extra.exists() else (library,):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise DeviceError(
            f"TVM's runtime cannot be loaded: {error}",
            hint="reinstall apache-tvm, or set "
            "NEXUS_TVM_RUNTIME to a libtvm_runtime.so built for this machine",
        ) from error
    lines.carry_errors(tvm_ffi.LIB)
    return tvm_ffi


def runtime_library() -> Path:
    """`NEXUS_TVM_RUNTIME`, or the library inside the installed apache-tvm (not imported).

    Raises:
        DeviceError: neither is there.
    """
    if explicit := os.environ.get("NEXUS_TVM_RUNTIME"):
        return Path(explicit)
    spec = importlib.util.find_spec("tvm")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(root) / "lib" / _LIBRARY, Path(root) / _LIBRARY):
            if candidate.exists():
                return candidate
    raise DeviceError(
        "TVM's runtime library is not installed",
        hint="pip install apache-tvm, or set NEXUS_TVM_RUNTIME to a libtvm_runtime.so",
    )


# The setting of threads that the library of each digest was first loaded with in this process.
_first_settings: dict[str, str] = {}


def unpack(data: bytes, setting: str) -> Path:
    """Put the library where the loader can map it, under a name that follows from its content.

    A library holds one pointer to its launcher: for another setting there must be another file.
    """
    digest = hashlib.sha256(data).hexdigest()
    first = _first_settings.setdefault(digest, setting)
    path = _module_directory() / f"{digest}{'' if first == setting else f'-{setting}'}.so"
    try:
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            files.write_atomically(path, data)
            path.chmod(0o500)
    except OSError as error:
        raise ArtifactError(
            f"cannot unpack a module to {path.parent}: {error.strerror}",
            hint="set NEXUS_CACHE to a directory that can be written",
        ) from error
    return path


def _module_directory() -> Path:
    directory = files.cache_root() / "modules-v1"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
