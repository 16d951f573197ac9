"""CPU schedules: every family against NumPy and PyTorch for odd shapes, on all x86-64 targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import tvm
from schedule_support import Graph, Shape, by_torch, check, compare, graph, modules, scheduled
from tvm import relax, tirx
from tvm.relax import op

from nexus_compiler.codegen.llvm.loosen import loosened
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.tiles import choose, pieces
from nexus_compiler.ir import canonical
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalize
from nexus_runtime.module import Module


def script(shapes: list[Shape], build: Graph) -> str:
    return "\n".join(kernel.script() for kernel in scheduled(shapes, build))


@pytest.mark.parametrize(
    "m, n, k", [(1, 10, 7), (1, 128, 64), (13, 31, 17), (64, 96, 33), (3, 1, 5), (7, 49, 1)]
)
def test_matmul(tmp_path: Path, m: int, n: int, k: int) -> None:
    check(tmp_path, [(m, k), (k, n)], op.matmul, np.matmul)


@pytest.mark.parametrize("left, right", [(True, False), (False, True), (True, True)])
def test_matmul_of_transposed_operands(tmp_path: Path, left: bool, right: bool) -> None:
    m, n, k = 21, 37, 11
    shapes = [(k, m) if left else (m, k), (n, k) if right else (k, n)]

    def turned(a: Any, b: Any, turn: Callable[[Any], Any]) -> tuple[Any, Any]:
        return (turn(a) if left else a), (turn(b) if right else b)

    check(
        tmp_path,
        shapes,
        lambda a, b: op.matmul(*turned(a, b, op.permute_dims)),
        lambda a, b: np.matmul(*turned(a, b, np.transpose)),
    )


def test_products_of_which_one_operand_is_read_across(tmp_path: Path) -> None:
    # What the legaliser writes for einsum and for attention: the second operand is [n, k].
    check(
        tmp_path,
        [(2, 9, 16), (2, 20, 16)],
        lambda a, b: op.einsum([a, b], "bik,bjk->bij"),
        lambda a, b: np.einsum("bik,bjk->bij", a, b),
    )


@pytest.mark.parametrize("width", [1, 3, 20, 32])
def test_columns_in_groups_are_no_tiles_of_packed_weights(tmp_path: Path, width: int) -> None:
    # Heads lie like this; a width of one is what a vector times a batch of columns is.
    check(
        tmp_path,
        [(13, 9), (3, 9, width)],
        lambda a, b: op.matmul(a, op.reshape(op.permute_dims(b, [1, 0, 2]), (9, 3 * width))),
        lambda a, b: a @ b.transpose(1, 0, 2).reshape(9, 3 * width),
    )
    check(tmp_path, [(9,), (3, 9, width)], op.matmul, np.matmul)


def test_batched_matmul_with_an_epilogue(tmp_path: Path) -> None:
    def build(a: Any, b: Any, bias: Any, mask: Any, rest: Any) -> Any:
        total = op.nn.relu(op.add(op.matmul(a, b), bias))
        zero = relax.const(0.0, "float32")
        return op.add(op.where(op.greater(mask, zero), op.multiply(total, mask), zero), rest)

    def reference(a: Any, b: Any, bias: Any, mask: Any, rest: Any) -> Any:
        total = np.maximum(a @ b + bias, 0)
        return np.where(mask > 0, total * mask, 0) + rest

    same = (3, 18, 40)
    check(tmp_path, [(3, 18, 12), (3, 12, 40), (40,), same, same], build, reference)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Module], list[Shape], Any]:
    shapes: list[Shape] = [("n", 19), (19, 50), (50,)]
    captured = graph(shapes, lambda x, w, b: op.nn.gelu(op.add(op.matmul(x, w), b)))
    gelu = torch.nn.functional.gelu
    reference = by_torch(lambda x, w, b: gelu(x @ w + b))
    return modules(tmp_path_factory.mktemp("store"), captured), shapes, reference


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 37, 64])
def test_matmul_of_any_number_of_rows(dense: Any, n: int) -> None:
    loaded, shapes, reference = dense
    compare(loaded, shapes, reference, {"n": n})


@pytest.mark.parametrize("n", [0, 1, 33])
def test_the_number_of_columns_and_steps_may_be_unknown(tmp_path: Path, n: int) -> None:
    def build(x: Any) -> Any:
        return op.matmul(op.matmul(x, op.permute_dims(x)), x)

    check(tmp_path, [("n", 12)], build, lambda x: x @ x.T @ x, n=n)


CONVOLUTIONS = [
    # channels, size, filters, kernel, then strides, padding, dilation, groups
    (3, (15, 17), 8, (3, 3), 1, 1, 1, 1),
    (16, (7, 7), 24, (3, 3), 1, 1, 1, 1),
    (5, (23, 20), 6, (7, 7), 2, 3, 1, 1),
    (8, (14, 9), 13, (1, 1), 2, 0, 1, 1),
    (4, (12, 31), 8, (3, 3), 1, 2, 2, 1),
    (12, (11, 10), 12, (5, 5), 2, 2, 1, 12),
    (12, (9, 16), 18, (3, 3), 1, 1, 1, 3),
    (6, (8, 8), 12, (3, 3), 3, 0, 1, 6),
    (7, (10, 10), 4, (3, 2), 1, 0, 1, 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_with_an_epilogue(tmp_path: Path, case: Any) -> None:
    channels, size, filters, kernel, stride, pad, dilation, groups = case
    keys = {"padding": pad, "dilation": dilation, "groups": groups}

    def build(x: Any, w: Any, b: Any) -> Any:
        total = op.nn.conv2d(x, w, strides=stride, **keys)
        return op.nn.relu(op.add(total, b))

    def reference(x: Any, w: Any, b: Any) -> Any:
        return torch.relu(torch.nn.functional.conv2d(x, w, stride=stride, **keys) + b)

    shapes = [(2, channels, *size), (filters, channels // groups, *kernel), (1, filters, 1, 1)]
    check(tmp_path, shapes, build, by_torch(reference))


def test_a_slice_of_the_results_is_no_epilogue(tmp_path: Path) -> None:
    check(
        tmp_path,
        [(9, 16), (16, 40)],
        lambda a, b: op.strided_slice(op.matmul(a, b), [0, 1], [0, 0], [5, 33]),
        lambda a, b: (a @ b)[:5, :33],
    )
    check(
        tmp_path,
        [(1, 3, 9, 9), (4, 3, 3, 3)],
        lambda x, w: op.strided_slice(op.nn.conv2d(x, w), [2, 3], [0, 0], [6, 5]),
        by_torch(lambda x, w: torch.nn.functional.conv2d(x, w)[:, :, :6, :5]),
    )


@pytest.mark.parametrize("n", [0, 1, 3])
def test_convolution_of_any_number_of_images(tmp_path: Path, n: int) -> None:
    check(
        tmp_path,
        [("n", 4, 13, 13), (6, 4, 3, 3)],
        lambda x, w: op.nn.conv2d(x, w, strides=2, padding=1),
        by_torch(lambda x, w: torch.nn.functional.conv2d(x, w, stride=2, padding=1)),
        n=n,
    )


@pytest.mark.parametrize("stride, pad", [(1, 1), (2, 1), (2, 0), (3, 1)])
def test_pools(tmp_path: Path, stride: int, pad: int) -> None:
    functional = torch.nn.functional
    shapes = [(2, 5, 17, 14)]
    check(
        tmp_path,
        shapes,
        lambda x: op.nn.max_pool2d(x, (3, 3), stride, pad),
        by_torch(lambda x: functional.max_pool2d(x, 3, stride, pad)),
    )
    check(
        tmp_path,
        shapes,
        lambda x: op.nn.avg_pool2d(x, (3, 3), stride, pad, count_include_pad=True),
        by_torch(lambda x: functional.avg_pool2d(x, 3, stride, pad)),
    )


@pytest.mark.parametrize("columns", [1, 2, 10, 64, 131, 1000])
def test_softmax_and_layer_norm(tmp_path: Path, columns: int) -> None:
    def build(x: Any, scale: Any, shift: Any) -> Any:
        return op.nn.layer_norm(op.nn.softmax(x), scale, shift, axes=[-1])

    def reference(x: Any, scale: Any, shift: Any) -> Any:
        return torch.nn.functional.layer_norm(torch.softmax(x, -1), (columns,), scale, shift)

    shapes = [("n", columns), (columns,), (columns,)]
    loaded = modules(tmp_path, graph(shapes, build))
    for n in (0, 1, 5):
        compare(loaded, shapes, by_torch(reference), {"n": n})


REDUCTIONS: dict[str, tuple[Graph, Any]] = {
    "rows": (lambda x: op.sum(x, axis=2), lambda x: x.sum(2)),
    "columns": (lambda x: op.sum(x, axis=0), lambda x: x.sum(0)),
    "middle": (lambda x: op.max(x, axis=1), lambda x: x.max(1)),
    "two": (lambda x: op.mean(x, axis=[1, 2]), lambda x: x.mean((1, 2))),
    "all": (op.min, np.min),
    "product": (lambda x: op.prod(x, axis=2), lambda x: x.prod(2)),
    "variance": (lambda x: op.variance(x, axis=2), lambda x: x.var(2)),
    "log_softmax": (
        lambda x: op.nn.log_softmax(x, axis=1),
        by_torch(lambda x: torch.log_softmax(x, 1)),
    ),
    "argmax": (lambda x: op.argmax(x, axis=2), lambda x: x.argmax(2)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 5, 37), (1, 16, 1)], ids=str)
def test_reductions(tmp_path: Path, name: str, shape: Shape) -> None:
    check(tmp_path, [shape], *REDUCTIONS[name])


MOVES: dict[str, tuple[Graph, Any]] = {
    "transpose": (lambda x: op.permute_dims(x, [2, 1, 0]), lambda x: x.transpose(2, 1, 0)),
    "rotate": (lambda x: op.permute_dims(x, [1, 2, 0]), lambda x: x.transpose(1, 2, 0)),
    "turn lines of pixels": (
        lambda x: op.permute_dims(op.reshape(x, (2, 66, 4, 9)), [0, 2, 3, 1]),
        lambda x: x.reshape(2, 66, 4, 9).transpose(0, 2, 3, 1),
    ),
    "turn pixels of lines": (
        lambda x: op.permute_dims(op.reshape(x, (2, 4, 9, 66)), [0, 3, 1, 2]),
        lambda x: x.reshape(2, 4, 9, 66).transpose(0, 3, 1, 2),
    ),
    "turn what is flat": (
        lambda x: op.permute_dims(op.reshape(x, (132, 36))),
        lambda x: x.reshape(132, 36).T,
    ),
    "turn and square": (
        lambda x: op.square(op.permute_dims(x, [0, 2, 1])),
        lambda x: np.square(x.swapaxes(1, 2)),
    ),
    "flip": (lambda x: op.flip(x, 2), lambda x: x[:, :, ::-1]),
    "pad": (
        lambda x: op.nn.pad(x, [0, 0, 1, 2, 3, 0]),
        lambda x: np.pad(x, [(0, 0), (1, 2), (3, 0)]),
    ),
    "concat": (lambda x: op.concat([x, op.exp(x)], 1), lambda x: np.concatenate([x, np.exp(x)], 1)),
    "slice": (
        lambda x: op.strided_slice(x, [2], [1], [30], [3]),
        lambda x: x[:, :, 1:30:3],
    ),
    "broadcast": (
        lambda x: op.add(x, op.sum(x, axis=[0, 2], keepdims=True)),
        lambda x: x + x.sum((0, 2), keepdims=True),
    ),
    "reshape": (lambda x: op.tanh(op.reshape(x, (-1, 4))), lambda x: np.tanh(x.reshape(-1, 4))),
}


@pytest.mark.parametrize("name", MOVES)
def test_elementwise_and_movement(tmp_path: Path, name: str) -> None:
    check(tmp_path, [(4, 33, 36)], *MOVES[name])


def test_a_value_used_often_does_not_grow_without_bound(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        for _ in range(24):
            x = op.multiply(op.tanh(x), op.add(x, x))
        return x

    def reference(x: Any) -> Any:
        for _ in range(24):
            x = np.tanh(x) * (x + x)
        return x

    check(tmp_path, [(3, 50)], build, reference)


@hypothesis.settings(max_examples=12, deadline=None, database=None)
@hypothesis.given(
    st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.sampled_from([None, 1, 3])
)
def test_any_product(
    tmp_path_factory: pytest.TempPathFactory, m: int, n: int, k: int, batch: int | None
) -> None:
    lead = () if batch is None else (batch,)
    shapes = [(*lead, m, k), (*lead, k, n), (n,)]
    check(
        tmp_path_factory.mktemp("store"),
        shapes,
        lambda a, b, c: op.sigmoid(op.add(op.matmul(a, b), c)),
        by_torch(lambda a, b, c: torch.sigmoid(a @ b + c)),
    )


@hypothesis.settings(max_examples=12, deadline=None, database=None)
@hypothesis.given(st.data())
def test_any_convolution(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    small = st.integers(1, 3)
    groups, each, filters = data.draw(small), data.draw(small), data.draw(small)
    kernel = (data.draw(small), data.draw(small))
    keys: dict[str, Any] = {
        "padding": data.draw(st.integers(0, 2)),
        "dilation": data.draw(st.integers(1, 2)),
    }
    stride = data.draw(small)
    size = (data.draw(st.integers(5, 20)), data.draw(st.integers(5, 20)))
    shapes = [(1, groups * each, *size), (groups * filters, each, *kernel)]
    check(
        tmp_path_factory.mktemp("store"),
        shapes,
        lambda x, w: op.nn.conv2d(x, w, strides=stride, groups=groups, **keys),
        by_torch(
            lambda x, w: torch.nn.functional.conv2d(x, w, stride=stride, groups=groups, **keys)
        ),
    )


def test_large_kernels_are_parallel_and_vectorised_and_small_ones_serial() -> None:
    def dense(x: Any, w: Any) -> Any:
        return op.nn.relu(op.matmul(x, w))

    large = script([(64, 64), (64, 64)], dense)
    assert "T.parallel" in large and "T.vectorized" in large and "T.unroll" in large
    small = script([(4, 8), (8, 8)], dense)
    assert "T.parallel" not in small and "T.vectorized" in small


@pytest.mark.parametrize(
    "shapes, build",
    [
        ([(1, 16, 28, 28), (16, 16, 3, 3)], lambda x, w: op.nn.conv2d(x, w, padding=1)),
        ([(1, 64, 28, 28), (64, 1, 3, 3)], lambda x, w: op.nn.conv2d(x, w, padding=1, groups=64)),
        ([(1, 32, 64, 64)], lambda x: op.nn.max_pool2d(x, (3, 3), 2, 1)),
        ([(256, 256)], lambda x: op.sum(x, axis=0)),
        ([(256, 256)], lambda x: op.sum(x, axis=1)),
        ([("n", 1024)], op.nn.softmax),
    ],
)
def test_no_family_falls_back_unnoticed(shapes: Any, build: Graph) -> None:
    text = script(shapes, build)
    assert "T.parallel" in text and "T.vectorized" in text


def test_elementwise_stages_become_one_loop() -> None:
    text = script([(128, 512)], lambda x: op.tanh(op.add(op.exp(x), x)))
    assert text.count("T.parallel") == 1
    assert "sblock_alloc_buffer" not in text


def test_the_same_kernel_is_scheduled_the_same_way_twice() -> None:
    captured = graph([("n", 33), (33, 65)], op.matmul)
    steps = (Legalize(), Fuse(), Schedule())

    def digests() -> list[str]:
        module = base.run(captured.module, steps)
        kernels = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
        return [canonical.digest(kernel) for kernel in kernels]

    assert digests() == digests()


@pytest.mark.parametrize("bits, registers", [(512, 32), (256, 16), (128, 16), (128, 32)])
def test_tiles_fit_the_registers(bits: int, registers: int) -> None:
    machine = Machine(bits, registers, 0)
    for rows in (1, 2, 13, 128, None):
        for columns in (1, 10, 64, 1000, None):
            tile = choose(rows, columns, "float32", machine)
            assert tile.rows * tile.vectors + tile.vectors + 1 <= registers
            assert rows is not None or tile.rows & (tile.rows - 1) == 0


@pytest.mark.parametrize("width", range(1, 40))
def test_pieces_cover_a_width_once(width: int) -> None:
    covered = [at + i for at, lanes in pieces(width, 16) for i in range(lanes)]
    assert covered == list(range(width))


def test_a_kernel_of_another_form_stays_as_it_is() -> None:
    module = base.run(graph([(4, 9)], lambda x: op.argmax(x, axis=1)).module, (Legalize(), Fuse()))
    after = Schedule().apply(module)
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            left = after[variable.name_hint]
            assert left.attrs["nexus.family"] == "naive"
            expected = loosened(function)
            tvm.ir.assert_structural_equal(left.body, expected.body, map_free_vars=True)
