"""What an edit makes dirty, exactly: `edits.py` says it, plans must say the same, builds do it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edit_models
import pytest
from edit_settings import EditedRoom, option
from edits import ALL, EDITS, PLACES, Edit

import nexus_compiler
from nexus_compiler import pipeline, targets
from nexus_compiler.build import CompileOptions, Memory, build_target, object_keys, outlined
from nexus_compiler.codegen.door import Room, Unit, room_for
from nexus_compiler.frontend import capture
from nexus_compiler.ir.fingerprint import Fingerprint
from nexus_compiler.passes.record import Place, Record
from nexus_compiler.planning.plan import BUILD, REUSE, TargetPlan, plan_graph
from nexus_compiler.store.door import OBJECTS
from nexus_compiler.store.local import LocalStore
from nexus_compiler.targets import TargetSpec

TARGETS = ("x86-64-v3", "cortex-a72")


@dataclass
class Base:
    """A model as it was before: a store with its kernels and objects, and its regions."""

    store: LocalStore
    records: dict[str, Record]


def rooms() -> list[tuple[TargetSpec, Room]]:
    return [(spec, room_for(spec)) for spec in map(targets.load, TARGETS)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """Models that were built, each in its own store; made when they are first asked for."""

    class Bases(dict[str, Base]):
        def __missing__(self, model: str) -> Base:
            self[model] = built(model, tmp_path_factory.mktemp(model))
            return self[model]

    return Bases()


def built(model: str, path: Path) -> Base:
    """Everything that a build makes but for the link, which for a foreign target needs a linker."""
    base = Base(LocalStore(path), {})
    graph = capture(getattr(edit_models, model)())
    module = pipeline.common(graph)
    options = CompileOptions(store=base.store, memory=Memory())
    for target, room in rooms():
        cut = outlined(module, target, room, options)
        lowering = options.memory.lowering(room, target)
        program, kernels = lowering.program(cut, base.store)
        units = room.cut(program, graph.signature, target, kernels).units
        with ThreadPoolExecutor(options.jobs) as pool:
            made = pool.map(room.build, units, [target] * len(units))
            for unit, data in zip(units, made):
                base.store.put(OBJECTS, key_of(unit, target, room), data)
        base.records[target.name] = options.memory.record(cut, graph, lowering)
    return base


def key_of(unit: Unit, target: TargetSpec, room: Room) -> Fingerprint:
    return Fingerprint((("content", unit.content.decode()), *room.versions, *target.factors()))


def planned(edit: Edit, base: Base) -> list[tuple[TargetPlan, Sequence[Place]]]:
    """The plans for both targets, as a new process makes them, and the places of all regions."""
    graph = capture(edit.make())
    module = pipeline.common(graph)
    options = CompileOptions(store=base.store, memory=Memory())
    around = [edit.around(*pair) if edit.around else pair for pair in rooms()]
    found: list[tuple[TargetPlan, Sequence[Place]]] = []
    for pair, plan in zip(around, plan_graph(module, graph, around, options, base.records)):
        cut = outlined(module, *pair, options)
        lowering = options.memory.lowering(pair[1], pair[0])
        found.append((plan, options.memory.record(cut, graph, lowering).places))
    return found


def numbered(origins: Sequence[str]) -> list[str]:
    """`origins` with `#1` behind the second of equal ones, and so on."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for origin in origins:
        found.append(f"{origin}#{seen[origin]}" if seen[origin] else origin)
        seen[origin] += 1
    return found


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.model}-{edit.title}")
def test_exactly_what_an_edit_changes_is_dirty(edit: Edit, bases: dict[str, Base]) -> None:
    origins = (edit.places or PLACES[edit.model]).split("; ")
    dirty = set(numbered(origins)) if edit.dirty == ALL else set(edit.dirty)
    for plan, places in planned(edit, bases[edit.model]):
        assert [place.origin for place in places] == origins
        rows = {row.region: row for row in plan.regions}
        names = numbered(origins)
        assert {n for n, p in zip(names, places) if rows[p.region].action == BUILD} == dirty
        clean = {n for n, p in zip(names, places) if rows[p.region].action == REUSE}
        assert clean == set(names) - dirty
        assert {row.kernels for row in plan.regions} <= {0, None}, "known regions have objects"
        assert all(row.places == sum(p.region == r for p in places) for r, row in rows.items())
        reasons = [row.reason for row in plan.regions if row.action == BUILD]
        assert all(reasons)
        assert not edit.reason or any(edit.reason in reason for reason in reasons), reasons


def test_the_corpus_is_large() -> None:
    assert len(EDITS) >= 40
    assert len({edit.model for edit in EDITS}) >= 4


def named(model: str, title: str) -> Edit:
    (found,) = [edit for edit in EDITS if (edit.model, edit.title) == (model, title)]
    return found


BUILT = [
    named("mlp", "every name"),
    named("mlp", "an inserted layer"),
    named("mlp", "an open batch"),
    named("training", "the momentum"),
    named("residual_network", "epsilon of a block"),
    named("residual_network", "more blocks"),
    named("transformer", "a wider layer"),
    named("transformer", "other weights"),
    named("recurrent", "more steps"),
    named("branches", "the order of lines"),
    named("branches", "a constant"),
]


def objects(store: LocalStore) -> set[str]:
    return {entry.digest for entry in store.entries(OBJECTS)}


def copied(base: Base, path: Path) -> LocalStore:
    shutil.copytree(base.store.root, path)
    return LocalStore(path)


@pytest.mark.parametrize("edit", BUILT, ids=lambda edit: f"{edit.model}-{edit.title}")
def test_a_build_makes_the_kernels_of_dirty_regions_and_no_others(
    edit: Edit, bases: dict[str, Base], tmp_path: Path
) -> None:
    store = copied(bases[edit.model], tmp_path / "store")
    had, model = objects(store), edit.make()
    options = CompileOptions(store=store, memory=Memory())
    (plan,) = nexus_compiler.plan(model, targets=TARGETS[:1], options=options)
    assert objects(store) == had, "planning builds nothing"
    nexus_compiler.compile(model, targets=TARGETS[:1], options=options)
    made = objects(store) - had
    assert made == keys_of_dirty(model, plan, tmp_path) - had
    assert bool(made) == bool(edit.dirty)
    (after,) = nexus_compiler.plan(model, targets=TARGETS[:1], options=options)
    assert after.rebuilds == 0


def keys_of_dirty(model: Any, plan: TargetPlan, path: Path) -> set[str]:
    """The keys of the objects of what a plan calls dirty, lowered with nothing known.

    With those of no region: open sizes are computed between regions.
    """
    (target, room), graph = rooms()[0], capture(model)
    options = CompileOptions(store=LocalStore(path / "other"), memory=Memory())
    cut = outlined(pipeline.common(graph), target, room, options)
    lowering = options.memory.lowering(room, target)
    dirty = {row.region for row in plan.regions if row.action == BUILD}
    found: set[str] = set()
    for region in cut.regions.values():
        if region.digest in dirty:
            kernels = lowering.region(region, options.store).kernels
            found |= {key.digest for key in object_keys(kernels, target, room).values()}
    program, kernels = lowering.program(cut, options.store)
    units = room.cut(program, graph.signature, target, kernels).units
    return found | {key_of(u, target, room).digest for u in units if u.name not in kernels}


def test_what_lowers_to_known_kernels_builds_no_object(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    """Early cutoff: with another option every region is lowered again, and comes out equal."""
    store = copied(bases["mlp"], tmp_path / "store")
    edit = Edit("mlp", "", dirty=ALL, around=option("Fuse", max_kernels=63))
    assert all(row.action == BUILD for row in planned(edit, Base(store, {}))[0][0].regions)
    had, graph = objects(store), capture(edit.make())
    target, _ = rooms()[0]
    room = edit.around(target, room_for(target))[1] if edit.around else EditedRoom()
    options = CompileOptions(store=store, memory=Memory())
    module = pipeline.common(graph)
    made = build_target(module, graph, target, room, options)
    assert objects(store) == had
    assert made.objects
    assert all(row.action == REUSE for row in planned(edit, Base(store, {}))[0][0].regions)


def test_a_flag_of_the_target_builds_every_object_again(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    store = copied(bases["branches"], tmp_path / "store")
    had, graph = objects(store), capture(edit_models.branches())
    target, room = targets.load("x86-64-v2"), room_for(targets.load("x86-64-v2"))
    options = CompileOptions(store=store, memory=Memory())
    made = build_target(pipeline.common(graph), graph, target, room, options)
    assert len(objects(store) - had) == len(made.objects) > 0
