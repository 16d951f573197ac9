"""Convolutions whose tiles of rows do not fit their lines, in all small sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm_ffi
from tvm import IRModule, relax, s_tir, tirx, transform
from tvm.relax import op
from tvm.s_tir.stmt import SBlock

import nexus_compiler
import nexus_runtime
from nexus_compiler import pipeline
from nexus_compiler.build import Memory, outlined
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.store.local import LocalStore
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

Case = tuple[int, int, int, int, int, int, int]
"""Height, width, channels, filters, kernel, stride, padding."""

# The first three have tiles of 14, 13 and 4 rows (x86-64-v3) on lines of 8, 2 and 5 results, and
# another tile for what is left: TVM made the size of the padded image depend on the tile's number.
CASES: list[Case] = [
    (8, 8, 3, 8, 3, 1, 1),
    (14, 4, 3, 13, 5, 2, 2),
    (14, 3, 1, 4, 3, 1, 2),
    (1, 17, 3, 8, 1, 1, 0),
    (17, 1, 4, 13, 3, 2, 1),
    (5, 11, 8, 24, 5, 1, 2),
    (9, 10, 16, 8, 3, 3, 0),
]


def _graph(cases: Sequence[Case]) -> CapturedGraph:
    """Convolutions side by side: inputs `x<i>`, weights `w<i>`, outputs `y<i>`."""
    source = np.random.default_rng(0)
    weights = {
        f"w{i}": source.standard_normal((filters, channels, size, size), np.float32)
        for i, (_, _, channels, filters, size, _, _) in enumerate(cases)
    }
    given = [TensorSpec(f"x{i}", "float32", (1, c[2], *c[:2])) for i, c in enumerate(cases)]
    known = [TensorSpec(name, "float32", array.shape) for name, array in weights.items()]
    variables = [relax.Var(s.name, relax.TensorType(s.shape, s.dtype)) for s in [*given, *known]]
    block = relax.BlockBuilder()
    with block.function("main", variables):
        with block.dataflow():
            results = [
                block.emit(op.nn.relu(op.nn.conv2d(x, w, strides=case[5], padding=case[6])))
                for case, x, w in zip(cases, variables, variables[len(cases) :])
            ]
            output = block.emit_output(relax.Tuple(results))
        block.emit_func_output(output)
    shapes = [tuple(int(size) for size in result.ty.shape) for result in results]
    made = tuple(TensorSpec(f"y{i}", "float32", shape) for i, shape in enumerate(shapes))
    function = FunctionSpec("main", tuple(given), made, tuple(weights))
    return CapturedGraph(block.get(), Signature((function,), tuple(known)), weights)


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
def test_convolutions_of_small_images(tmp_path: Path, target: str) -> None:
    graph = _graph(CASES)
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path))
    artifact = nexus_compiler.compile(graph, targets=[target], options=options)
    try:
        module = nexus_runtime.load(artifact)
    except nexus_runtime.DeviceError as error:
        pytest.skip(f"{target}: {error}")
    source = np.random.default_rng(1)
    images = [source.standard_normal((1, c[2], *c[:2]), np.float32) for c in CASES]
    found = module(*images)
    assert isinstance(found, dict)
    for i, (case, image) in enumerate(zip(CASES, images)):
        x, w = torch.from_numpy(image).double(), torch.from_numpy(graph.params[f"w{i}"]).double()
        expected = torch.nn.functional.conv2d(x, w, stride=case[5], padding=case[6]).relu()
        np.testing.assert_allclose(
            found[f"y{i}"], expected, rtol=2e-4, atol=2e-4, err_msg=f"{case}"
        )


def _random_cases(count: int) -> list[Case]:
    source = random.Random(1)
    found: list[Case] = []
    while len(found) < count:
        high, wide, size = source.randint(1, 17), source.randint(1, 17), source.choice((1, 3, 5))
        stride, pad = source.choice((1, 1, 2, 3)), source.choice((0, 1, 2))
        if min(high, wide) + 2 * pad >= size:
            channels, filters = source.choice((1, 3, 8, 17)), source.choice((1, 4, 8, 13, 32))
            found.append((high, wide, channels, filters, size, stride, pad))
    return found


@pytest.mark.parametrize("name", ["native", "x86-64-v3", "cortex-a72"])
def test_no_buffer_is_as_large_as_a_loop_says(tmp_path: Path, name: str) -> None:
    target, room = pipeline.prepare(name)
    options = nexus_compiler.CompileOptions(store=LocalStore(tmp_path), memory=Memory())
    cut = outlined(pipeline.common(_graph([*CASES, *_random_cases(25)])), target, room, options)
    _, kernels = options.memory.lowering(room, target).program(cut, options.store)
    module = IRModule({name: kernel.load() for name, kernel in kernels.items()})
    compact = transform.Sequential(
        [
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.CompactBufferAllocation(),
        ]
    )
    for function in compact(module).functions.values():
        blocks: list[SBlock] = []
        tvm_ffi.structural_walk(function.body, (SBlock, blocks.append))
        sizes = [n for block in blocks for buffer in block.alloc_buffers for n in buffer.shape]
        assert all(isinstance(size, tirx.IntImm) for size in sizes), function.script()
