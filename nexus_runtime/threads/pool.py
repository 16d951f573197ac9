"""Our own launcher of parallel kernels, `pool.c`: a plain C library, built with the package.

It is loaded with ctypes and knows nothing of Python, so that building it needs a C compiler and no
headers of Python, and one build serves every version. Where it was not built, the reason is kept.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from nexus_runtime.errors import DeviceError, InternalError

_EXTENSION = "nexus_runtime.threads._pool"
MOST_THREADS = 256  # as in pool.c

_SET, _NOTHING_PARALLEL, _HAS_BARRIERS = 0, 1, 2
_INTS = ctypes.POINTER(ctypes.c_int)


class Pool:
    """The loaded library. Workers are made by the first launch that wants them."""

    def __init__(self, path: Path) -> None:
        self._library = library = ctypes.CDLL(str(path))
        library.nexus_pool_launcher.argtypes = [ctypes.c_int, _INTS, ctypes.c_int]
        library.nexus_pool_launcher.restype = ctypes.c_void_p
        library.nexus_pool_install.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        library.nexus_pool_errors.argtypes = [ctypes.c_void_p] * 3
        # Workers that sleep would do no harm, but one that runs must not outlive what it works on.
        atexit.register(self.close)

    def launcher(self, count: int, cores: Sequence[int]) -> int:
        """The address of the launcher that uses `count` threads on `cores` (any, if empty).

        Raises:
            DeviceError: the numbers are beyond what the pool can hold.
        """
        found = self._library.nexus_pool_launcher(
            count, (ctypes.c_int * len(cores))(*cores), len(cores)
        )
        if not found:
            raise DeviceError(
                f"the pool has no room for {count} threads on the cores {list(cores)}",
                hint=f"use at most {MOST_THREADS} threads on cores below 1024, and at most 16 "
                "different sets of cores and 64 settings in one process",
            )
        return found

    def install(self, path: Path, launcher: int) -> bool:
        """Let the loaded module at `path` launch with `launcher`; False where it must not.

        Raises:
            InternalError: the module is not loaded.
        """
        status = self._library.nexus_pool_install(str(path).encode(), launcher)
        if status not in (_SET, _NOTHING_PARALLEL, _HAS_BARRIERS):
            raise InternalError(f"{path} is not loaded, so that its launcher cannot be set")
        return status != _HAS_BARRIERS

    def carry_errors(self, ffi: ctypes.CDLL) -> None:
        """Carry tvm_ffi's errors, which live in the thread that raised them, to the caller's."""
        names = ("TVMFFIErrorMoveFromRaised", "TVMFFIErrorSetRaised", "TVMFFIObjectDecRef")
        hooks = [ctypes.cast(getattr(ffi, name), ctypes.c_void_p) for name in names]
        self._library.nexus_pool_errors(*hooks)

    @property
    def workers(self) -> int:
        """How many workers there are, callers not counted."""
        return self._library.nexus_pool_workers()

    def close(self) -> None:
        """End all workers; from now on every launch runs on its caller alone."""
        self._library.nexus_pool_close()


@functools.cache
def find() -> tuple[Pool | None, str]:
    """The pool, or None; and where it is, or why there is none."""
    spec = importlib.util.find_spec(_EXTENSION)
    if spec is None or spec.origin is None:
        return None, "it was not built; install Nexus again where there is a C compiler"
    try:
        return Pool(Path(spec.origin)), spec.origin
    except (OSError, AttributeError) as error:
        return None, f"{spec.origin} cannot be loaded: {error}"
