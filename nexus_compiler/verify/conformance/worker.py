"""A process that judges one case after the other, through capture, compile, load and run."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_compiler.verify.conformance import cases, compare
from nexus_compiler.verify.conformance.cases import Case
from nexus_runtime.errors import CaptureError, NeedsConstant, NexusError, ShapeError

OURS = "nexus"
PEER = "onnxruntime"


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        verdict: "pass", "wrong", "unsupported" (refused, with a reason) or "crash" (anything else).
        reason: why it did not pass.
        seconds: how long it took.
        frozen: the inputs that had to be made constants of the model.
    """

    verdict: str
    reason: str = ""
    seconds: float = 0.0
    frozen: tuple[str, ...] = ()


def main(connection: Any, against: bool) -> None:
    """Answer each name of a case from `connection` with verdicts, until None comes."""
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
        # TVM's warnings would bury the progress that the parent shows.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        connection.send(None)
        while (name := connection.recv()) is not None:
            connection.send((OURS, _timed(lambda case=known[name]: _ours(case, options))))
            if against:
                connection.send((PEER, _timed(lambda case=known[name]: _peer(case))))


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
    reason = compare.difference(case, found)
    return Verdict("wrong" if reason else "pass", reason, frozen=tuple(frozen))


def _run(case: Case, options: Any, frozen: dict[str, np.ndarray]) -> Sequence[Any]:
    """The outputs. An input is frozen only after the compiler asked for its value."""
    from nexus_compiler.pipeline import compile
    from nexus_runtime.module import load

    while True:
        try:
            artifact = compile(case.model, constants=frozen, options=options)
            break
        except NeedsConstant as error:
            more = _freezable(case, error.name, frozen)
            if not more:
                raise
            frozen |= more
    module = load(artifact)
    inputs = {name: value for name, value in case.inputs.items() if name not in frozen}
    outputs = module.run(module.main.name, inputs)
    return [outputs[value.name] for value in case.model.graph.output]


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


def _peer(case: Case) -> Verdict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = _peer_outputs(session, case)
    except Exception as error:  # its classes of errors are private
        return Verdict("unsupported", _line(error))
    reason = compare.difference(case, found)
    return Verdict("wrong" if reason else "pass", reason)


def _peer_outputs(session: Any, case: Case) -> list[Any]:
    """Results as ONNX Runtime gives them; those of types that NumPy lacks come back as bits."""
    import onnx
    import onnxruntime

    exotic = {np.asarray(v).dtype for v in case.inputs.values() if isinstance(v, np.ndarray)}
    exotic |= {v.dtype for v in case.outputs if isinstance(v, np.ndarray)}
    if not any(dtype.type.__module__.startswith("ml_dtypes") for dtype in exotic):
        return session.run(None, dict(case.inputs))
    feeds: dict[str, Any] = {}
    for name, value in case.inputs.items():
        number = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        feeds[name] = make(np.ascontiguousarray(value).reshape(value.shape), number)
    results = session.run_with_ort_values([o.name for o in session.get_outputs()], feeds)
    return [_bits(result, want) for result, want in zip(results, case.outputs)]


def _bits(result: Any, want: Any) -> Any:
    with contextlib.suppress(Exception):
        return result.numpy()
    element = onnx_element(want)
    if result.element_type() != element:
        raise ValueError(f"it returns elements of type {result.element_type()}, not {element}")
    raw = np.from_dlpack(result)
    return raw.view(want.dtype).reshape(result.shape())


def onnx_element(want: np.ndarray) -> int:
    """ONNX's number for the element type of `want`."""
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(want.dtype))


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[-1]}"[:400]
