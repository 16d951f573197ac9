"""Runs modules of StableHLO with XLA, through `jax.export`.

A module file is a MessagePack map: `format` (1), `platforms`, `functions` (name to the name of its
blob) and `blobs` (name to `[SHA-256, bytes of jax.export]`). Functions that are equal share a blob.
The hashes are checked first, as the reader of a blob trusts every offset that it finds in it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from nexus_runtime.errors import ArtifactError, DeviceError, InputError, nearest
from nexus_runtime.executors.base import CallTime, Quick, Shapes
from nexus_runtime.signature import Signature
from nexus_runtime.steps import Steps

FORMAT = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    platforms: tuple[str, ...]
    functions: dict[str, str]
    blobs: dict[str, tuple[bytes, bytes]]


def pack(
    platforms: Sequence[str], functions: Mapping[str, str], blobs: Mapping[str, bytes]
) -> bytes:
    """Write a module file: `functions` maps their names to names in `blobs`."""
    hashed = {name: (hashlib.sha256(blob).digest(), blob) for name, blob in blobs.items()}
    file = _File(FORMAT, tuple(platforms), dict(functions), hashed)
    return msgspec.msgpack.encode(file, order="deterministic")


def import_jax(platforms: Sequence[str]) -> Any:
    """Import JAX, looking for no other devices than CPUs where `platforms` has no others.

    JAX reads JAX_PLATFORMS once, when it is first imported, and would otherwise start every driver
    that it finds. What the user has set, and a JAX that is already loaded, stay as they are.

    Raises:
        DeviceError: JAX (or flatbuffers, which `jax.export` needs) is not installed.
    """
    only_cpu = set(platforms) <= {"cpu"}
    guard = only_cpu and "jax" not in sys.modules and "JAX_PLATFORMS" not in os.environ
    if guard:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        importlib.import_module("flatbuffers")
        importlib.import_module("jax.export")
        return importlib.import_module("jax")
    except ImportError as error:
        raise DeviceError(
            f"modules for XLA need JAX, which cannot be imported ({error})",
            hint="pip install nexus-compiler[xla]",
        ) from error
    finally:
        if guard:
            del os.environ["JAX_PLATFORMS"]


def open_module(
    data: bytes,
    signature: Signature,
    *,
    num_threads: int | None,
    affinity: Sequence[int] | None = None,
    steps: Steps | None = None,
) -> Executor:
    """Open a module file; functions are compiled when they first run with a set of shapes.

    Args:
        data: a module file.
        signature: what it must offer.
        num_threads: not used: XLA has one thread pool per process, sized when JAX starts.
        affinity: must be None, for the same reason.
        steps: not used: XLA's functions are calls of one program.

    Raises:
        ArtifactError: the file is damaged, from the future, or lacks a function.
        DeviceError: JAX is not installed, or has no device that the module was built for; or
            `affinity` is given.
    """
    del num_threads, steps
    if affinity is not None:
        raise DeviceError(
            "XLA's threads cannot be kept to cores of one module",
            hint="leave `affinity` out, or bind the whole process (taskset) before JAX starts",
        )
    file = _read(data)
    for function in signature.functions:
        if function.name not in file.functions:
            raise ArtifactError(
                f"the module lacks the function '{function.name}' of its signature",
                hint=nearest(function.name, file.functions),
            )
    return Executor(file.platforms, file.functions, {k: v[1] for k, v in file.blobs.items()})


def _read(data: bytes) -> _File:
    cure = "build the artifact again"
    try:
        file = msgspec.msgpack.decode(data, type=_File)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"the module for XLA is damaged ({error})", hint=cure) from error
    if file.format != FORMAT:
        raise ArtifactError(
            f"the module for XLA has format {file.format}, but this release reads {FORMAT}",
            hint="update nexus-compiler, or build the artifact again",
        )
    for name, (digest, blob) in file.blobs.items():
        if hashlib.sha256(blob).digest() != digest:
            raise ArtifactError(f"the blob '{name}' of the module is damaged", hint=cure)
    if missing := set(file.functions.values()) - set(file.blobs):
        raise ArtifactError(f"the module lacks the blob '{min(missing)}'", hint=cure)
    return file


class Executor:
    """An open module. May be called from several threads at once.

    Attributes:
        platform: where it runs, one of the platforms that the module was built for.
    """

    def __init__(
        self, platforms: Sequence[str], functions: Mapping[str, str], blobs: Mapping[str, bytes]
    ) -> None:
        self._jax = import_jax(platforms)
        self._device = _device(self._jax, platforms)
        self.platform: str = next(
            platform for platform in platforms if _runs(self._device.platform, platform)
        )
        self._functions = functions
        self._blobs = blobs
        self._calls: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._kept: dict[str, list[Any]] = {}

    def run(self, function: str, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `function` on its inputs and then its parameters, in the signature's order.

        Returns:
            The outputs; on a CPU they are read-only views of XLA's own buffers.

        Raises:
            InputError: there is no such function, or a shape or dtype does not fit it.
            ArtifactError: JAX cannot read the function's blob.
        """
        return self._run(function, arguments)

    def keep(self, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Put parameters on the device; as `executors.base.Executor.keep`."""
        put = functools.partial(self._jax.device_put, device=self._device)
        with self._jax.enable_x64(True):
            self._kept = {name: list(map(put, arrays)) for name, arrays in weights.items()}

    def run_kept(self, function: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `function` with the kept parameters; as `executors.base.Executor.run_kept`."""
        return self._run(function, [*inputs, *self._kept.get(function, ())])

    def quick(self, function: str, shapes: Shapes) -> Quick | None:
        """There is no shorter way; as `executors.base.Executor.quick`."""
        del function, shapes
        return None

    def bind(
        self, function: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> Callable[[], object] | None:
        """XLA has buffers of its own; as `executors.base.Executor.bind`."""
        del function, inputs, outputs
        return None

    def trace(
        self, function: str, inputs: Sequence[np.ndarray], *, rounds: int
    ) -> list[list[CallTime]]:
        """Refuse: XLA runs a function as one piece."""
        raise DeviceError(
            f"the kernels of '{function}' cannot be timed: XLA runs it as one piece",
            hint="profile the module for a CPU target, or use jax.profiler",
        )

    def _run(self, function: str, arguments: Sequence[Any]) -> list[np.ndarray]:
        call = self._call(function)
        # 64-bit integers are switched on for this call in this thread only.
        with self._jax.enable_x64(True), self._jax.default_device(self._device):
            try:
                outputs = call(*arguments)
            except (TypeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"'{function}' does not take these arrays: {reason}") from error
            return [np.asarray(output) for output in outputs]

    def _call(self, function: str) -> Any:
        if function not in self._functions:
            raise InputError(
                f"there is no function '{function}'", hint=nearest(function, self._functions)
            )
        name = self._functions[function]
        with self._lock:
            if name not in self._calls:
                self._calls[name] = self._deserialize(name)
            return self._calls[name]

    def _deserialize(self, name: str) -> Any:
        try:
            exported = self._jax.export.deserialize(bytearray(self._blobs[name]))
        except Exception as error:
            # jax.export raises whatever its readers do: struct.error, ValueError, AttributeError.
            raise ArtifactError(
                f"JAX {self._jax.__version__} cannot read the blob '{name}' ({error})",
                hint="update JAX, or build the artifact again with the JAX of this machine",
            ) from error
        return self._jax.jit(exported.call)


@functools.cache
def _devices(jax: Any, platform: str) -> tuple[Any, ...]:
    try:
        return tuple(jax.devices(platform))
    except RuntimeError:
        return ()


def _device(jax: Any, platforms: Sequence[str]) -> Any:
    for platform in platforms:
        if devices := _devices(jax, platform):
            return devices[0]
    raise DeviceError(
        f"the module was built for {', '.join(platforms)}, and JAX has no such device here",
        hint="check the environment variable JAX_PLATFORMS and the installed JAX plugin",
    )


def _runs(actual: str, wanted: str) -> bool:
    return actual == wanted or (actual == "gpu" and wanted in ("cuda", "rocm"))
