"""The step in one call: what gradients and update give, written over the arrays that are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import IRModule, relax, te, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from nexus_compiler import GraphBuilder, targets
from nexus_compiler.codegen.llvm import donate
from nexus_compiler.codegen.llvm.donate import Donate
from nexus_compiler.codegen.llvm.image_gradients import weight_gradient
from nexus_compiler.codegen.llvm.native import resolve
from nexus_compiler.codegen.llvm.products import product
from nexus_compiler.codegen.llvm.room import tvm_target
from nexus_compiler.codegen.llvm.schedule import schedule
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.ir.calls import operators
from nexus_compiler.passes import base, pipelines
from nexus_compiler.passes.image_order import ImageOrder
from nexus_compiler.training.graph import training_graph
from nexus_runtime import Artifact, Module, Trainer, load
from nexus_runtime.errors import ShapeError

BATCH = 6


def dense() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 20)).dense(18, activation="relu").dropout(0.25)
    return builder.dense(5, activation="softmax")


def images() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 3, 8, 8)).conv2d(7, 3, padding=1, stride=2)
    builder = builder.batch_norm().activation("relu").max_pool2d(2).flatten()
    return builder.dense(4, activation="softmax")


@pytest.mark.parametrize("make", [dense, images])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_call_does_what_gradients_and_update_do(
    make: object, optimizer: str, tmp_path: Path
) -> None:
    builder = make()  # type: ignore[operator]
    builder.build_training(tmp_path / "m.nxa", optimizer=optimizer, batch_size=BATCH)
    module = load(tmp_path / "m.nxa")
    whole, parts = Trainer(module), Trainer(module)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, *builder.sources[0].shape[1:]), np.float32)
    y = random.integers(0, 4, BATCH)
    for step in range(3):
        loss, hits = whole.train(x, y, 0.05, seed=7, row=step)
        sums = parts.gradients(x, y, seed=7, row=step)
        parts.update({n: g / np.float32(BATCH) for n, g in sums.grads.items()}, 0.05)
        assert (hits, whole.step) == (sums.correct, parts.step)
        assert loss == pytest.approx(sums.loss_sum, rel=1e-5)
    for own, theirs in ((whole.params, parts.params), (whole.states, parts.states)):
        assert own.keys() == theirs.keys()
        for name, array in own.items():
            # Sums of a few hundred products in another order, over three steps.
            np.testing.assert_allclose(array, theirs[name], rtol=2e-4, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    path = tmp_path_factory.mktemp("step") / "m.nxa"
    dense().build_training(path, optimizer="sgd", batch_size=BATCH)
    return load(path)


def test_new_values_are_written_over_the_old_ones(module: Module) -> None:
    trainer = Trainer(module)
    before = dict(trainer.params), dict(trainer.states)
    old = {name: array.copy() for name, array in trainer.params.items()}
    trainer.train(np.ones((BATCH, 20), np.float32), np.zeros(BATCH, np.int64), 0.1, seed=1, row=0)
    for now, then in zip((trainer.params, trainer.states), before):
        assert all(now[name] is then[name] for name in then)
    assert any((trainer.params[name] != old[name]).any() for name in old)
    for name, array in module.parameters.items():
        np.testing.assert_array_equal(array, old[name])


def test_arrays_that_cannot_be_written_to_stay_as_they_are(module: Module) -> None:
    trainer = Trainer(module)
    fixed = {name: array.copy() for name, array in trainer.params.items()}
    for array in fixed.values():
        array.flags.writeable = False
    trainer.params = dict(fixed)
    trainer.train(np.ones((BATCH, 20), np.float32), np.zeros(BATCH, np.int64), 0.1, seed=1, row=0)
    for name, array in module.parameters.items():
        np.testing.assert_array_equal(fixed[name], array)
    assert any((trainer.params[name] != fixed[name]).any() for name in fixed)


def test_other_batches_are_trained_in_two_calls(module: Module) -> None:
    trainer = Trainer(module)
    loss, _ = trainer.train(np.ones((4, 20), np.float32), np.zeros(4, np.int64), 0.1, seed=1, row=0)
    assert trainer.step == 1
    assert np.isfinite(loss)


def test_a_batch_that_the_input_excludes_is_refused() -> None:
    builder = GraphBuilder().input("x", (8, 4)).dense(2, activation="softmax")
    with pytest.raises(ShapeError, match="a step of 5 samples"):
        builder.build_training(Path("never"), batch_size=5)


@I.ir_module(s_tir=True)
class Before:
    @T.prim_func(private=True, s_tir=True)
    def add(
        a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), o: T.Buffer((4,), "float32")
    ):
        for i in range(4):
            o[i] = a[i] + b[i]

    @T.prim_func(private=True, s_tir=True)
    def turn(
        a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), o: T.Buffer((4,), "float32")
    ):
        for i in range(4):
            o[i] = a[3 - i] + b[i]

    @R.function
    def main(w: R.Tensor((4,), "float32"), g: R.Tensor((4,), "float32")):
        R.func_attr({"nexus.donated": [0, 0, -1]})
        with R.dataflow():
            new = R.call_tir(Before.add, (w, g), out_ty=R.Tensor((4,), "float32"))
            other = R.call_tir(Before.turn, (w, g), out_ty=R.Tensor((4,), "float32"))
            late = R.call_tir(Before.add, (g, other), out_ty=R.Tensor((4,), "float32"))
            out = (new, other, late)
            R.output(out)
        return out


def test_a_kernel_writes_in_place_behind_the_last_reader_of_the_old_value() -> None:
    after: IRModule = Donate().apply(Before)
    bindings = list(after["main"].body.blocks[0].bindings)
    names = [str(getattr(b.value.op, "name", "")) for b in bindings[:-1] if hasattr(b.value, "op")]
    parameter = after["main"].params[0]
    assert sorted(names) == ["relax.call_tir", "relax.call_tir", "relax.call_tir_inplace"]
    changed = names.index("relax.call_tir_inplace")
    used = [relax.analysis.free_vars(b.value) for b in bindings[:-1]]
    reads = [i for i, free in enumerate(used) if parameter in free]
    assert max(reads) == changed
    assert "relax.call_tir_inplace" in operators(after["main"])


def test_images_are_turned_where_they_come_and_go_only() -> None:
    graph = training_graph(
        images(), loss="cross_entropy", optimizer="sgd", options={}, batch_size=BATCH
    )
    step = ImageOrder().apply(base.run(graph.module, pipelines.common()))["step"]
    turned = [
        [int(n) for n in binding.var.ty.shape]
        for binding in step.body.blocks[0].bindings
        if getattr(getattr(binding.value, "op", None), "name", "") == "relax.permute_dims"
    ]
    # The input, and what is flattened, there and back.
    assert sorted(shape for shape in turned if len(shape) == 4 and shape[0] == BATCH) == [
        [BATCH, 2, 2, 7],
        [BATCH, 7, 2, 2],
        [BATCH, 8, 8, 3],
    ]


def test_no_step_transposes_what_a_product_can_read_where_it_lies(tmp_path: Path) -> None:
    builder = GraphBuilder().input("x", (None, 5, 12)).residual(lambda b: b.attention(2))
    builder = builder.dense(24, activation="relu").flatten().dense(4, activation="softmax")
    path = tmp_path / "t.nxa"
    builder.build_training(path, loss="cross_entropy", optimizer="sgd", batch_size=BATCH)
    artifact = Artifact.open(path)
    told = artifact.work(artifact.manifest.modules[0].target)
    assert told is not None
    moves = {"transpose", "reshape transpose", "transpose reshape"}
    moved = {shape for k in told.kernels.values() if k.label in moves for shape in k.shapes}
    # Heads are put together and taken apart; no matrix is turned.
    assert moved
    assert not [shape for shape in moved if shape.count(",") == 1]


def computed(
    made: tirx.PrimFunc, *arrays: np.ndarray, shape: tuple[int, ...], bits: int = 512
) -> np.ndarray:
    function = schedule(made, Machine(bits, 32, 32768))
    assert function.attrs["nexus.family"] == "matmul"
    target = tvm_target(resolve(targets.load("native")))
    module = IRModule({"main": function.with_attr("global_symbol", "main")})
    library = tvm.tirx.build(module, target)
    found = tvm.runtime.tensor(np.zeros(shape, np.float32))
    library["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays], found)
    return found.numpy()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("bits", [128, 512])
@pytest.mark.parametrize(
    ("rows", "columns", "steps"), [(37, 29, 43), (130, 200, 1000), (9, 7, 5), (65, 131, 67)]
)
def test_products_of_transposed_operands(
    left: bool, right: bool, rows: int, columns: int, steps: int, bits: int
) -> None:
    a = te.placeholder((2, steps, rows) if left else (2, rows, steps), "float32", "a")
    b = te.placeholder((columns, steps) if right else (steps, columns), "float32", "b")
    made = te.create_prim_func([a, b, product(a, b, left, right, "float32")])
    random = np.random.default_rng(0)
    x = random.standard_normal((2, rows, steps), np.float32)
    y = random.standard_normal((steps, columns), np.float32)
    given = [x.swapaxes(1, 2) if left else x, y.T if right else y]
    found = computed(made, *given, shape=(2, rows, columns), bits=bits)
    wanted = x.astype(np.float64) @ y.astype(np.float64)
    scale = np.abs(x.astype(np.float64)) @ np.abs(y.astype(np.float64))
    assert (np.abs(found - wanted) <= steps * np.finfo(np.float32).eps * scale).all()


@pytest.mark.parametrize("channels, filters, size, stride", [(24, 40, 16, 1), (5, 70, 33, 2)])
def test_gradients_of_windows_in_blocks_of_lines(
    channels: int, filters: int, size: int, stride: int
) -> None:
    after = (size - 1) // stride + 1
    sizes = (4, size, size, channels), (4, after, after, filters)
    x, dy = (te.placeholder([tirx.const(n, "int64") for n in s], "float32") for s in sizes)
    made = te.create_prim_func(
        [x, dy, weight_gradient(x, dy, [3, 3], [stride] * 2, [1] * 4, [1, 1])]
    )
    random = np.random.default_rng(0)
    given = [random.standard_normal([int(n) for n in t.shape], np.float32) for t in (x, dy)]
    found = computed(made, *given, shape=(3, 3, channels, filters))
    padded = np.pad(given[0].astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    adjoint = given[1].astype(np.float64)
    reach = (after - 1) * stride + 1
    for i, j in np.ndindex(3, 3):
        seen = padded[:, i : i + reach : stride, j : j + reach : stride]
        wanted = np.einsum("nvuc,nvuf->cf", seen, adjoint)
        scale = np.einsum("nvuc,nvuf->cf", np.abs(seen), np.abs(adjoint))
        bound = 4 * after * after * np.finfo(np.float32).eps * scale
        assert (np.abs(found[i, j] - wanted) <= bound).all()


def test_tiles_ask_for_large_operands_and_still_write_over_them() -> None:
    """What is asked for ahead is no read that would keep a result from its operand's place."""
    rows, columns, steps = (tirx.const(n, "int64") for n in (640, 448, 24))
    a, b = te.placeholder((rows, steps), "float32"), te.placeholder((steps, columns), "float32")
    old = te.placeholder((rows, columns), "float32", "old")
    k = te.reduce_axis((0, steps))
    total = te.compute((rows, columns), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k))
    new = te.compute((rows, columns), lambda i, j: old[i, j] * np.float32(0.5) + total[i, j])
    made = te.create_prim_func([a, b, old, new])
    random = np.random.default_rng(0)
    given = [random.standard_normal(s, np.float32) for s in ((640, 24), (24, 448), (640, 448))]
    found = computed(made, *given, shape=(640, 448))
    x, y, z = (array.astype(np.float64) for array in given)
    bound = 26 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(y) + np.abs(z))
    assert (np.abs(found - (z / 2 + x @ y)) <= bound).all()
    tiles = schedule(made, Machine(512, 32, 32768))
    assert "tirx.prefetch" in tiles.script() or "T.prefetch" in tiles.script()
    *_, taken, output = tiles.params
    assert donate.in_step(tiles, taken, output)
