"""Gradients of pools whose channels are last, and whose windows overlap: against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from schedule_support import by_torch, check, graph, walk
from tvm import tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm.pack import LegalizePacked
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse

WINDOWS = [  # size, then window, strides, padding, all of (height, width)
    ((8, 12), (3, 3), (2, 2), (1, 1)),
    ((7, 9), (3, 2), (1, 1), (0, 0)),
    ((9, 8), (2, 3), (2, 1), (1, 1)),
    ((6, 11), (2, 2), (3, 3), (1, 1)),
    ((10, 10), (4, 2), (2, 2), (2, 1)),
]


def pooled(kind: str, case: Any, *, include: bool) -> Any:
    """A function of images in NCHW order."""
    _, window, strides, padding = case
    if kind == "max":
        return lambda x: torch.nn.functional.max_pool2d(x, window, strides, padding)
    pool = torch.nn.functional.avg_pool2d
    return lambda x: pool(x, window, strides, padding, count_include_pad=include)


def gradient(kind: str, case: Any, *, include: bool) -> Any:
    _, window, strides, (down, across) = case
    options = {"strides": strides, "padding": (down, across, down, across), "layout": "NHWC"}
    if kind == "max":
        # Many values are equal: the first of the largest counts.
        return lambda g, x: op.grad.max_pool2d_backward(g, op.nn.relu(x), window, **options)
    options["count_include_pad"] = include
    return lambda g, x: op.grad.avg_pool2d_backward(g, x, window, **options)


@pytest.mark.parametrize("kind, include", [("max", False), ("avg", False), ("avg", True)])
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_gradients_are_those_of_torch(kind: str, include: bool, case: Any, tmp_path: Path) -> None:
    function = pooled(kind, case, include=include)
    samples, channels = 2, 20
    rows, columns = function(torch.zeros(1, 1, *case[0])).shape[2:]
    shapes = [(samples, rows, columns, channels), (samples, *case[0], channels)]

    def reference(adjoint: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = (x.relu() if kind == "max" else x).permute(0, 3, 1, 2).double().requires_grad_()
        function(x).backward(adjoint.permute(0, 3, 1, 2).double())
        assert x.grad is not None
        return x.grad.permute(0, 2, 3, 1).contiguous()

    build = gradient(kind, case, include=include)
    module = base.run(graph(shapes, build).module, (LegalizePacked(), Fuse(), Schedule()))
    kernels = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert "naive" not in {str(kernel.attrs["nexus.family"]) for kernel in kernels}
    for kernel in kernels:
        walk(kernel, {})
    check(tmp_path, shapes, build, by_torch(reference))
