"""A process that judges one case after the other, through capture, compile, load and run."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nexus_compiler.frontend.onnx import containers
from nexus_compiler.verify.conformance import cases, compare, peers
from nexus_compiler.verify.conformance.cases import Case
from nexus_compiler.verify.conformance.peers import PEERS
from nexus_runtime.errors import CaptureError, NeedsConstant, NexusError, ShapeError

OURS = "nexus"

Task = tuple[str, str]
"""The name of a case, and who is to be judged: `OURS` or one of `peers.PEERS`."""


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        verdict: "pass", "wrong", "unsupported" (refused, with a reason) or "crash" (anything else).
        reason: why it did not pass.
        seconds: how long it took.
        frozen: the inputs that had to be made constants of the model, or whose elements counted.
    """

    verdict: str
    reason: str = ""
    seconds: float = 0.0
    frozen: tuple[str, ...] = ()


def main(connection: Any) -> None:
    """Answer each `Task` from `connection` with a verdict, until None comes."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    known = {case.name: case for case in cases.load()}
    from nexus_compiler.pipeline import CompileOptions
    from nexus_compiler.store.local import LocalStore

    options = CompileOptions(store=LocalStore(), jobs=1)
    with tempfile.TemporaryDirectory() as directory:
        # Nobody loads the modules of these cases again; the objects they are made of stay.
        os.environ["NEXUS_CACHE"] = directory
        # TVM's warnings and what its importer prints would bury what the parent shows.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        connection.send(None)
        while (task := connection.recv()) is not None:
            case, who = known[task[0]], task[1]
            judge = partial(_ours, case, options)
            connection.send(_timed(judge if who == OURS else partial(_peer, case, PEERS[who])))


def _timed(judge: Callable[[], Verdict]) -> Verdict:
    begin = time.perf_counter()
    found = judge()
    seconds = round(time.perf_counter() - begin, 3)
    return Verdict(found.verdict, found.reason, seconds, found.frozen)


def _ours(case: Case, options: Any) -> Verdict:
    frozen: dict[str, np.ndarray] = {}
    try:
        found = _run(case, options, frozen)
    except (CaptureError, ShapeError) as error:
        return Verdict("unsupported", error.message, frozen=tuple(frozen))
    except NexusError as error:
        return Verdict("crash", f"{type(error).__name__}: {error.message}", frozen=tuple(frozen))
    except Exception as error:  # whatever it is, the next case comes
        return Verdict("crash", _line(error), frozen=tuple(frozen))
    settled = (v.name for v in case.model.graph.input if containers.is_container(v))
    return _judged(case, found, (*frozen, *settled))


def _run(case: Case, options: Any, frozen: dict[str, np.ndarray]) -> Sequence[Any]:
    """The outputs. An input is frozen only after the compiler asked for its value."""
    from nexus_compiler.pipeline import compile
    from nexus_runtime.module import load

    shapes, feeds = _flat(case)
    while True:
        try:
            artifact = compile(case.model, shapes=shapes, constants=frozen, options=options)
            break
        except NeedsConstant as error:
            more = _freezable(case, error.name, frozen)
            if not more:
                raise
            frozen |= more
    module = load(artifact)
    inputs = {name: value for name, value in feeds.items() if name not in frozen}
    missing = {spec.name for spec in module.main.inputs} - set(inputs)
    inputs |= {name: np.array(0, "uint32") for name in missing}  # the seed of random numbers
    outputs = module.run(module.main.name, inputs)
    return [containers.join(o.type, o.name, outputs) for o in case.model.graph.output]


def _flat(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """What sequences and optionals hold, as `shapes`; and all tensors that go in."""
    shapes: dict[str, Any] = {}
    feeds: dict[str, Any] = {}
    for value in case.model.graph.input:
        own, more = containers.split(value.type, value.name, case.inputs[value.name])
        shapes |= own if containers.is_container(value) else {}
        feeds |= more
    return shapes, feeds


def _freezable(case: Case, name: str, frozen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The input called `name`; where a node makes it, the small inputs of whole numbers."""
    small = {
        key: value
        for key, value in case.inputs.items()
        if isinstance(value, np.ndarray) and value.ndim <= 1 and key not in frozen
    }
    if name in small:
        return {name: small[name]}
    if name in case.inputs:
        return {}
    return {key: value for key, value in small.items() if value.dtype.kind in "biu"}


def _peer(case: Case, run: peers.Peer) -> Verdict:
    try:
        found = run(case)
    except Exception as error:  # their classes of errors are many
        return Verdict("unsupported", _line(error))
    return _judged(case, found)


def _judged(case: Case, found: Sequence[Any], frozen: Sequence[str] = ()) -> Verdict:
    reason = compare.difference(case, found)
    return Verdict("wrong" if reason else "pass", reason, frozen=tuple(frozen))


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[-1]}"[:400]
