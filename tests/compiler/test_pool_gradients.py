"""Gradients of pools against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from schedule_support import by_torch, check, graph, modules, walk
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
    ((8, 6), (2, 2), (2, 2), (0, 0)),
    ((9, 7), (2, 2), (2, 2), (0, 0)),
    ((11, 12), (5, 4), (1, 1), (2, 2)),
    ((13, 15), (7, 7), (2, 3), (3, 3)),
    ((10, 15), (5, 5), (5, 5), (0, 0)),
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


@pytest.mark.parametrize("channels", [1, 6, 16, 70])
@pytest.mark.parametrize("window", [2, 3])
def test_vectors_of_any_number_of_channels(channels: int, window: int, tmp_path: Path) -> None:
    def reference(adjoint: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2).double().requires_grad_()
        torch.nn.functional.max_pool2d(x, window, 2).backward(adjoint.permute(0, 3, 1, 2).double())
        assert x.grad is not None
        return x.grad.permute(0, 2, 3, 1).contiguous()

    shapes = [("n", 5, 4, channels), ("n", 11, 9, channels)]
    options = {"strides": (2, 2), "layout": "NHWC"}
    build = lambda g, x: op.grad.max_pool2d_backward(g, x, (window, window), **options)  # noqa: E731
    check(tmp_path, shapes, build, by_torch(reference), n=3)


@pytest.mark.parametrize("size, window, stride", [((9, 10), 2, 2), ((8, 11), 3, 2), ((9, 9), 5, 3)])
def test_channels_first_and_windows_that_are_rounded_up(
    size: tuple[int, int], window: int, stride: int, tmp_path: Path
) -> None:
    pool = lambda x: torch.nn.functional.max_pool2d(x, window, stride, 1, ceil_mode=True)  # noqa: E731
    rows, columns = pool(torch.zeros(1, 1, *size)).shape[2:]

    def reference(adjoint: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = x.double().requires_grad_()
        pool(x).backward(adjoint.double())
        assert x.grad is not None
        return x.grad

    def build(g: Any, x: Any) -> Any:
        figures = {"strides": (stride, stride), "padding": (1, 1, 1, 1), "ceil_mode": True}
        return op.grad.max_pool2d_backward(g, x, (window, window), **figures)

    check(tmp_path, [(2, 3, rows, columns), (2, 3, *size)], build, by_torch(reference))


@pytest.mark.parametrize("window, stride", [(2, 2), (3, 2), (5, 1)])
def test_a_window_that_holds_nan_hands_its_adjoint_to_it(
    window: int, stride: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 3, (2, 9, 9, 5)).astype(np.float32)
    x[random.random(x.shape) < 0.2] = np.nan
    x[random.random(x.shape) < 0.2] = -np.inf
    given = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(given, window, stride)
    adjoint = torch.arange(pooled.numel(), dtype=torch.float32).reshape(pooled.shape)
    pooled.backward(adjoint)
    assert given.grad is not None
    shapes = [tuple(adjoint.permute(0, 2, 3, 1).shape), x.shape]
    options = {"strides": (stride, stride), "layout": "NHWC"}
    build = lambda g, x: op.grad.max_pool2d_backward(g, x, (window, window), **options)  # noqa: E731
    for module in modules(tmp_path, graph(shapes, build)):
        names = [spec.name for spec in module.manifest.signature.functions[0].inputs]
        arrays = [np.ascontiguousarray(adjoint.permute(0, 2, 3, 1).numpy()), x]
        (found,) = module.run("main", dict(zip(names, arrays))).values()
        np.testing.assert_array_equal(found, given.grad.permute(0, 2, 3, 1).numpy())
