"""Compares whole functions of a build with a reference, from the inputs to the outputs.

This is what sees everything: the frontend, the passes over whole graphs, the program between the
kernels and its plan of memory, kernels that are in no region or write in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from nexus_compiler.build import Pieces
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.ir import canonical
from nexus_compiler.ir.fingerprint import Factor, Fingerprint
from nexus_compiler.verify import compare, proofs
from nexus_compiler.verify.expected import Expected
from nexus_compiler.verify.opened import Opened
from nexus_compiler.verify.report import (
    DIFFERS,
    INHERITED,
    PROVED,
    UNCHECKED,
    FunctionVerdict,
)
from nexus_runtime.errors import UnsupportedOperator
from nexus_runtime.signature import FunctionSpec


def functions(
    specs: Sequence[FunctionSpec],
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    captured: CapturedGraph,
    pieces: Pieces,
    ledger: proofs.Ledger,
    expected: Expected,
    factors: Sequence[Factor],
    *,
    everything: bool,
    num_threads: int | None,
) -> list[FunctionVerdict]:
    """The verdict on each function of `specs`.

    A proof is inherited only where nothing changed at all: graph, weights, inputs, reference.

    Args:
        specs: of the signature of `captured`.
        inputs: by name, by function.
        captured: the model.
        pieces: its build.
        ledger: of proofs.
        expected: the reference.
        factors: what the kernels follow from beside the graph.
        everything: take no proof for granted.
        num_threads: of one call.

    Raises:
        InputError: the reference has other outputs, or refuses the inputs.
    """
    objects = proofs.digests_of(pieces.data())
    common = _factors(captured, pieces, expected, factors)
    program: Opened | None = None
    found: list[FunctionVerdict] = []
    for spec in specs:
        arrays = inputs[spec.name]
        key = _key(spec, arrays, common)
        proof = None if everything else ledger.find(key, objects)
        if proof is not None:
            found.append(FunctionVerdict(spec.name, INHERITED, proof.reference, proof.outputs))
            continue
        program = program or _opened(pieces, captured, num_threads)
        verdict = _compared(spec, arrays, program, expected)
        if verdict.status != UNCHECKED:
            digest = proofs.digest_of(arrays[one.name] for one in spec.inputs)
            made = proofs.Proof(verdict.outputs, expected.name, digest, spec.name, "", objects)
            ledger.keep(key, made)
        found.append(verdict)
    return found


def _compared(
    spec: FunctionSpec, arrays: Mapping[str, np.ndarray], program: Opened, expected: Expected
) -> FunctionVerdict:
    try:
        wanted = expected.outputs(spec, arrays)
    except UnsupportedOperator as error:
        return FunctionVerdict(spec.name, UNCHECKED, expected.name, reason=error.message)
    if wanted and not any(compare.is_telling(one) for one in wanted.values()):
        reason = "the reference gave no finite value: give other inputs with --input"
        return FunctionVerdict(spec.name, UNCHECKED, expected.name, reason=reason)
    results = program.run(spec, [arrays[one.name] for one in spec.inputs])
    made = dict(zip([one.name for one in spec.outputs], results, strict=True))
    outputs = tuple(compare.compare(made, wanted))
    status = PROVED if all(one.passed for one in outputs) else DIFFERS
    return FunctionVerdict(spec.name, status, expected.name, outputs)


def _opened(pieces: Pieces, captured: CapturedGraph, num_threads: int | None) -> Opened:
    weights = {
        one.name: [captured.params[name] for name in one.parameters]
        for one in captured.signature.functions
    }
    return Opened(
        pieces.plan,
        pieces.data(),
        captured.signature,
        pieces.target,
        pieces.room,
        weights=weights,
        num_threads=num_threads,
    )


def _factors(
    captured: CapturedGraph, pieces: Pieces, expected: Expected, factors: Sequence[Factor]
) -> tuple[Factor, ...]:
    state = hashlib.sha256()
    for variable, function in captured.module.functions.items():
        state.update(f"{variable.name_hint} {canonical.digest(function)}\n".encode())
    return (
        ("graph", state.hexdigest()),
        *factors,
        *pieces.factors,
        ("weights", captured.params_digest()),
        ("reference", f"{expected.name} {expected.digest}"),
    )


def _key(
    spec: FunctionSpec, arrays: Mapping[str, np.ndarray], common: Sequence[Factor]
) -> Fingerprint:
    given = [arrays[one.name] for one in spec.inputs]
    own = (("function", spec.name), ("inputs", proofs.digest_of(given)))
    return proofs.key_of((*common, *own), [one.shape for one in given])
