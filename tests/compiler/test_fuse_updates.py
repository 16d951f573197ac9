"""Updates of parameters in the kernels that make their gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tvm import IRModule, tirx
from tvm.ir.expr import GenericConst
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from nexus_compiler import GraphBuilder
from nexus_compiler.codegen.llvm.donate import Donate, in_step
from nexus_compiler.codegen.llvm.fuse_updates import FuseUpdates
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.ir.calls import operators
from nexus_runtime import Artifact, Trainer, load

BATCH, RATE = 24, 0.05


def network() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 50)).dense(37, activation="relu")
    return builder.layer_norm().dense(7, activation="softmax")


def described(path: Path, optimizer: str, builder: GraphBuilder) -> list[str]:
    """The labels of the kernels of a step."""
    builder.build_training(path, loss="cross_entropy", optimizer=optimizer, batch_size=BATCH)
    artifact = Artifact.open(path)
    module = load(path, num_threads=1)
    said = artifact.work(module.target)
    assert said is not None
    trainer = Trainer(module)
    x, y = np.ones((BATCH, 50), np.float32), np.zeros(BATCH, np.int64)
    given = {"x": x, "labels": y, "seed": np.uint32(0), "row": np.int64(0)}
    given |= {"step": np.float32(1), "learning_rate": np.float32(RATE), **trainer.states}
    given |= {f"param:{name}": array for name, array in trainer.params.items()}
    (run,) = module.trace("step", given, rounds=1)
    return [said.kernels[call.name].family for call in run]


@pytest.mark.parametrize("optimizer, products", [("sgd", 5), ("adam", 5)])
def test_no_parameter_has_a_kernel_of_its_own(
    optimizer: str, products: int, tmp_path: Path
) -> None:
    families = described(tmp_path / "m.nxa", optimizer, network())
    assert families.count("matmul") == products
    # Loss, norm, gradients of biases and of the norm with their updates; Adam's two corrections.
    assert len(families) < 30


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_those_of_torch_in_float64(optimizer: str, tmp_path: Path) -> None:
    path = tmp_path / "m.nxa"
    network().build_training(path, loss="cross_entropy", optimizer=optimizer, batch_size=BATCH)
    module = load(path)
    trainer = Trainer(module)
    order = [spec.name for spec in module.manifest.signature.parameters]
    own = {n: torch.tensor(trainer.params[n], dtype=torch.float64).requires_grad_() for n in order}
    w, b, scale, offset, v, c = own.values()
    made = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    stepper = made(list(own.values()), lr=RATE, **options)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, 50), np.float32)
    y = random.integers(0, 7, BATCH)
    for _ in range(3):
        loss, _ = trainer.train(x, y, RATE, seed=1, row=0)
        stepper.zero_grad()
        hidden = torch.relu(torch.tensor(x, dtype=torch.float64) @ w + b)
        hidden = torch.nn.functional.layer_norm(hidden, (37,), scale, offset)
        wanted = torch.nn.functional.cross_entropy(hidden @ v + c, torch.tensor(y))
        wanted.backward()
        stepper.step()
        assert loss / BATCH == pytest.approx(wanted.item(), rel=1e-4)
    for name, array in own.items():
        # Adam divides by the roots of squares that may be tiny: a share of the rate is rounding.
        np.testing.assert_allclose(
            trainer.params[name], array.detach().numpy(), rtol=1e-4, atol=2e-4, err_msg=name
        )


@I.ir_module(s_tir=True)
class Step:
    @T.prim_func(private=True, s_tir=True)
    def gradient(
        x: T.Buffer((9, 20), "float32"),
        y: T.Buffer((9, 33), "float32"),
        g: T.Buffer((20, 33), "float32"),
    ):
        for i, j, k in T.grid(20, 33, 9):
            with T.sblock("g"):
                a, b, c = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    g[a, b] = T.float32(0)
                g[a, b] = g[a, b] + x[c, a] * y[c, b]

    @T.prim_func(private=True, s_tir=True)
    def mixed(
        m: T.Buffer((20, 33), "float32"),
        g: T.Buffer((20, 33), "float32"),
        o: T.Buffer((20, 33), "float32"),
    ):
        for i, j in T.grid(20, 33):
            with T.sblock("m"):
                a, b = T.axis.remap("SS", [i, j])
                o[a, b] = m[a, b] * T.float32(0.5) + g[a, b]

    @T.prim_func(private=True, s_tir=True)
    def moved(
        p: T.Buffer((20, 33), "float32"),
        m: T.Buffer((20, 33), "float32"),
        o: T.Buffer((20, 33), "float32"),
    ):
        for i, j in T.grid(20, 33):
            with T.sblock("p"):
                a, b = T.axis.remap("SS", [i, j])
                o[a, b] = p[a, b] - m[a, b] * T.float32(0.1)

    @R.function
    def main(
        x: R.Tensor((9, 20), "float32"),
        y: R.Tensor((9, 33), "float32"),
        m: R.Tensor((20, 33), "float32"),
        p: R.Tensor((20, 33), "float32"),
    ):
        R.func_attr({"nexus.donated": [2, 3]})
        with R.dataflow():
            g = R.call_tir(Step.gradient, (x, y), out_ty=R.Tensor((20, 33), "float32"))
            new = R.call_tir(Step.mixed, (m, g), out_ty=R.Tensor((20, 33), "float32"))
            to = R.call_tir(Step.moved, (p, new), out_ty=R.Tensor((20, 33), "float32"))
            out = (new, to)
            R.output(out)
        return out


def with_output(place: int) -> IRModule:
    """`Step`, which returns one of its values more."""
    main = Step["main"]
    *bindings, last = main.body.blocks[0].bindings
    return with_result(main, bindings, [*last.value.fields, bindings[place].var])


def with_result(main, bindings, fields) -> IRModule:  # type: ignore[no-untyped-def]
    from tvm import relax

    result = relax.Var("result", relax.TupleType([field.ty for field in fields]))
    block = relax.DataflowBlock([*bindings, relax.VarBinding(result, relax.Tuple(fields))])
    changed = relax.Function(main.params, relax.SeqExpr([block], result), result.ty)
    functions = {v: f for v, f in Step.functions.items() if v.name_hint != "main"}
    variable = Step.get_global_var("main")
    return IRModule({**functions, variable: changed.with_attr("global_symbol", "main")})


def kernels(module: IRModule) -> list[tirx.PrimFunc]:
    return [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]


def test_gradient_momentum_and_parameter_are_one_kernel_that_writes_in_place() -> None:
    fused = FuseUpdates().apply(Step)
    (kernel,) = kernels(fused)
    assert len(kernel.params) == 6
    done = Donate().apply(Schedule(vector_bits=512, vector_registers=32).apply(fused))
    assert "relax.call_tir_inplace" in operators(done["main"])
    assert sorted(len(k.params) for k in kernels(done)) == [4]


def test_a_constant_that_an_update_reads_is_an_argument() -> None:
    from tvm import relax

    main = Step["main"]
    held = relax.const(np.ones((20, 33), np.float32))
    gradient, mixed, moved, last = main.body.blocks[0].bindings
    call = relax.call_tir(mixed.value.args[0], [held, gradient.var], mixed.var.ty)
    bindings = [gradient, relax.VarBinding(mixed.var, call), moved]
    before = with_result(main, bindings, last.value.fields)
    fused = FuseUpdates().apply(relax.transform.Normalize()(before))
    (kernel,) = kernels(fused)
    assert len(kernel.params) == 6
    (call, *_) = (b.value for b in fused["main"].body.blocks[0].bindings)
    assert [one for one in call.args[1].fields if isinstance(one, GenericConst)] == [held]


def test_a_gradient_that_is_wanted_keeps_a_kernel_of_its_own() -> None:
    before = with_output(0)
    assert FuseUpdates().apply(before).same_as(before)


def test_what_others_read_before_is_not_fused() -> None:
    @I.ir_module(s_tir=True)
    class Clipped:
        @T.prim_func(private=True, s_tir=True)
        def turned(
            g: T.Buffer((20, 33), "float32"),
            o: T.Buffer((20, 33), "float32"),
        ):
            for i, j in T.grid(20, 33):
                with T.sblock("t"):
                    a, b = T.axis.remap("SS", [i, j])
                    o[a, b] = g[19 - a, b]

    main = Step["main"]
    from tvm import relax

    block = relax.BlockBuilder(IRModule(dict(Step.functions.items())))
    x, y, m, p = (relax.Var(str(q.name), q.ty) for q in main.params)
    ty = relax.TensorType((20, 33), "float32")
    names = {v.name_hint: v for v in Step.functions}
    turned = block.add_func(Clipped["turned"], "turned")
    with block.function("other", [x, y, m, p]):
        with block.dataflow():
            g = block.emit(relax.call_tir(names["gradient"], [x, y], ty))
            late = block.emit(relax.call_tir(turned, [g], ty))
            new = block.emit(relax.call_tir(names["mixed"], [m, late], ty))
            out = block.emit_output(relax.Tuple([new]))
        block.emit_func_output(out)
    module = block.get()
    rest = {v: f for v, f in module.functions.items() if v.name_hint not in ("main", "moved")}
    before = IRModule(rest)
    assert FuseUpdates().apply(before).same_as(before)


def test_a_result_is_not_written_before_another_has_read_its_place() -> None:
    @T.prim_func(private=True, s_tir=True)
    def wrong(
        m: T.Buffer((4,), "float32"), first: T.Buffer((4,), "float32"), o: T.Buffer((4,), "float32")
    ):
        for i in range(4):
            first[i] = m[i] + T.float32(1)
        for i in range(4):
            o[i] = m[i] * T.float32(2)

    m, first, o = wrong.params
    assert not in_step(wrong, m, first, [first, o])
    assert in_step(wrong, m, o, [first, o])
