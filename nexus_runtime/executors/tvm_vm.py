"""Runs modules of the llvm room: shared libraries that hold a program for TVM's virtual machine.

Only `libtvm_runtime` (3 MB) and `tvm_ffi` are loaded, never TVM's compiler. Two facts shape this
file: one virtual machine must not be called from two threads at once, and the loader of the
operating system gives an old library back when a new one is loaded from the same path.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus_runtime import files, tensors, threads
from nexus_runtime.errors import ArtifactError, DeviceError
from nexus_runtime.executors.base import CallTime
from nexus_runtime.signature import Signature

_CPU, _POOLED_ALLOCATOR = 1, 2
_LIBRARY = "libtvm_runtime.so"
# A function `f` may come in two halves: `f__prepare(weights)`, `f__run(inputs, weights, prepared)`.
_PREPARE, _RUN = "__prepare", "__run"
_BUILTIN = "vm."
_BFLOAT16, _BFLOAT16_CODE, _UINT16_CODE = "bfloat16", (4, 16), (1, 16)


def open_module(
    data: bytes,
    signature: Signature,
    *,
    num_threads: int | None,
    affinity: Sequence[int] | None = None,
) -> TvmExecutor:
    """Open a shared library; see `executors.base.open_module`."""
    return TvmExecutor(data, signature, threads.settle(num_threads, affinity))


@dataclass(frozen=True)
class _Kept:
    """What to call, and the tensors that stand behind the inputs."""

    entry: str
    tensors: tuple[Any, ...]


class TvmExecutor:
    """A pool of virtual machines over one library: each call takes one out and puts it back."""

    def __init__(self, data: bytes, signature: Signature, setting: threads.Threads) -> None:
        self._ffi = _load_runtime()
        self._results = {f.name: [o.dtype for o in f.outputs] for f in signature.functions}
        path = _unpack(data, setting.label)
        self._library = self._ffi.load_module(str(path))
        threads.install(path, setting, self._ffi.LIB)
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._weights: Mapping[str, Sequence[np.ndarray]] = {}
        self._kept: dict[str, _Kept] = {}

    def run(self, function: str, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `function`; as `executors.base.Executor.run`."""
        return self._call(function, function, arguments, ())

    def keep(self, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Keep parameters; as `executors.base.Executor.keep`."""
        self._weights = weights

    def run_kept(self, function: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `function` with the kept parameters; as `executors.base.Executor.run_kept`."""
        if (kept := self._kept.get(function)) is None:
            # Two threads may both come here: they compute the same.
            kept = self._kept[function] = self._prepare(function)
        return self._call(function, kept.entry, inputs, kept.tensors)

    def trace(
        self, function: str, inputs: Sequence[np.ndarray], *, rounds: int
    ) -> list[list[CallTime]]:
        """Time every call of a kernel; as `executors.base.Executor.trace`."""
        if (kept := self._kept.get(function)) is None:
            kept = self._kept[function] = self._prepare(function)
        # A machine of its own, which is thrown away: an instrument cannot be taken out again.
        machine, watch = self._new_machine(), _Watch()
        machine["set_instrument"](self._ffi.convert(watch))
        found: list[list[CallTime]] = []
        for _ in range(rounds):
            machine[kept.entry](*map(self._from_numpy, inputs), *kept.tensors)
            found.append(watch.take())
        return found

    def _prepare(self, function: str) -> _Kept:
        """The kept parameters as tensors, and what the module computes from them alone."""
        weights = tuple(map(self._from_numpy, self._weights.get(function, ())))
        with self._machine() as machine:
            if not machine.implements_function(function + _PREPARE):
                return _Kept(function, weights)
            prepared = machine[function + _PREPARE](*weights)
            return _Kept(function + _RUN, (*weights, *prepared))

    def _call(
        self, function: str, entry: str, arguments: Sequence[np.ndarray], more: Sequence[Any]
    ) -> list[np.ndarray]:
        with self._machine() as machine:
            result = machine[entry](*map(self._from_numpy, arguments), *more)
            dtypes = enumerate(self._results[function])
            return [_to_numpy(result[index], dtype) for index, dtype in dtypes]

    def _from_numpy(self, array: np.ndarray) -> Any:
        plain = tensors.bits(array)
        if plain.dtype.name == _BFLOAT16:
            return self._ffi.from_dlpack(_Relabelled(plain.view(np.uint16), *_BFLOAT16_CODE))
        return self._ffi.from_dlpack(plain)

    @contextlib.contextmanager
    def _machine(self) -> Generator[Any]:
        with self._lock:
            machine = self._idle.pop() if self._idle else None
        if machine is None:
            machine = self._new_machine()
        try:
            yield machine
        finally:
            with self._lock:
                self._idle.append(machine)

    def _new_machine(self) -> Any:
        machine = self._library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        return machine


class _Watch:
    """What a virtual machine calls before and after each of its calls.

    The shortest interval of all, that of a call that does nothing, is what watching itself takes.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[tuple[Any, ...], float]] = []
        self._calls: list[CallTime] = []

    def __call__(self, _: Any, name: str, before: bool, __: Any, *arguments: Any) -> int:
        now = time.perf_counter()
        if before:
            sizes = tuple(a if isinstance(a, int) else _shape(a) for a in arguments)
            self._begun.append((sizes, time.perf_counter()))
        else:
            sizes, begin = self._begun.pop()
            self._calls.append(CallTime(str(name), now - begin, sizes))
        return 0

    def take(self) -> list[CallTime]:
        calls, self._calls = self._calls, []
        least = min((call.seconds for call in calls), default=0.0)
        return [
            CallTime(call.name, call.seconds - least, call.arguments)
            for call in calls
            if not call.name.startswith(_BUILTIN)
        ]


def _shape(argument: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in getattr(argument, "shape", ()))


def _to_numpy(tensor: Any, dtype: str) -> np.ndarray:
    # A copy: the memory belongs to the machine's pool and is used again by the next call.
    if dtype == _BFLOAT16:
        array = np.array(np.from_dlpack(_Relabelled(tensor, *_UINT16_CODE)))
        return array.view(tensors.dtype_of(_BFLOAT16))
    return tensors.from_bits(np.array(np.from_dlpack(tensor)), dtype)


class _Relabelled:
    """A tensor whose export by DLPack tells another element type: NumPy's refuses bfloat16."""

    def __init__(self, tensor: Any, code: int, bits: int) -> None:
        self._tensor = tensor
        self._type = bytes([code, bits])

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self._tensor.__dlpack__()
        find = ctypes.pythonapi.PyCapsule_GetPointer
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # DLTensor: data (8 bytes), device (8), ndim (4), and then the type's code and bits.
        ctypes.memmove(find(capsule, b"dltensor") + 20, self._type, 2)
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


@functools.cache
def _load_runtime() -> Any:
    with _without_torch():
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


@contextlib.contextmanager
def _without_torch() -> Generator[None]:
    # tvm_ffi imports torch when it is installed (one second, 190 MB), for a symbol conflict on
    # Windows. A None in sys.modules makes that import fail, which tvm_ffi expects.
    if "torch" in sys.modules or "tvm_ffi" in sys.modules or sys.platform == "win32":
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


# The setting of threads that the library of each digest was first loaded with in this process.
_first_settings: dict[str, str] = {}


def _unpack(data: bytes, setting: str) -> Path:
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
