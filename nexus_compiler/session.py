"""A warm process: what an edit left as it was is not built, linked, hashed or copied again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_compiler import pipeline
from nexus_compiler.build import CompileOptions, Memory, Pieces, build_pieces, link
from nexus_compiler.codegen import package
from nexus_compiler.collection import WithoutFullCollections
from nexus_compiler.frontend import CaptureMemory, capture
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_runtime import host, tensors, threads
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import DeviceError
from nexus_runtime.module import Module


@dataclass(frozen=True)
class Rebuilt:
    """What a build had to do.

    Attributes:
        regions: how many regions the model has, over all targets.
        kernels: how many kernels (of a target without kernels: functions) it has.
        lowered: names of the regions that were in neither memory nor store.
        built: names of the kernels of which there was no object.
        seconds: how long it took.
    """

    regions: int
    kernels: int
    lowered: tuple[str, ...]
    built: tuple[str, ...]
    seconds: float


class Session:
    """Compiles again and again. Safe for many threads, which take turns.

    >>> session = nexus_compiler.Session()
    >>> module = session.load(model)      # a callable at once, without an artifact
    >>> module = session.load(edited)     # builds what the edit changed
    >>> session.compile(edited).save("model.nxa")

    Results are those of a fresh process: modules compute the same bits, artifacts have the same
    bytes.

    Args:
        targets: names that `nexusc targets` lists; `load` takes the first.
        options: where and how to build; by default the session has a memory of its own.

    Attributes:
        rebuilt: what the last build had to do; None before the first.

    Raises:
        TargetError: a target is unknown, or its tools are not installed.
    """

    def __init__(
        self, targets: Sequence[str] = ("native",), *, options: CompileOptions | None = None
    ) -> None:
        self._targets = tuple(targets)
        self._rooms = [pipeline.prepare(name) for name in pipeline.distinct(targets)]
        self._options = options or CompileOptions(memory=Memory())
        self._captures = CaptureMemory()
        self._graph: CapturedGraph | None = None
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.RLock()
        self.rebuilt: Rebuilt | None = None

    def compile(
        self,
        model: Any,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        dynamic_shapes: Any = None,
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> Artifact:
        """The artifact of `model`, for all targets; as `nexus_compiler.compile`."""
        with self._lock, WithoutFullCollections():
            begin = time.perf_counter()
            graph = self._captured(model, args, kwargs, dynamic_shapes, shapes, constants)
            module = pipeline.common(graph, self._options.hooks)
            pieces = [
                build_pieces(module, graph, target, room, self._options)
                for target, room in self._rooms
            ]
            told = pipeline.flags(self._targets, shapes, constants)
            made = package.assemble(graph, module, [link(one) for one in pieces], flags=told)
            self._note(pieces, begin)
            return made

    def load(
        self,
        model: Any,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        dynamic_shapes: Any = None,
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
        num_threads: int | None = None,
        affinity: Sequence[int] | None = None,
    ) -> Module:
        """`model` as a module of this process, for the first target; no artifact is written.

        Its manifest has the signature and where the model came from, but no hashes: there is
        nothing that they would be of. Of threads tells `nexus_runtime.load`.

        Raises:
            DeviceError: this machine lacks what the target needs, or the threads cannot be had.
        """
        with self._lock, WithoutFullCollections():
            begin = time.perf_counter()
            target, room = self._rooms[0]
            if lacking := host.unmet(package.needs(target)):
                raise DeviceError(
                    f"a module for '{target.name}' needs {' and '.join(lacking)}",
                    hint="load for a target of this machine: `nexusc targets` lists them",
                )
            graph = self._captured(model, args, kwargs, dynamic_shapes, shapes, constants)
            module = pipeline.common(graph, self._options.hooks)
            pieces = build_pieces(module, graph, target, room, self._options)
            setting = threads.settle(num_threads, affinity)
            executor = room.open(pieces.plan, pieces.data(), graph.signature, target, setting)
            told = pipeline.flags(self._targets[:1], shapes, constants)
            said = package.unwritten(graph, room, told)
            made = Module.of(said, target.name, executor, self._kept_weights(graph))
            self._note([pieces], begin)
            return made

    def _captured(
        self,
        model: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        dynamic_shapes: Any,
        shapes: Mapping[str, Sequence[int | str | None]] | None,
        constants: Mapping[str, np.ndarray] | None,
    ) -> CapturedGraph:
        self._options.progress("capture", 0, 1)
        # The last graph lives until the next one has taken over the arrays that are the same.
        self._graph = capture(
            model,
            args,
            kwargs,
            shapes=shapes,
            constants=constants,
            dynamic_shapes=dynamic_shapes,
            memory=self._captures,
        )
        self._options.progress("capture", 1, 1)
        return self._graph

    def _kept_weights(self, graph: CapturedGraph) -> dict[str, np.ndarray]:
        """Aligned copies of the weights; those of arrays that nobody can write to are kept."""
        kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in sorted(graph.params):
            array = graph.params[name]
            source, copy = self._weights.get(name, (None, None))
            if copy is None or source is not array or array.flags.writeable:
                copy = tensors.copied(array)
            kept[name] = (array, copy)
        self._weights = kept
        return {name: copy for name, (_, copy) in kept.items()}

    def _note(self, pieces: Sequence[Pieces], begin: float) -> None:
        self.rebuilt = Rebuilt(
            regions=sum(len(one.regions.regions) for one in pieces),
            kernels=sum(len(one.objects) for one in pieces),
            lowered=tuple(name for one in pieces for name in one.lowered),
            built=tuple(name for one in pieces for name in one.built),
            seconds=time.perf_counter() - begin,
        )
