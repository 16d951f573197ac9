"""The way of a model through its verification: capture, inputs, references, report."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus_compiler import pipeline
from nexus_compiler.build import CompileOptions
from nexus_compiler.frontend import capture
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.verify import inputs
from nexus_compiler.verify.evaluate import Evaluator
from nexus_compiler.verify.expected import ByGraph, ByOnnxRuntime, Expected
from nexus_compiler.verify.incremental import verify_graph
from nexus_compiler.verify.report import Report
from nexus_runtime.errors import CaptureError, DeviceError, InputError, UserError, nearest

_ONNX = ".onnx"


class ReferenceWarning(UserWarning):
    """A model cannot be compared with what it should be compared with."""


def verify(
    model: Any,
    *,
    target: str = "native",
    against: Path | None = None,
    given: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    everything: bool = False,
    end_to_end: bool = True,
    num_threads: int | None = None,
    options: CompileOptions | None = None,
) -> Report:
    """Check the regions of `model` that have no proof, inherit the others, compare end to end.

    What is not built yet is built. Proofs are kept in the store of `options`.

    Args:
        model: as of `nexus_compiler.compile`, like `args`, `kwargs`, `dynamic_shapes`, `shapes` and
            `constants`.
        target: what it is built for; it must run here or under an emulator.
        against: an ONNX file that whole functions are compared with by ONNX Runtime. By default
            that is `model`, where it is such a file and ONNX Runtime takes it; a PyTorch module is
            run by PyTorch, other models are computed from their graph as it was captured.
        given: inputs by name, as `inputs.make` takes them; the others are random.
        sizes: of open dimensions of made-up inputs.
        seed: made-up inputs follow from it.
        everything: take no proof for granted.
        end_to_end: compare whole functions, where anything changed.
        num_threads: of one call.

    Raises:
        CaptureError: as `compile`, or ONNX Runtime refuses `against`.
        TargetError: the target is unknown, or its tools are not installed.
        DeviceError: modules for it run neither here nor under an emulator, or a reference is not
            installed.
        InputError: an input is unknown, or does not fit.
        UserError: nothing would be checked.
    """
    options = options or CompileOptions()
    spec, room = pipeline.prepare(target)
    cut = bool(room.region_passes(spec))
    if not (cut or end_to_end):
        raise UserError(
            f"functions for '{spec.name}' are built whole: there is nothing to check but end to end"
        )
    options.progress("capture", 0, 1)
    captured = capture(
        model, args, kwargs, shapes=shapes, constants=constants, dynamic_shapes=dynamic_shapes
    )
    options.progress("capture", 1, 1)
    # What takes functions whole computes them with JAX itself.
    evaluator = Evaluator(with_jax=cut)
    expected: Expected | None = None
    if end_to_end:
        if against is not None:
            expected = ByOnnxRuntime(against, constants or {})
        else:
            found = _by_file(model, constants or {})
            found = found or _by_torch(model, args, kwargs or {}, captured)
            expected = found or ByGraph(captured, evaluator)
    return verify_graph(
        captured,
        spec,
        room,
        made_inputs(captured, given or {}, sizes or {}, seed),
        options=options,
        evaluator=evaluator,
        expected=expected,
        everything=everything,
        num_threads=num_threads,
    )


def _by_file(model: Any, constants: Mapping[str, np.ndarray]) -> Expected | None:
    """ONNX Runtime as the reference; None where `model` is no file, or one that it cannot run."""
    path = Path(model) if isinstance(model, str | Path) else None
    if path is None or path.suffix != _ONNX:
        return None
    try:
        return ByOnnxRuntime(path, constants)
    except (CaptureError, DeviceError) as error:
        text = (
            f"{error.message}: the whole is compared with its own graph, so that the import is not"
        )
        warnings.warn(f"{text} checked", ReferenceWarning, stacklevel=2)
        return None


def _by_torch(
    model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], captured: CapturedGraph
) -> Expected | None:
    """PyTorch as the reference; None where it cannot be.

    That is so for what is no module, and for dropout, whose bits only the captured graph has.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return None
    from nexus_compiler.verify.by_torch import ByTorch

    made = ByTorch(model, args, kwargs)
    return made if made.fits(captured.signature.functions[0]) else None


def made_inputs(
    captured: CapturedGraph, given: Mapping[str, str], sizes: Mapping[str, int], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by name for each function; what is not given is random.

    Raises:
        InputError: as `inputs.make` does; a name that no function knows is unknown.
    """
    known = {one.name for function in captured.signature.functions for one in function.inputs}
    for name in given:
        if name not in known:
            raise InputError(f"there is no input '{name}'", hint=nearest(name, known))
    found: dict[str, dict[str, np.ndarray]] = {}
    for function in captured.signature.functions:
        names = {one.name for one in function.inputs}
        own = {name: source for name, source in given.items() if name in names}
        found[function.name] = inputs.make(
            function, own, sizes=sizes, seed=seed, fill=inputs.RANDOM
        )
    return found
