"""Verifies a model: regions without a proof against a reference, the others by their proofs.

A region is checked on the tensors that stand at its borders when the model runs: those that regions
with a proof made, or that the reference made of what is being checked. So a wrong kernel spoils the
inputs of no other region. What lies between regions is compared end to end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_compiler import pipeline
from nexus_compiler.build import CompileOptions, Pieces, build_pieces
from nexus_compiler.codegen.door import Room
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.ir.region import Region
from nexus_compiler.passes.record import Place
from nexus_compiler.targets import TargetSpec
from nexus_compiler.verify import compare, proofs, walk
from nexus_compiler.verify.evaluate import Evaluator
from nexus_compiler.verify.expected import Expected
from nexus_compiler.verify.opened import RegionKernels, is_emulated
from nexus_compiler.verify.program import functions
from nexus_compiler.verify.report import (
    DIFFERS,
    INHERITED,
    PROVED,
    UNCHECKED,
    FunctionVerdict,
    RegionVerdict,
    Report,
)
from nexus_runtime.errors import InternalError, UnsupportedOperator
from nexus_runtime.signature import FunctionSpec

Arrays = Mapping[str, Mapping[str, np.ndarray]]
"""Inputs by name, by function."""


def verify_graph(
    captured: CapturedGraph,
    target: TargetSpec,
    room: Room,
    inputs: Arrays,
    *,
    options: CompileOptions,
    evaluator: Evaluator,
    expected: Expected | None,
    everything: bool = False,
    num_threads: int | None = None,
) -> Report:
    """Verify the functions of `inputs`, and keep the proofs in the store of `options`.

    Args:
        captured: the model; what is not built yet is built.
        target: what it is built for, settled for this machine.
        room: of `target`.
        inputs: what the functions are called with.
        options: as for `compile`.
        evaluator: the reference for regions.
        expected: the reference for whole functions; None: these are not compared.
        everything: take no proof for granted.
        num_threads: of one call.

    Raises:
        DeviceError: modules for `target` run neither here nor under an emulator, or the reference
            is not installed.
        InputError: the reference has other outputs.
    """
    begin = time.perf_counter()
    emulated = is_emulated(target)
    module = pipeline.common(captured, options.hooks)
    pieces = build_pieces(module, captured, target, room, options)
    ready = time.perf_counter()
    ledger = proofs.Ledger(options.store)
    lowering = options.lowering(room, target)
    kernels = RegionKernels(pieces, lowering, options, num_threads=num_threads)
    checks = _Checks(pieces, kernels, lowering.fingerprint, ledger, evaluator, everything, emulated)
    specs = [one for one in captured.signature.functions if one.name in inputs]
    for spec in specs:
        checks.check(spec, [*_in_order(spec, inputs), *_weights(spec, captured)])
    whole: list[FunctionVerdict] = []
    if expected is not None:
        whole = functions(
            specs,
            inputs,
            captured,
            pieces,
            ledger,
            expected,
            lowering.factors,
            everything=everything,
            num_threads=num_threads,
        )
    return Report(
        target.name,
        checks.verdicts(),
        tuple(whole),
        kernels.loose(),
        seconds=round(time.perf_counter() - ready, 3),
        build_seconds=round(ready - begin, 3),
    )


def _in_order(spec: FunctionSpec, inputs: Arrays) -> list[np.ndarray]:
    return [inputs[spec.name][one.name] for one in spec.inputs]


def _weights(spec: FunctionSpec, captured: CapturedGraph) -> list[np.ndarray]:
    return [captured.params[name] for name in spec.parameters]


@dataclass(eq=False)
class _Case:
    """A region at one set of shapes: where it first stands, and what is known of it."""

    region: Region
    shapes: tuple[walk.Shape, ...]
    place: Place
    first: int
    places: int = 0
    proof: proofs.Proof | None = None
    now: bool = False
    reason: str = ""

    @property
    def is_open(self) -> bool:
        return self.proof is None and not self.reason

    @property
    def is_good(self) -> bool:
        return self.proof is not None and self.proof.holds

    def verdict(self) -> RegionVerdict:
        status, proof = UNCHECKED, self.proof
        if proof is not None:
            status = (PROVED if self.now else INHERITED) if proof.holds else DIFFERS
        return RegionVerdict(
            region=self.region.digest,
            status=status,
            places=self.places,
            origin=self.place.origin,
            location=self.place.location,
            operators=tuple(name.removeprefix("relax.") for name in self.region.operators),
            shapes=self.shapes,
            kernels=tuple(proof.objects) if proof else (),
            outputs=proof.outputs if proof else (),
            reference=proof.reference if proof else "",
            proved_at=_where(proof.origin, proof.location) if proof else "",
            reason=self.reason,
        )


@dataclass(eq=False)
class _Checks:
    """The checks of all regions of a build."""

    pieces: Pieces
    kernels: RegionKernels
    fingerprint: Any
    ledger: proofs.Ledger
    evaluator: Evaluator
    everything: bool
    emulated: bool

    def __post_init__(self) -> None:
        self._cases: dict[tuple[str, tuple[walk.Shape, ...]], _Case] = {}
        graph = self.pieces.regions
        said = self.pieces.record().places if graph.places else ()
        self._places: dict[str, list[Place]] = {}
        for place, told in zip(graph.places, said):
            self._places.setdefault(place.function, []).append(told)

    def verdicts(self) -> tuple[RegionVerdict, ...]:
        """In the order of the graph."""
        return tuple(case.verdict() for case in self._cases.values())

    def check(self, spec: FunctionSpec, arguments: Sequence[np.ndarray]) -> None:
        """Check what has no proof among the regions of a function, on its `arguments`."""
        graph, name = self.pieces.regions, spec.name
        if not walk.is_cut(graph, name):
            return
        stops = walk.stops(graph, name, [one.shape for one in arguments])
        known = len(self._places[name])
        if len(stops) != known:
            raise InternalError(f"'{name}' calls {len(stops)} regions, {known} are on record")
        cases = [
            self._case(stop.region, stop.shapes, name, position) if stop.known else None
            for position, stop in enumerate(stops)
        ]
        until = -1
        for position, case in enumerate(cases):
            if case is not None:
                case.places += 1
            if case is None or (case.is_open and case.first == position):
                until = position
        if until >= 0:
            self._walk(spec, arguments, stops, until)

    def _walk(
        self,
        spec: FunctionSpec,
        arguments: Sequence[np.ndarray],
        stops: Sequence[walk.Stop],
        until: int,
    ) -> None:
        """Run the function up to the region at `until`."""
        needed = {one.region.digest: one.region for one in stops[: until + 1]}
        self.kernels.open(list(needed.values()))
        reached = -1

        def at(position: int, region: Region, given: list[np.ndarray]) -> Sequence[np.ndarray]:
            nonlocal reached
            reached = position
            shapes = tuple(one.shape for one in given)
            case = self._case(region, shapes, spec.name, position)
            case.places += not stops[position].known
            outputs = self._outputs(case, given)
            if position == until:
                raise walk.Enough
            return outputs

        try:
            walk.run(self.pieces.regions, spec.name, arguments, at=at, evaluator=self.evaluator)
        except walk.Enough:
            pass
        except UnsupportedOperator as error:
            for position in range(reached + 1, until + 1):
                stop = stops[position]
                case = self._case(stop.region, stop.shapes, spec.name, position)
                case.places += not stop.known
                if case.is_open:
                    case.reason = f"its inputs cannot be computed: {error.message}"

    def _case(
        self, region: Region, shapes: tuple[walk.Shape, ...], function: str, position: int
    ) -> _Case:
        name = region.digest, shapes
        if name not in self._cases:
            case = _Case(region, shapes, self._places[function][position], position)
            known = all(size is not None for shape in shapes for size in shape)
            if known and not self.everything:
                case.proof = self.ledger.find(self._key(case), self.kernels.objects(region))
            self._cases[name] = case
        return self._cases[name]

    def _key(self, case: _Case) -> Fingerprint:
        shapes = [[int(size or 0) for size in shape] for shape in case.shapes]
        return proofs.key_of(self.fingerprint(case.region).factors, shapes)

    def _outputs(self, case: _Case, given: list[np.ndarray]) -> Sequence[np.ndarray]:
        """What stands behind the region: it is checked first, where it has no proof."""
        if case.is_open:
            return self._checked(case, given)
        if case.reason or (case.is_good and not self.emulated):
            return self.kernels.run(case.region, given)
        return self._expected(case, given)[1]

    def _expected(self, case: _Case, given: list[np.ndarray]) -> tuple[str, list[np.ndarray]]:
        region = case.region
        return self.evaluator.call(region.function, given, callees=region.parts, key=region.digest)

    def _checked(self, case: _Case, given: list[np.ndarray]) -> Sequence[np.ndarray]:
        try:
            reference, wanted = self._expected(case, given)
        except UnsupportedOperator as error:
            case.reason = error.message
            return self.kernels.run(case.region, given)
        if not any(compare.is_telling(one) for one in wanted):
            case.reason = "the reference gave no finite value: give other inputs with --input"
            return wanted
        found = self.kernels.run(case.region, given)
        names = [f"output {place}" for place in range(len(wanted))]
        differences = compare.compare(
            dict(zip(names, found)), dict(zip(names, wanted)), rounded=_rounds(case.region)
        )
        case.proof = proofs.Proof(
            outputs=tuple(differences),
            reference=reference,
            inputs=proofs.digest_of(given),
            origin=case.place.origin,
            location=case.place.location,
            objects=self.kernels.objects(case.region),
        )
        case.now = True
        self.ledger.keep(self._key(case), case.proof)
        return wanted


def _rounds(region: Region) -> bool:
    return any("round" in name or "quantize" in name for name in region.operators)


def _where(origin: str, location: str) -> str:
    return f"{origin} at {location}" if location else origin
