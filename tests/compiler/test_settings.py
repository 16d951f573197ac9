"""Every setting is a factor of what is built, or it is declared harmless, with the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import edit_models
import msgspec
import pytest
from edit_settings import EditedRoom, option

import nexus_compiler
from nexus_compiler import pipeline, targets
from nexus_compiler.build import CompileOptions, Memory, build_target, outlined
from nexus_compiler.codegen.choices import Choice, Choices
from nexus_compiler.codegen.door import Room, room_for
from nexus_compiler.codegen.llvm.room import LlvmRoom
from nexus_compiler.codegen.lowering import Lowering
from nexus_compiler.frontend import capture
from nexus_compiler.ir.region import Region
from nexus_compiler.passes import pipelines
from nexus_compiler.passes.layers import Layers
from nexus_compiler.store.local import LocalStore
from nexus_compiler.targets import TargetSpec

TARGET = "x86-64-v3"

HARMLESS = {
    "TargetSpec.name": "what people call it",
    "TargetSpec.description": "what people read",
    "TargetSpec.rank": "chooses among modules at run time",
    "TargetSpec.requires": "is checked before a module is loaded",
    "TargetSpec.check": "how modules are checked after they are built",
    "TargetSpec.toolchain": "links objects; the link is done every time",
    "CompileOptions.store": "where things are kept",
    "CompileOptions.jobs": "how many are built at once",
    "CompileOptions.hooks": "who watches",
    "CompileOptions.progress": "who is told",
    "CompileOptions.memory": "what is not done twice",
    "CompileOptions.told": "who is told of regions",
    "CompileOptions.tune": "what it changes are choices, which are options of passes",
}
# Passes over whole graphs have no part in keys: the regions that they leave are the key.
SHOWN_BY_REGIONS = {"FuseAttention.largest_head": 2, "IntegerProducts.unsigned": False}
SHOWN_BY_FUNCTIONS = {
    "Layers.least_nodes": 100,
    "Layers.least_times": 100,
    "Layers.across": False,
}


def changed(value: Any) -> Any:
    """Another value of the type of `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, dict):
        return {**value, "another": 1}
    if isinstance(value, Choices):
        return Choices((*value.known, ("0" * 64, Choice.of({"tile": "8x2"}))))
    raise AssertionError(f"say here how a {type(value).__name__} changes")


def fields_of(passes: Any) -> list[tuple[str, str, Any]]:
    return [
        (type(step).__name__, field.name, getattr(step, field.name))
        for step in passes
        for field in dataclasses.fields(step)
    ]


def specs() -> list[TargetSpec]:
    return [spec for spec in targets.load_all().values() if spec.name != "native"]


def resolved(name: str = TARGET) -> tuple[TargetSpec, Room]:
    return targets.load(name), room_for(targets.load(name))


@pytest.fixture(scope="module")
def region() -> Region:
    target, room = resolved()
    module = pipeline.common(capture(edit_models.mlp()))
    cut = outlined(module, target, room, CompileOptions(memory=Memory()))
    return next(iter(cut.regions.values()))


LOWERING = sorted(
    {
        (kind, name)
        for spec in specs()
        for kind, name, _ in fields_of(room_for(spec).region_passes(spec))
    }
)
GRAPH = sorted(
    {
        f"{kind}.{name}"
        for spec in specs()
        for kind, name, _ in fields_of((*pipelines.common(), *room_for(spec).graph_passes(spec)))
    }
)


@pytest.mark.parametrize(("kind", "name"), LOWERING)
def test_options_of_passes_over_regions_are_factors(kind: str, name: str, region: Region) -> None:
    target, room = resolved()
    (value,) = [v for k, n, v in fields_of(room.region_passes(target)) if (k, n) == (kind, name)]
    # A value that a pass refuses is no other setting.
    other = {"identities": "finite"}.get(name, changed(value))
    _, edited = option(kind, **{name: other})(target, room)
    before = Lowering(room, target).fingerprint(region)
    after = Lowering(edited, target).fingerprint(region)
    assert [factor for factor, _, _ in before.diff(after)] == ["passes"]
    assert before.digest != after.digest


def quantized() -> Any:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    weight = helper.make_tensor("w", TensorProto.INT8, [64, 16], [1, -2] * 512)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 16])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_options_of_passes_over_graphs_are_known() -> None:
    assert set(GRAPH) == {*SHOWN_BY_REGIONS, *SHOWN_BY_FUNCTIONS}


@pytest.mark.parametrize(("setting", "value"), SHOWN_BY_FUNCTIONS.items())
def test_options_of_layers_change_functions(setting: str, value: Any) -> None:
    net = nexus_compiler.GraphBuilder().input("x", (1, 4, 6, 6))
    for _ in range(4):
        net = net.conv2d(4, 3, padding=1, activation="relu").conv2d(4, 1)
    module = pipeline.common(capture(net))
    base = Layers(least_nodes=2, least_times=2, across=True)
    other = dataclasses.replace(base, **{setting.split(".")[1]: value})
    assert len(base.apply(module).functions) == 2
    assert len(other.apply(module).functions) == 1


@pytest.mark.parametrize(("setting", "value"), SHOWN_BY_REGIONS.items())
def test_options_of_passes_over_graphs_change_regions(setting: str, value: Any) -> None:
    kind, name = setting.split(".")
    target, room = resolved()
    model = edit_models.transformer(layers=1) if kind == "FuseAttention" else quantized()
    module = pipeline.common(capture(model))

    def digests(own: Room) -> set[str]:
        cut = outlined(module, target, own, CompileOptions(memory=Memory()))
        return {one.digest for one in cut.regions.values()}

    assert digests(option(kind, **{name: value})(target, room)[1]) != digests(room)


@pytest.mark.parametrize("name", [field.name for field in msgspec.structs.fields(TargetSpec)])
def test_fields_of_targets(name: str, region: Region) -> None:
    target, room = resolved()
    kinds = {"requires": targets.Requires(machine="z80"), "check": targets.Check(level="none")}
    value = kinds[name] if name in kinds else changed(getattr(target, name))
    edited = msgspec.structs.replace(target, **{name: value})
    same = Lowering(room, target).fingerprint(region) == Lowering(room, edited).fingerprint(region)
    assert same == (f"TargetSpec.{name}" in HARMLESS)
    # Keys of objects have the same factors of the target.
    assert (edited.factors() == target.factors()) == same


@pytest.mark.parametrize("name", [name for name, _ in LlvmRoom().versions])
def test_versions_are_factors(name: str, region: Region) -> None:
    target, room = resolved()
    before = Lowering(room, target).fingerprint(region)
    after = Lowering(EditedRoom(version=name), target).fingerprint(region)
    assert [factor for factor, _, _ in before.diff(after)] == [name]


def test_options_of_compilation_change_nothing(tmp_path: Path) -> None:
    graph = capture(edit_models.branches())
    module = pipeline.common(graph)
    target, room = resolved()
    told: list[Any] = []

    def fresh() -> CompileOptions:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        return CompileOptions(store=LocalStore(path), memory=Memory(), jobs=1)

    base = fresh()
    others = {
        "store": fresh().store,
        "jobs": 3,
        "hooks": (lambda *said: told.append(said),),
        "progress": lambda *said: told.append(said),
        "memory": Memory(),
        "told": lambda region, known: told.append(region),
        "tune": 0,
    }
    names = [field.name for field in dataclasses.fields(CompileOptions)]
    assert {f"CompileOptions.{name}" for name in names} <= set(HARMLESS)
    first = build_target(module, graph, target, room, base)
    for name in names:
        edited = dataclasses.replace(base, **{name: others[name]})
        again = build_target(module, graph, target, room, edited)
        assert (again.data, again.objects) == (first.data, first.objects), name
    assert told
