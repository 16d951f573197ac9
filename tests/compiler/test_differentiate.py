"""Gradients against PyTorch's, operator by operator and through structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tvm import relax

import nexus_compiler
import nexus_runtime
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes.differentiate import Differentiate
from nexus_compiler.store.local import LocalStore
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

F, op = torch.nn.functional, relax.op

CASES: dict[str, tuple[list[tuple[int, ...]], Callable, Callable]] = {
    "add broadcast": ([(4, 3), (3,)], lambda b, x, y: op.add(x, y), lambda x, y: x + y),
    "reused": ([(4, 3)], lambda b, x: op.multiply(x, b.emit(op.exp(x))), lambda x: x * x.exp()),
    "matmul": ([(4, 3), (3, 5)], lambda b, x, y: op.matmul(x, y), lambda x, y: x @ y),
    "batched": ([(2, 4, 3), (2, 3, 5)], lambda b, x, y: op.matmul(x, y), lambda x, y: x @ y),
    "conv": (
        [(2, 3, 6, 6), (4, 3, 3, 3)],
        lambda b, x, w: op.nn.conv2d(x, w, strides=2, padding=1),
        lambda x, w: F.conv2d(x, w, stride=2, padding=1),
    ),
    "max pool": (
        [(2, 3, 6, 6)],
        lambda b, x: op.nn.max_pool2d(x, (2, 2), (2, 2)),
        lambda x: F.max_pool2d(x, 2),
    ),
    "concat": (
        [(2, 3), (4, 3)],
        lambda b, x, y: op.concat([x, b.emit(op.exp(y)), x], axis=0),
        lambda x, y: torch.cat([x, y.exp(), x]),
    ),
    "split": (
        [(6, 3)],
        lambda b, x: _first_and_last(b, b.emit(op.split(x, 3, axis=0))),
        lambda x: x[:2] * x[4:],
    ),
    "one part of a split": (
        [(6, 3)],
        lambda b, x: relax.TupleGetItem(b.emit(op.split(x, 2, axis=0)), 1),
        lambda x: x[3:],
    ),
    "log softmax": (
        [(4, 5)],
        lambda b, x: op.nn.log_softmax(x, axis=-1),
        lambda x: F.log_softmax(x, dim=-1),
    ),
    "mean": ([(4, 5)], lambda b, x: op.mean(x, axis=[1]), lambda x: x.mean(1)),
    "unused": ([(4, 5), (3,)], lambda b, x, y: op.exp(x), lambda x, y: x.exp()),
}


def _first_and_last(block: relax.BlockBuilder, parts: relax.Var) -> relax.Expr:
    first, last = relax.TupleGetItem(parts, 0), relax.TupleGetItem(parts, 2)
    return op.multiply(block.emit(first), block.emit(last))


def gradients(shapes: Sequence[tuple[int, ...]], build: Callable, root: Path) -> Callable:
    """A callable from arrays to the gradients of sum(f(...) * fixed weights)."""
    block = relax.BlockBuilder()
    given = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with block.function("main", given):
        with block.dataflow():
            value = block.emit(build(block, *given))
            weights = relax.const(weights_of(tuple(int(d) for d in value.ty.shape.values)))
            loss = block.emit(op.sum(block.emit(op.multiply(value, weights))))
            output = block.emit_output(relax.Tuple([loss]))
        block.emit_func_output(output)
    module = Differentiate(function="main", wanted=tuple(range(len(shapes)))).apply(block.get())
    inputs = tuple(TensorSpec(f"x{i}", "float32", s) for i, s in enumerate(shapes))
    outputs = (TensorSpec("loss", "float32", ()),) + tuple(
        TensorSpec(f"g{i}", "float32", s) for i, s in enumerate(shapes)
    )
    graph = CapturedGraph(module, Signature((FunctionSpec("main", inputs, outputs),)), {})
    options = nexus_compiler.CompileOptions(store=LocalStore(root))
    return nexus_runtime.load(nexus_compiler.compile(graph, options=options))


def weights_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_torch(name: str, tmp_path: Path) -> None:
    shapes, build, reference = CASES[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    found = gradients(shapes, build, tmp_path)(*arrays)
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = reference(*tensors)
    loss = (value * torch.tensor(weights_of(tuple(value.shape)))).sum()
    loss.backward()
    np.testing.assert_allclose(found["loss"], loss.item(), rtol=1e-5, atol=1e-5)
    for index, tensor in enumerate(tensors):
        expected = np.zeros(shapes[index]) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(found[f"g{index}"], expected, rtol=1e-4, atol=1e-5)
