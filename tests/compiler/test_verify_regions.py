"""Incremental verification: what is checked, what is inherited; wrong kernels are named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import edit_models
import numpy as np
import pytest
import tvm_ffi
from edit_settings import flag, limit, option, version
from tvm.tirx import FloatImm

from nexus_compiler import pipeline
from nexus_compiler.build import CompileOptions, Memory
from nexus_compiler.codegen import lowering
from nexus_compiler.codegen.door import Room, Unit
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.frontend import capture
from nexus_compiler.store.door import OBJECTS, PROOFS
from nexus_compiler.store.local import LocalStore
from nexus_compiler.targets import TargetSpec
from nexus_compiler.verify import api
from nexus_compiler.verify.evaluate import Evaluator
from nexus_compiler.verify.expected import ByGraph
from nexus_compiler.verify.incremental import verify_graph
from nexus_compiler.verify.report import DIFFERS, INHERITED, PROVED, UNCHECKED, Report
from nexus_runtime.errors import InputError, UserError

pytest.importorskip("jax", reason="pip install 'nexus-compiler[xla]'")


def verified(model: Any, root: Path, **how: Any) -> Report:
    """As a new process verifies: nothing is remembered but what the store has."""
    options = CompileOptions(store=LocalStore(root), memory=Memory())
    return api.verify(model, options=options, **how)


def statuses(report: Report) -> list[str]:
    return [one.status for one in report.regions]


def inside(
    model: Any, root: Path, room: Room | None = None, target: TargetSpec | None = None
) -> Report:
    """Verify with another room or target than those of the table."""
    captured = capture(model)
    spec, usual = pipeline.prepare("native")
    evaluator = Evaluator()
    arrays = api.made_inputs(captured, {}, {}, 0)
    return verify_graph(
        captured,
        target or spec,
        room or usual,
        arrays,
        options=CompileOptions(store=LocalStore(root), memory=Memory()),
        evaluator=evaluator,
        expected=ByGraph(captured, evaluator),
    )


def test_what_was_proved_is_inherited(tmp_path: Path) -> None:
    first = verified(edit_models.transformer(layers=2), tmp_path)
    assert first.passed
    assert set(statuses(first)) == {PROVED}
    assert [one.status for one in first.functions] == [PROVED]
    again = verified(edit_models.transformer(layers=2), tmp_path)
    assert again.passed
    assert set(statuses(again)) == {INHERITED}
    assert [one.status for one in again.functions] == [INHERITED]
    assert [one.outputs for one in again.regions] == [one.outputs for one in first.regions]
    worst = max(one.max_rel for row in again.regions for one in row.outputs)
    assert 0 < worst < 1e-5
    assert sum(row.places for row in again.regions) > len(again.regions)
    assert all(row.kernels and row.reference == "jax" for row in again.regions)


def test_nothing_is_computed_where_nothing_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified(edit_models.mlp(), tmp_path)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(Evaluator, "call", never)
    monkeypatch.setattr(LlvmRoom, "open", never)
    assert verified(edit_models.mlp(), tmp_path).passed


def test_an_edit_proves_its_regions_alone(tmp_path: Path) -> None:
    before = verified(edit_models.transformer(), tmp_path)
    after = verified(edit_models.transformer(inner={1: 24}), tmp_path)
    known = {row.region for row in before.regions}
    fresh = [row for row in after.regions if row.region not in known]
    assert [row for row in after.regions if row.status == PROVED] == fresh
    assert [row.origin for row in fresh] == ["l1_up", "l1_down, l2_n1"]
    assert all(row.location.startswith("edit_models.py:") for row in fresh)
    assert [one.status for one in after.functions] == [PROVED], "the program is another"
    # A region that moved tells where it was checked.
    moved = verified(edit_models.transformer(prefix="other_"), tmp_path)
    assert set(statuses(moved)) == {INHERITED}
    assert moved.regions[0].origin == "other_l0_n1"
    assert moved.regions[0].proved_at.startswith("l0_n1 at edit_models.py:")


def test_other_weights_or_inputs_inherit_regions_and_compare_the_whole(tmp_path: Path) -> None:
    verified(edit_models.mlp(), tmp_path)
    for model, seed in ((edit_models.mlp(seed=7), 0), (edit_models.mlp(), 1)):
        report = verified(model, tmp_path, seed=seed)
        assert set(statuses(report)) == {INHERITED}
        assert [one.status for one in report.functions] == [PROVED]


def test_everything_is_checked_where_no_proof_is_taken(tmp_path: Path) -> None:
    verified(edit_models.mlp(), tmp_path)
    report = verified(edit_models.mlp(), tmp_path, everything=True)
    assert {*statuses(report), *(one.status for one in report.functions)} == {PROVED}


def test_a_proof_is_of_the_sizes_that_it_was_made_with(tmp_path: Path) -> None:
    model = edit_models.transformer(batch=None, layers=2)
    for batch, status in ((2, PROVED), (2, INHERITED), (3, PROVED), (2, INHERITED)):
        report = verified(model, tmp_path, sizes={"batch": batch})
        assert report.passed
        assert set(statuses(report)) == {status}
        assert report.regions[0].shapes[0][0] == batch


def test_layers_that_are_functions_are_walked_through(tmp_path: Path) -> None:
    report = verified(edit_models.transformer(layers=17), tmp_path)
    assert report.passed
    assert max(row.places for row in report.regions) == 3 * 17
    # In line, the last layer is a region of its own: it hands out less than the others.
    in_line = verified(edit_models.transformer(), tmp_path)
    assert {row.region for row in report.regions} < {row.region for row in in_line.regions}
    assert len(in_line.regions) == len(report.regions) + 1


@pytest.mark.parametrize("model", ["residual_network", "recurrent", "branches"])
def test_models_of_several_kinds_are_verified(model: str, tmp_path: Path) -> None:
    report = verified(getattr(edit_models, model)(), tmp_path)
    assert report.passed
    assert set(statuses(report)) == {PROVED}


def test_every_function_of_a_training_step_is_verified(tmp_path: Path) -> None:
    model = edit_models.training(widths=(8,), activations=("relu",), biases=(True,))
    report = verified(model, tmp_path, given={"labels": "random:0:3"}, sizes={"batch": 4})
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


MODEL: dict[str, Any] = {"layers": 2, "inner": {1: 24}}
VICTIM = "l1_up"


def faulty(tmp_path: Path) -> Faulty:
    """The room that builds the kernels wrong that are of `VICTIM` alone."""
    report = verified(edit_models.transformer(**MODEL), tmp_path / "healthy")
    (row,) = [row for row in report.regions if row.origin == VICTIM]
    others = {name for one in report.regions if one is not row for name in one.kernels}
    return Faulty(set(row.kernels) - others)


def test_a_wrong_kernel_is_caught_and_its_region_named(tmp_path: Path) -> None:
    room = faulty(tmp_path)
    for _ in range(2):  # what failed is not inherited
        report = inside(edit_models.transformer(**MODEL), tmp_path / "faulty", room)
        assert not report.passed
        bad = [row for row in report.regions if row.status == DIFFERS]
        assert [row.origin for row in bad] == [VICTIM]
        assert room.victims <= set(bad[0].kernels)
        assert [one.status for one in report.functions] == [DIFFERS]
        # Those behind it were checked on the reference's values, and are right.
        assert {row.status for row in report.regions} - {DIFFERS} <= {PROVED, INHERITED}


def test_other_objects_under_the_same_keys_have_no_proof(tmp_path: Path) -> None:
    room, model = faulty(tmp_path), edit_models.transformer(**MODEL)
    healthy, damaged = LocalStore(tmp_path / "healthy"), LocalStore(tmp_path / "faulty")
    inside(model, damaged.root, room)
    for entry in list(damaged.entries(OBJECTS)):
        wrong = damaged.path(OBJECTS, entry.digest).read_bytes()
        healthy.path(OBJECTS, entry.digest).write_bytes(wrong)
    report = verified(model, healthy.root)
    assert [row.origin for row in report.regions if row.status == DIFFERS] == [VICTIM]
    assert not report.passed


AROUND = {
    "a limit of the target": limit("vector_registers", 16),
    "a flag of the target": flag("mcpu", "x86-64"),
    "the version of TVM": version("tvm"),
    "an option of a pass": option("Fuse", max_kernels=63),
}


@pytest.mark.parametrize("title", AROUND)
def test_no_proof_survives_another_factor(title: str, tmp_path: Path) -> None:
    target, room = pipeline.prepare("native")
    if title == "a flag of the target" and "x86" not in str(target.options["triple"]):
        pytest.skip("the flag is of x86, and this is another machine")
    model = edit_models.mlp()
    assert set(statuses(inside(model, tmp_path))) == {PROVED}
    around = AROUND[title](target, room)
    for status in (PROVED, INHERITED):
        report = inside(model, tmp_path, around[1], around[0])
        assert report.passed
        assert set(statuses(report)) == {status}
        assert [one.status for one in report.functions] == [status]
    assert set(statuses(inside(model, tmp_path))) == {INHERITED}, "the first proofs are still there"


def test_no_proof_survives_another_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(edit_models.mlp(), tmp_path)
    monkeypatch.setattr(lowering, "compiler_digest", lambda: "another release")
    report = inside(edit_models.mlp(), tmp_path)
    assert {*statuses(report), *(one.status for one in report.functions)} == {PROVED}


def test_a_pass_that_changes_nothing_in_a_kernel_is_a_factor_all_the_same(tmp_path: Path) -> None:
    inside(edit_models.mlp(), tmp_path)
    store = LocalStore(tmp_path)
    objects = {entry.digest for entry in store.entries(OBJECTS)}
    before = {entry.digest for entry in store.entries(PROOFS)}
    target, room = pipeline.prepare("native")
    inside(edit_models.mlp(), tmp_path, *reversed(option("Fuse", max_kernels=63)(target, room)))
    assert {entry.digest for entry in store.entries(OBJECTS)} == objects
    assert len({entry.digest for entry in store.entries(PROOFS)} - before) == len(before)


def test_inputs_without_a_finite_result_prove_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 6, 8), np.nan, np.float32))
    given = {"x": str(tmp_path / "x.npy")}
    report = verified(edit_models.transformer(layers=1), tmp_path / "store", given=given)
    assert set(statuses(report)) == {UNCHECKED}
    assert all("no finite value" in row.reason for row in report.regions)
    assert [one.status for one in report.functions] == [UNCHECKED]
    assert not report.passed
    assert not list(LocalStore(tmp_path / "store").entries(PROOFS))


def test_a_target_that_takes_functions_whole_is_compared_end_to_end(tmp_path: Path) -> None:
    report = verified(edit_models.mlp(), tmp_path, target="xla-cpu")
    assert report.passed
    assert report.regions == ()
    assert [one.reference for one in report.functions] == ["tvm"], "not JAX, which built it"
    with pytest.raises(UserError, match="nothing to check but end to end"):
        verified(edit_models.mlp(), tmp_path, target="xla-cpu", end_to_end=False)


def test_regions_alone_are_checked_without_the_whole(tmp_path: Path) -> None:
    report = verified(edit_models.mlp(), tmp_path, end_to_end=False)
    assert report.passed
    assert report.functions == ()
    assert set(statuses(report)) == {PROVED}


def test_inputs_that_no_function_has_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no input 'layer_z'"):
        verified(edit_models.mlp(), tmp_path, given={"layer_z": "random"})
