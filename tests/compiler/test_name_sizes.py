"""Sizes that are quotients of the model's get names of their own in each kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from schedule_support import by_torch, compare, graph, modules
from tvm import IRModule, s_tir, tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm.name_sizes import name_sizes
from nexus_compiler.ir import canonical
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalize

SHAPES = [(1, 4, "h", "w"), (6, 4, 3, 3), (6, 6, 3, 3), (6, 1, 3, 3)]


def build(x: Any, first: Any, same: Any, deep: Any) -> Any:
    x = op.nn.conv2d(x, first, strides=2, padding=1)
    for _ in range(2):
        x = op.nn.relu(op.nn.conv2d(x, same, padding=1))
        x = op.nn.conv2d(x, deep, strides=2, padding=1, groups=6)
    return op.concat([x, op.multiply(x, x)], axis=2)


def reference(x: Any, first: Any, same: Any, deep: Any) -> Any:
    conv = torch.nn.functional.conv2d
    x = conv(x, first, stride=2, padding=1)
    for _ in range(2):
        x = torch.relu(conv(x, same, padding=1))
        x = conv(x, deep, stride=2, padding=1, groups=6)
    return torch.cat([x, x * x], 2)


def kernels(shapes: Any = SHAPES, build: Any = build) -> list[tirx.PrimFunc]:
    functions = base.run(graph(shapes, build).module, (Legalize(), Fuse())).functions.values()
    return [function for function in functions if isinstance(function, tirx.PrimFunc)]


def test_no_quotient_stays_that_a_tensor_tells() -> None:
    before = [kernel for kernel in kernels() if "//" in kernel.script()]
    assert before
    for kernel in before:
        assert "//" not in name_sizes(kernel).script()


def test_a_kernel_without_quotients_stays_as_it_is() -> None:
    (plain,) = kernels([("n", 3)], op.nn.relu)
    assert name_sizes(plain).same_as(plain)


def test_layers_at_different_depths_are_one_kernel() -> None:
    def distinct(functions: list[tirx.PrimFunc]) -> int:
        plain = [function.without_attr("global_symbol") for function in functions]
        return len({canonical.digest(function) for function in plain})

    every = kernels()
    assert distinct([name_sizes(kernel) for kernel in every]) < distinct(every)


def test_sums_that_are_a_quotient_in_another_form() -> None:
    def rest(x: Any) -> Any:
        (size,) = x.ty.shape
        return op.zeros([size - (size - 1) // 2 * 2 - 1, (size - 1) // 2 * 2 + 2], "float32")

    (kernel,) = kernels([("n",)], rest)
    s_tir.Schedule(IRModule({"main": name_sizes(kernel)}))  # refuses what is not well formed


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return modules(tmp_path_factory.mktemp("store"), graph(SHAPES, build))


@pytest.mark.parametrize("h, w", [(1, 1), (16, 33), (37, 8)])
def test_results_are_right_at_any_size(loaded: Any, h: int, w: int) -> None:
    compare(loaded, SHAPES, by_torch(reference), {"h": h, "w": w})
