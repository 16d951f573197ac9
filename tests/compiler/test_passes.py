"""Golden IR: what each pass makes of a module, compared blind to names."""

from __future__ import annotations

import dataclasses

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from nexus_compiler.ir import calls, law
from nexus_compiler.passes import base
from nexus_compiler.passes.decompose import DecomposeForInference
from nexus_compiler.passes.differentiate import Differentiate
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalize
from nexus_compiler.passes.prepare_weights import PrepareWeights
from nexus_compiler.passes.simplify import Simplify
from nexus_compiler.passes.turn_at_readers import TurnAtReaders
from nexus_compiler.passes.unify_sizes import UnifySizes
from nexus_runtime.errors import InternalError, UnsupportedOperator


def check(before: tvm.IRModule, expected: tvm.IRModule, *steps: base.Pass) -> None:
    after = base.run(before, steps)
    tvm.ir.assert_structural_equal(after, expected, map_free_vars=True)


def test_simplify_merges_equal_and_drops_unused_bindings() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((4,), "float32")):
            with R.dataflow():
                a = R.exp(x)
                b = R.exp(x)
                unused = R.sin(x)  # noqa: F841
                copy = b
                c = R.add(a, copy)
                out = (c,)
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((4,), "float32")):
            with R.dataflow():
                a = R.exp(x)
                c = R.add(a, a)
                out = (c,)
                R.output(out)
            return out

    check(Before, Expected, Simplify())


def test_sizes_that_a_match_equates_have_one_name() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor(("n",), "float32"), s: R.Shape(ndim=1)) -> R.Tuple(
            R.Tensor(("n",), "float32")
        ):
            n, m = T.int64(), T.int64()
            with R.dataflow():
                known = R.match_cast(s, R.Shape([m]))  # noqa: F841
                a = R.ones(R.shape([m]), "float32")
                b = R.match_cast(x, R.Tensor((m,), "float32"))
                total = R.add(a, b)
                c = R.match_cast(total, R.Tensor((n,), "float32"))
                out = (c,)
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor(("n",), "float32"), s: R.Shape(ndim=1)) -> R.Tuple(
            R.Tensor(("n",), "float32")
        ):
            n = T.int64()
            with R.dataflow():
                known = R.match_cast(s, R.Shape([n]))  # noqa: F841
                a = R.ones(R.shape([n]), "float32")
                b = R.match_cast(x, R.Tensor((n,), "float32"))
                total = R.add(a, b)
                c = R.match_cast(total, R.Tensor((n,), "float32"))
                out = (c,)
                R.output(out)
            return out

    check(Before, Expected, UnifySizes())


def test_sizes_of_arguments_keep_their_names() -> None:
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor(("n",), "float32"), y: R.Tensor(("m",), "float32")) -> R.Tuple(
            R.Tensor(("m",), "float32")
        ):
            m = T.int64()
            with R.dataflow():
                a = R.match_cast(x, R.Tensor((m,), "float32"))
                out = (R.add(a, y),)
                R.output(out)
            return out

    check(Module, Module, UnifySizes())


def test_decompose_turns_dropout_into_nothing() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((4,), "float32")):
            with R.dataflow():
                pair = R.nn.dropout(x, rate=0.5)
                kept = pair[0]
                out = (R.exp(kept),)
                R.output(out)
            return out

    after = base.run(Before, [DecomposeForInference(), Simplify()])
    assert calls.operators(after["main"]) <= {"relax.exp", "relax.nn.dropout"}


def test_differentiate_appends_gradients() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), w: R.Tensor((3, 2), "float32")) -> R.Tuple(
            R.Tensor((), "float32")
        ):
            with R.dataflow():
                y = R.matmul(x, w)
                loss = R.sum(y)
                out = (loss,)
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), w: R.Tensor((3, 2), "float32")) -> R.Tuple(
            R.Tensor((), "float32"), R.Tensor((3, 2), "float32")
        ):
            with R.dataflow():
                y = R.matmul(x, w)
                loss = R.sum(y)
                one = R.ones(R.shape([]), dtype="float32")
                back = R.broadcast_to(one, R.shape([4, 2]))
                turned = R.permute_dims(x, axes=[1, 0])
                gradient = R.matmul(turned, back)
                out = (loss, gradient)
                R.output(out)
            return out

    # Simplify drops the operator gradients' parts for operands that no gradient is wanted of.
    check(Before, Expected, Differentiate(function="main", wanted=(1,)), Simplify())


def test_differentiate_names_what_has_no_gradient() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((), "float32")):
            with R.dataflow():
                y = R.cumprod(x, axis=0)
                loss = R.sum(y)
                out = (loss,)
                R.output(out)
            return out

    with pytest.raises(UnsupportedOperator, match=r"relax\.cumprod has no gradient"):
        Differentiate(function="main", wanted=(0,)).apply(Before)


def test_integers_behind_no_weight_need_no_gradient() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4,), "float32"), i: R.Tensor((4,), "int64")) -> R.Tuple(
            R.Tensor((), "float32")
        ):
            with R.dataflow():
                shifted = R.right_shift(i, R.const(1, "int64"))
                mask = R.astype(shifted, "float32")
                loss = R.sum(R.multiply(x, mask))
                out = (loss,)
                R.output(out)
            return out

    after = Differentiate(function="main", wanted=(0,)).apply(Before)
    assert len(after["main"].ret_ty.fields) == 2


def test_fuse_puts_an_epilogue_into_its_matmul() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), w: R.Tensor((3, 2), "float32")) -> R.Tuple(
            R.Tensor((4, 2), "float32")
        ):
            with R.dataflow():
                y = R.nn.relu(R.matmul(x, w))
                out = (y,)
                R.output(out)
            return out

    after = base.run(Before, [Legalize(), Fuse()])
    assert sorted(v.name_hint for v in after.functions) == ["fused_matmul_relu", "main"]


def test_fuse_adds_what_is_picked_as_it_is_read() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            table: R.Tensor((9, 4), "float32"),
            place: R.Tensor((3,), "int64"),
            x: R.Tensor((3, 4), "float32"),
        ) -> R.Tuple(R.Tensor((3, 4), "float32")):
            with R.dataflow():
                picked = R.take(table, place, axis=0)
                out = (R.add(picked, x),)
                R.output(out)
            return out

    after = base.run(Before, (Legalize(), Fuse()))
    names = {str(v.name_hint) for v in after.functions}
    assert names == {"main", "fused_take_add"}


def test_what_follows_from_weights_is_prepared_once() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor(("n", 4), "float32"),
            w: R.Tensor((3, 4), "float32"),
            b: R.Tensor((3,), "float32"),
        ) -> R.Tuple(R.Tensor(("n", 3), "float32")):
            R.func_attr({"nexus.inputs": 1})
            with R.dataflow():
                turned = R.permute_dims(w)
                row = R.exp(R.expand_dims(b, axis=0))
                y = R.multiply(R.add(R.matmul(x, turned), row), b)
                out = (y,)
                R.output(out)
            return out

    after = base.run(Before, [PrepareWeights()])
    assert calls.operators(after["main__prepare"]) == {
        "relax.permute_dims",
        "relax.expand_dims",
        "relax.exp",
    }
    assert calls.operators(after["main__run"]) == {"relax.matmul", "relax.add", "relax.multiply"}
    assert calls.operators(after["main"]) == set()
    assert [p.name for p in after["main"].params] == ["x", "w", "b"]


def test_nothing_to_prepare_changes_nothing() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), w: R.Tensor((3, 2), "float32")) -> R.Tuple(
            R.Tensor((4, 2), "float32")
        ):
            R.func_attr({"nexus.inputs": 1})
            with R.dataflow():
                out = (R.matmul(x, w),)
                R.output(out)
            return out

    check(Before, Before, PrepareWeights())


def test_every_product_has_its_own_transposition() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), p: R.Tensor((4, 2), "float32")) -> R.Tuple(
            R.Tensor((3, 2), "float32"), R.Tensor((3, 2), "float32")
        ):
            with R.dataflow():
                t = R.permute_dims(x)
                a = R.matmul(t, p)
                q = R.exp(p)
                b = R.matmul(t, q)
                out = (a, b)
                R.output(out)
            return out

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((4, 3), "float32"), p: R.Tensor((4, 2), "float32")) -> R.Tuple(
            R.Tensor((3, 2), "float32"), R.Tensor((3, 2), "float32")
        ):
            with R.dataflow():
                t = R.permute_dims(x)
                a = R.matmul(t, p)
                q = R.exp(p)
                u = R.permute_dims(x)
                b = R.matmul(u, q)
                out = (a, b)
                R.output(out)
            return out

    check(Before, Expected, TurnAtReaders())
    check(Expected, Expected, TurnAtReaders())


def test_the_law_names_pass_and_breach() -> None:
    @I.ir_module
    class Bad:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((4,), "float32")):
            with R.dataflow():
                out = (R.exp(x),)
                R.output(out)
            return out

    with pytest.raises(InternalError, match=r"after pass 'nothing' .* still calls relax\.exp"):
        law.check(Bad, "lowered", after="nothing")
    with pytest.raises(InternalError, match=r"already calls relax\.call_tir"):
        law.check(base.run(Bad, [Legalize()]), "captured", after="nothing")


def test_hooks_see_every_pass() -> None:
    seen = []
    module = tvm.IRModule()
    base.run(module, [Simplify(), Simplify()], [lambda n, step, m, s: seen.append((n, step.name))])
    assert seen == [(0, "simplify"), (1, "simplify")]


def all_passes() -> list[type[base.Pass]]:
    def below(kind: type[base.Pass]) -> list[type[base.Pass]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    return [kind for kind in below(base.Pass) if kind is not base.Pass]


@pytest.mark.parametrize("kind", all_passes(), ids=lambda k: k.__name__)
def test_every_option_is_a_factor(kind: type[base.Pass]) -> None:
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    values = {f.name: f"value-of-{f.name}" for f in dataclasses.fields(kind)}
    said = kind(**values).factor()
    assert said.startswith(kind.name)
    assert all(repr(value) in said for value in values.values())
    assert kind.leaves == "" or kind.leaves in law.LAW
