"""Frontends: each turns one kind of model into a captured graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_compiler.ir.one_thread import one_thread
from nexus_runtime.errors import CaptureError

__all__ = ["CaptureMemory", "CapturedGraph", "Source", "capture"]


@dataclass
class CaptureMemory:
    """What frontends keep of one capture for the next; each makes what it needs.

    Attributes:
        torch: layers that were traced (`nexus_compiler.frontend.torch.Memory`).
    """

    torch: Any = None


@one_thread
def capture(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    dynamic_shapes: Any = None,
    memory: CaptureMemory | None = None,
) -> CapturedGraph:
    """Turn `model` into Relax; see `nexus_compiler.compile` for what it may be.

    A PyTorch module needs example inputs: `args` and `kwargs`; `dynamic_shapes` is as for
    `torch.export.export`. The other frontends take neither. With a `memory`, what is as it was in
    an earlier capture is not traced again; the result is the same.

    Raises:
        CaptureError: no frontend takes it, or it cannot be read.
    """
    if isinstance(model, str | Path) or type(model).__module__.startswith("onnx"):
        from nexus_compiler.frontend import onnx

        return onnx.capture(model, shapes=shapes, constants=constants)
    if shapes or constants:
        raise CaptureError(
            "`shapes` and `constants` are for inputs of ONNX models, and this is none",
            hint="give a GraphBuilder its shapes in `.input`, PyTorch example inputs in `args`",
        )
    if isinstance(model, CapturedGraph):
        return model
    if hasattr(model, "to_graph"):  # a GraphBuilder
        return model.to_graph()
    if any(cls.__module__.startswith("torch.") for cls in type(model).__mro__):
        from nexus_compiler.frontend import torch

        memory = memory or CaptureMemory()
        memory.torch = memory.torch or torch.Memory()
        return torch.capture(
            model, args, kwargs, dynamic_shapes=dynamic_shapes, memory=memory.torch
        )
    raise CaptureError(
        f"cannot capture a {type(model).__module__}.{type(model).__qualname__}",
        hint="pass the path of an ONNX file, an onnx.ModelProto, a torch.nn.Module "
        "or a GraphBuilder",
    )
