"""Incremental verification: what is checked, what is inherited; wrong kernels are named."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import edit_models
import numpy as np
import onnx
import pytest
import tvm_ffi
from edit_settings import flag, limit, option, version
from onnx import TensorProto, helper, numpy_helper
from tvm.tirx import FloatImm

import nexus_compiler
from nexus_compiler import pipeline
from nexus_compiler.build import CompileOptions, Memory
from nexus_compiler.codegen import lowering
from nexus_compiler.codegen.door import Room, Unit
from nexus_compiler.codegen.kernels import name_of
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.frontend import capture
from nexus_compiler.store.door import OBJECTS, PROOFS
from nexus_compiler.store.layout import bucket_path
from nexus_compiler.store.local import LocalStore
from nexus_compiler.targets import TargetSpec
from nexus_compiler.verify import api
from nexus_compiler.verify.evaluate import Evaluator
from nexus_compiler.verify.expected import ByGraph
from nexus_compiler.verify.incremental import verify_graph
from nexus_compiler.verify.report import DIFFERS, INHERITED, PROVED, UNCHECKED, Report
from nexus_runtime.errors import InputError, UserError

pytest.importorskip("jax", reason="pip install 'nexus-compiler[xla]'")


MODEL: dict[str, Any] = {"layers": 2, "inner": {1: 24}}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the objects of models that several tests verify, and no proofs."""
    root = tmp_path_factory.mktemp("built")
    options = CompileOptions(store=LocalStore(root))
    for model in (edit_models.mlp(), edit_models.transformer(**MODEL)):
        nexus_compiler.compile(model, options=options)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of `built`."""
    shutil.copytree(built, tmp_path / "store")
    return tmp_path / "store"


# Equal regions of several tests are compiled by JAX once.
EVALUATOR = Evaluator()


def verified(
    model: Any,
    root: Path,
    *,
    given: dict[str, str] | None = None,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    room: Room | None = None,
    target: TargetSpec | None = None,
    end_to_end: bool = True,
    **how: Any,
) -> Report:
    """As a new process verifies: nothing is remembered but what the store has."""
    captured = capture(model)
    usual = pipeline.prepare("native")
    return verify_graph(
        captured,
        target or usual[0],
        room or usual[1],
        api.made_inputs(captured, given or {}, sizes or {}, seed),
        options=CompileOptions(store=LocalStore(root), memory=Memory()),
        evaluator=EVALUATOR,
        expected=ByGraph(captured, EVALUATOR) if end_to_end else None,
        **how,
    )


def statuses(report: Report) -> list[str]:
    return [one.status for one in report.regions]


def test_what_was_proved_is_inherited(root: Path) -> None:
    first = verified(edit_models.transformer(layers=2), root)
    assert first.passed
    assert set(statuses(first)) == {PROVED}
    assert [one.status for one in first.functions] == [PROVED]
    again = verified(edit_models.transformer(layers=2), root)
    assert again.passed
    assert set(statuses(again)) == {INHERITED}
    assert [one.status for one in again.functions] == [INHERITED]
    assert [one.outputs for one in again.regions] == [one.outputs for one in first.regions]
    worst = max(one.max_rel for row in again.regions for one in row.outputs)
    assert 0 < worst < 1e-5
    assert sum(row.places for row in again.regions) > len(again.regions)
    assert all(row.kernels and row.reference == "jax" for row in again.regions)


def test_nothing_is_computed_where_nothing_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified(edit_models.mlp(), root)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(Evaluator, "call", never)
    monkeypatch.setattr(LlvmRoom, "open", never)
    assert verified(edit_models.mlp(), root).passed


def test_an_edit_proves_its_regions_alone(root: Path) -> None:
    before = verified(edit_models.transformer(layers=2), root)
    after = verified(edit_models.transformer(**MODEL), root)
    known = {row.region for row in before.regions}
    fresh = [row for row in after.regions if row.region not in known]
    assert [row for row in after.regions if row.status == PROVED] == fresh
    assert [row.origin for row in fresh] == ["l1_up", "l1_down, norm"]
    assert all(row.location.startswith("edit_models.py:") for row in fresh)
    assert [one.status for one in after.functions] == [PROVED], "the program is another"
    # A region that moved tells where it was checked.
    moved = verified(edit_models.transformer(layers=2, prefix="other_"), root, end_to_end=False)
    assert set(statuses(moved)) == {INHERITED}
    assert moved.regions[0].origin == "other_l0_n1"
    assert moved.regions[0].proved_at.startswith("l0_n1 at edit_models.py:")


def test_other_weights_or_inputs_inherit_regions_and_compare_the_whole(root: Path) -> None:
    verified(edit_models.mlp(), root)
    for model, seed in ((edit_models.mlp(seed=7), 0), (edit_models.mlp(), 1)):
        report = verified(model, root, seed=seed)
        assert set(statuses(report)) == {INHERITED}
        assert [one.status for one in report.functions] == [PROVED]


def test_everything_is_checked_where_no_proof_is_taken(root: Path) -> None:
    for _ in range(2):
        report = verified(edit_models.mlp(), root, everything=True)
        assert {*statuses(report), *(one.status for one in report.functions)} == {PROVED}


def test_a_proof_is_of_the_sizes_that_it_was_made_with(root: Path) -> None:
    model = edit_models.mlp(batch=None)
    for batch, status in ((2, PROVED), (2, INHERITED), (3, PROVED), (2, INHERITED)):
        report = verified(model, root, sizes={"batch": batch})
        assert report.passed
        assert set(statuses(report)) == {status}
        assert report.regions[0].shapes[0][0] == batch


def test_layers_that_are_functions_are_walked_through(root: Path) -> None:
    model = edit_models.transformer(layers=17)
    first, again = (verified(model, root, end_to_end=False) for _ in range(2))
    assert first.passed and again.passed
    assert max(row.places for row in first.regions) == 3 * 17
    assert set(statuses(first)) == {PROVED}
    assert set(statuses(again)) == {INHERITED}
    assert [row.places for row in again.regions] == [row.places for row in first.regions]


@pytest.mark.parametrize(
    "model", [edit_models.residual_network(blocks=1), edit_models.branches(batch="batch")]
)
def test_models_of_several_kinds_are_verified(model: Any, root: Path) -> None:
    report = verified(model, root)
    assert report.passed
    assert set(statuses(report)) == {PROVED}


def sifted() -> onnx.ModelProto:
    """Rows of a product that a condition chooses, and a product of these."""
    arrays = {"first.w": (6, 8), "second.w": (8, 3), "last.w": (3, 3), "zero": ()}
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "first.w"], ["h"]),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("Compress", ["h", "c"], ["k"], axis=0),
        helper.make_node("MatMul", ["k", "second.w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "last.w"], ["y"]),
    ]
    shapes = {"x": ["rows", 6], "m": ["rows"], "y": ["chosen", 3]}
    x, m, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    weights = [
        numpy_helper.from_array(random.uniform(size=shape).astype(np.float32) * (shape != ()), n)
        for n, shape in arrays.items()
    ]
    graph = helper.make_graph(nodes, "net", [x, m], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_sizes_that_only_a_run_tells_are_part_of_the_proof(root: Path, tmp_path: Path) -> None:
    chosen = {2: [1, -1, 1, -1], 3: [1, 1, 1, -1]}
    for count, status in ((2, PROVED), (2, INHERITED), (3, PROVED), (2, INHERITED)):
        np.save(tmp_path / "m.npy", np.array(chosen[count], np.float32))
        report = verified(sifted(), root, given={"m": str(tmp_path / "m.npy")})
        assert report.passed
        row = report.regions[-1]
        assert (row.origin, row.status, row.places) == ("last", status, 1)
        assert row.shapes[0] == (count, 3)
    assert report.loose, "what stands between the regions has kernels too"


def test_every_function_of_a_training_step_is_verified(root: Path) -> None:
    model = edit_models.training(widths=(8,), activations=("relu",), biases=(True,))
    report = verified(model, root, given={"labels": "random:0:3"}, sizes={"batch": 4})
    assert report.passed, report
    assert [one.function for one in report.functions] == ["predict", "gradients", "update"]
    assert set(statuses(report)) == {PROVED}


class Faulty(LlvmRoom):
    """Builds some kernels wrong: where they have a constant number, that is another one."""

    def __init__(self, victims: set[str]) -> None:
        self.victims = victims

    def build(self, unit: Unit, target: TargetSpec) -> bytes:
        if unit.name in self.victims:
            function = unit.payload.load()
            wrong = function.with_body(tvm_ffi.structural_map(function.body, (FloatImm, other)))
            payload = dataclasses.replace(unit.payload, load=lambda: wrong)
            unit = dataclasses.replace(unit, payload=payload)
        return super().build(unit, target)


def other(number: Any) -> Any:
    return FloatImm(str(number.ty.dtype), float(number.value) + 0.25)


VICTIM = "l1_up"


def kernels_of_victim(report: Report) -> set[str]:
    """The kernels that are of `VICTIM` alone."""
    (row,) = [row for row in report.regions if row.origin == VICTIM]
    others = {name for one in report.regions if one is not row for name in one.kernels}
    return set(row.kernels) - others


@pytest.mark.parametrize("proved", [False, True])
def test_wrong_kernels_are_caught_and_their_region_named(proved: bool, root: Path) -> None:
    model, store = edit_models.transformer(**MODEL), LocalStore(root)
    victims = kernels_of_victim(verified(model, root, end_to_end=False))
    if not proved:
        shutil.rmtree(bucket_path(root, PROOFS))
    for entry in list(store.entries(OBJECTS)):
        if name_of(dict(store.factors(OBJECTS, entry.digest) or ())["content"]) in victims:
            store.path(OBJECTS, entry.digest).unlink()
    reports = [verified(model, root, room=Faulty(victims)), verified(model, root)]
    for report in reports:  # what failed is not inherited
        assert not report.passed
        bad = [row for row in report.regions if row.status == DIFFERS]
        assert [row.origin for row in bad] == [VICTIM]
        assert victims <= set(bad[0].kernels)
        assert [one.status for one in report.functions] == [DIFFERS]
    # Those behind it were checked on the reference's values, and are right.
    others = {row.status for row in reports[0].regions if row.origin != VICTIM}
    assert others == {INHERITED if proved else PROVED}


AROUND = {
    "a limit of the target": limit("vector_registers", 16),
    "a flag of the target": flag("mcpu", "x86-64"),
    "the version of TVM": version("tvm"),
    "an option of a pass": option("Fuse", max_kernels=63),
}


@pytest.mark.parametrize("title", AROUND)
def test_no_proof_survives_another_factor(title: str, root: Path) -> None:
    target, room = pipeline.prepare("native")
    if title == "a flag of the target" and "x86" not in str(target.options["triple"]):
        pytest.skip("the flag is of x86, and this is another machine")
    model = edit_models.mlp()
    assert set(statuses(verified(model, root))) == {PROVED}
    around = AROUND[title](target, room)
    for status in (PROVED, INHERITED):
        report = verified(model, root, target=around[0], room=around[1])
        assert report.passed
        assert set(statuses(report)) == {status}
        assert [one.status for one in report.functions] == [status]
    assert set(statuses(verified(model, root))) == {INHERITED}, "the first proofs are still there"


def test_no_proof_survives_another_compiler(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified(edit_models.mlp(), root)
    monkeypatch.setattr(lowering, "compiler_digest", lambda: "another release")
    report = verified(edit_models.mlp(), root)
    assert {*statuses(report), *(one.status for one in report.functions)} == {PROVED}


def test_a_pass_that_changes_nothing_in_a_kernel_is_a_factor_all_the_same(root: Path) -> None:
    verified(edit_models.mlp(), root)
    store = LocalStore(root)
    objects = {entry.digest for entry in store.entries(OBJECTS)}
    before = {entry.digest for entry in store.entries(PROOFS)}
    target, room = pipeline.prepare("native")
    target, room = option("Fuse", max_kernels=63)(target, room)
    verified(edit_models.mlp(), root, target=target, room=room)
    assert {entry.digest for entry in store.entries(OBJECTS)} == objects
    assert len({entry.digest for entry in store.entries(PROOFS)} - before) == len(before)


def test_inputs_without_a_finite_result_prove_nothing(root: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 6, 8), np.nan, np.float32))
    given = {"x": str(tmp_path / "x.npy")}
    report = verified(edit_models.transformer(layers=1), root, given=given)
    assert set(statuses(report)) == {UNCHECKED}
    assert all("no finite value" in row.reason for row in report.regions)
    assert [one.status for one in report.functions] == [UNCHECKED]
    assert not report.passed
    assert not list(LocalStore(root).entries(PROOFS))


def test_a_target_that_takes_functions_whole_is_compared_end_to_end(root: Path) -> None:
    options = CompileOptions(store=LocalStore(root), memory=Memory())
    report = api.verify(edit_models.mlp(), target="xla-cpu", options=options)
    assert report.passed
    assert report.regions == ()
    assert [one.reference for one in report.functions] == ["tvm"], "not JAX, which built it"
    with pytest.raises(UserError, match="nothing to check but end to end"):
        api.verify(edit_models.mlp(), target="xla-cpu", end_to_end=False, options=options)


def test_regions_alone_are_checked_without_the_whole(root: Path) -> None:
    report = verified(edit_models.mlp(), root, end_to_end=False)
    assert report.passed
    assert report.functions == ()
    assert set(statuses(report)) == {PROVED}


def test_inputs_that_no_function_has_are_an_error(root: Path) -> None:
    with pytest.raises(InputError, match="there is no input 'layer_z'"):
        verified(edit_models.mlp(), root, given={"layer_z": "random"})
