"""Channels last, packed weights, transposed convolutions, windows: against PyTorch."""

# The annotations of TVMScript are calls.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from schedule_support import check, graph
from torch.nn import functional
from tvm import relax, tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

import nexus_compiler
import nexus_runtime
from nexus_compiler.codegen.llvm.pack import LegalizePacked
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.ir.calls import operators
from nexus_compiler.passes import base
from nexus_compiler.passes.channels_last import ChannelsLast
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.prepare_weights import PrepareWeights
from nexus_compiler.passes.subpixel import SubPixel
from nexus_compiler.store.local import LocalStore


def by_torch_last(function: Any) -> Any:
    """`function` of images in NCHW order, for images in NHWC order."""

    def run(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        found = function(torch.from_numpy(x).permute(0, 3, 1, 2), *map(torch.from_numpy, rest))
        return np.ascontiguousarray(found.permute(0, 2, 3, 1).numpy())

    return run


def depthwise(x: Any, w: Any, channels: int, **options: int) -> Any:
    turned = op.permute_dims(w, [2, 3, 1, 0])
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    return op.nn.relu(op.nn.conv2d(x, turned, groups=channels, **options, **layouts))


WINDOWS = [  # channels, size, taps, then strides, padding, dilation
    (24, (12, 13), 3, 1, 1, 1),
    (48, (20, 30), 5, 2, 2, 1),
    (7, (9, 9), 3, 1, 0, 1),
    (33, (11, 40), 3, 2, 1, 2),
]


@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_windows_over_channels(tmp_path: Path, case: Any) -> None:
    channels, size, taps, stride, pad, dilation = case
    options = {"padding": pad, "dilation": dilation}
    check(
        tmp_path,
        [(2, *size, channels), (channels, 1, taps, taps)],
        lambda x, w: depthwise(x, w, channels, strides=stride, **options),
        by_torch_last(
            lambda x, w: functional.conv2d(x, w, stride=stride, groups=channels, **options).relu()
        ),
    )
    check(
        tmp_path,
        [(2, *size, channels)],
        lambda x: op.nn.max_pool2d(x, (3, 3), stride, 1, layout="NHWC"),
        by_torch_last(lambda x: functional.max_pool2d(x, 3, stride, 1)),
    )


@pytest.mark.parametrize("high, wide", [(3, 3), (4, 17), (13, 19)])
def test_windows_over_images_of_any_size(tmp_path: Path, high: int, wide: int) -> None:
    check(
        tmp_path,
        [(2, "h", "w", 24), (24, 1, 3, 3)],
        lambda x, w: depthwise(x, w, 24, strides=1, padding=1),
        by_torch_last(lambda x, w: functional.conv2d(x, w, padding=1, groups=24).relu()),
        h=high,
        w=wide,
    )


def families(module: tvm.IRModule) -> set[str]:
    kernels = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    return {str(f.attrs["nexus.family"]) for f in kernels}


def test_windows_are_no_naive_loops() -> None:
    captured = graph([(1, 9, 9, 32), (32, 1, 3, 3)], lambda x, w: depthwise(x, w, 32, strides=1))
    steps = (LegalizePacked(), Fuse(), Schedule())
    assert "sweep" in families(base.run(captured.module, steps))


@I.ir_module
class Network:
    @R.function
    def main(
        x: R.Tensor(("n", 3, 10, 12), "float32"),
        w: R.Tensor((20, 3, 3, 3), "float32"),
        b: R.Tensor((20, 1, 1), "float32"),
        v: R.Tensor((6, 20, 1, 1), "float32"),
    ) -> R.Tuple(R.Tensor(("n", 6, 5, 6), "float32")):
        R.func_attr({"nexus.inputs": 1})
        with R.dataflow():
            first = R.nn.relu(R.add(R.nn.conv2d(x, w, padding=1), b))
            second = R.nn.conv2d(R.nn.max_pool2d(first, (2, 2), (2, 2)), v)
            out = (second,)
            R.output(out)
        return out


def calls(module: tvm.IRModule, name: str) -> list[relax.Call]:
    found: list[relax.Call] = []

    def visit(node: relax.Expr) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") == name:
            found.append(node)

    relax.analysis.post_order_visit(module["main"], visit)
    return found


def test_transposes_stand_at_the_borders_only() -> None:
    after = base.run(Network, [ChannelsLast()])
    assert {str(c.attrs.data_layout) for c in calls(after, "relax.nn.conv2d")} == {"NHWC"}
    assert [str(c.attrs.layout) for c in calls(after, "relax.nn.max_pool2d")] == ["NHWC"]
    moved = [c.args[0].ty.ndim for c in calls(after, "relax.permute_dims")]
    # The input, the output, two kernels and the bias.
    assert len(moved) == 5


def test_weights_are_packed_once() -> None:
    steps = (ChannelsLast(), LegalizePacked(vector_bits=128), PrepareWeights(), Fuse(), Schedule())
    after = base.run(Network, steps)
    packed = after["main__prepare"].ty.ret.fields
    assert all(str(kind.dtype) == "float32" for kind in packed)
    assert any(kind.ndim == 5 for kind in packed)
    assert operators(after["main__run"]) <= {"relax.call_tir", "relax.reshape"}
    assert "matmul" in families(after)


TRANSPOSED = [  # channels, filters, taps, stride, padding, output padding
    (24, 24, 2, 2, 0, 0),
    (3, 5, 4, 2, 1, 0),
    (4, 6, 3, 2, 1, 1),
    (4, 3, 5, 3, 0, 2),
    (2, 2, 1, 2, 0, 1),
    (3, 4, (3, 4), (1, 2), (1, 0), 0),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_convolutions(tmp_path: Path, case: Any) -> None:
    channels, filters, taps, stride, pad, more = case
    pair = taps if isinstance(taps, tuple) else (taps, taps)
    keys = {"padding": pad, "output_padding": more}
    captured = graph(
        [("n", channels, "h", 9), (channels, filters, *pair)],
        lambda x, w: op.nn.relu(op.nn.conv2d_transpose(x, w, strides=stride, **keys)),
    )
    assert not calls(base.run(captured.module, [SubPixel()]), "relax.nn.conv2d_transpose")
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    module = nexus_runtime.load(nexus_compiler.compile(captured, options=options))
    for n, high in ((2, 7), (1, 1), (0, 4)):
        x = torch.randn(n, channels, high, 9)
        w = torch.randn(channels, filters, *pair)
        expected = functional.conv_transpose2d(x, w, stride=stride, **keys).relu()
        found = np.asarray(module(x.numpy(), w.numpy()))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


WINOGRAD = [  # images, channels, size, filters, padding
    (1, 32, (24, 24), 48, 1),
    (2, 24, (27, 18), 33, 0),
    (1, 19, (30, 41), 24, (0, 1)),
]


@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_convolutions_by_transformed_tiles(tmp_path: Path, case: Any) -> None:
    images, channels, size, filters, pad = case
    network = torch.nn.Sequential(
        torch.nn.Conv2d(channels, filters, 3, padding=pad), torch.nn.ReLU()
    )
    x = torch.randn(images, channels, *size, generator=torch.Generator().manual_seed(0))
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    targets = ("native", "x86-64-v3")
    artifact = nexus_compiler.compile(network.eval(), args=(x,), targets=targets, options=options)
    with torch.no_grad():
        expected = network.double()(x.double()).numpy()
    for target in targets:
        module = nexus_runtime.load(artifact, target=target)
        error = np.abs(np.asarray(module(x.numpy())) - expected).max()
        # Sums of 9 * channels products, ten times the rounding of the direct sum.
        assert error <= 10 * 9 * channels * np.finfo(np.float32).eps * np.abs(expected).max()
        work = artifact.work(target)
        assert work is not None
        assert {"winograd", "matmul"} <= {kernel.family for kernel in work.kernels.values()}
