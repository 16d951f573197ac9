"""Alternatives of schedules: all of them right, chosen by records, and none without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from edit_models import mlp
from schedule_support import Graph, Shape, by_torch, graph, random
from tvm import IRModule
from tvm.relax import op

import nexus_compiler
import nexus_runtime
from nexus_compiler import GraphBuilder, pipeline
from nexus_compiler.build import CompileOptions, Memory, outlined
from nexus_compiler.cli.main import _run
from nexus_compiler.codegen.choices import Choice, Choices, Question
from nexus_compiler.codegen.llvm.schedule import Schedule
from nexus_compiler.frontend import capture
from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.passes import base
from nexus_compiler.passes.fuse import Fuse
from nexus_compiler.passes.legalize import Legalize
from nexus_compiler.store.door import OBJECTS, TUNING
from nexus_compiler.store.local import LocalStore
from nexus_compiler.tuning import here
from nexus_compiler.tuning.records import Record, Records, TuningWarning
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import TargetError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def built(model: Any, store: LocalStore, tune: float | None) -> Artifact:
    options = CompileOptions(store=store, memory=Memory(), tune=tune)
    return nexus_compiler.compile(model, options=options)


def module(artifact: Artifact) -> str:
    (entry,) = artifact.manifest.modules
    return artifact.manifest.members[entry.member].sha256


def asked(model: Any, store: LocalStore) -> tuple[list[Question], Records]:
    """What a build of `model` asks, and the records that would answer."""
    target, room = pipeline.prepare("native")
    options = CompileOptions(store=store, memory=Memory(), tune=0)
    captured = model if isinstance(model, CapturedGraph) else capture(model)
    cut = outlined(pipeline.common(captured), target, room, options)
    lowering = options.lowering(room, target)
    found = [one for region in cut.regions.values() for one in lowering.questions(region)]
    return found, here.records_for(store, target, room)


def dense(shape: tuple[int, int], columns: int) -> tuple[Any, Any]:
    model = GraphBuilder(seed=1).input("x", shape).dense(columns, name="d")
    weights = capture(model).params
    (w,) = [v for v in weights.values() if v.ndim == 2]
    (b,) = [v for v in weights.values() if v.ndim == 1]
    return model, lambda x: x.astype("float64") @ w.astype("float64") + b


def convolution(size: int, channels: int, filters: int, window: int) -> tuple[Any, Any]:
    model = GraphBuilder(seed=1).input("x", (1, channels, size, size))
    model = model.conv2d(filters, window, padding=window // 2, name="c")
    weights = capture(model).params
    (w,) = [v for v in weights.values() if v.ndim == 4]
    (b,) = [v for v in weights.values() if v.ndim == 1]

    def reference(x: np.ndarray) -> np.ndarray:
        made = [torch.from_numpy(np.array(one, "float64")) for one in (x, w, b)]
        return torch.nn.functional.conv2d(*made, padding=window // 2).numpy()

    return model, reference


def inputs(shapes: list[Shape], build: Graph, reference: Callable[..., Any]) -> tuple[Any, Any]:
    return graph(shapes, build), reference


CASES: dict[str, tuple[Any, Any]] = {
    "weights": dense((37, 300), 70),
    "window": convolution(14, 24, 40, 3),
    "pixels": convolution(9, 64, 160, 1),
    "two inputs": inputs([(45, 200), (200, 50)], op.matmul, lambda a, b: a @ b),
    "turned": inputs(
        [(2, 40, 64), (2, 40, 64)],
        lambda a, b: op.einsum([a, b], "bik,bjk->bij"),
        lambda a, b: np.einsum("bik,bjk->bij", a, b),
    ),
    "channel by channel": inputs(
        [(1, 9, 11, 40), (3, 3, 40, 1)],
        lambda x, w: op.nn.conv2d(
            x, w, padding=1, groups=40, data_layout="NHWC", kernel_layout="HWOI"
        ),
        by_torch(
            lambda x, w: torch.nn.functional.conv2d(
                x.permute(0, 3, 1, 2), w.permute(2, 3, 0, 1), padding=1, groups=40
            ).permute(0, 2, 3, 1)
        ),
    ),
}


def alternatives(model: Any, store: LocalStore) -> Iterator[tuple[Question, Records, str, str]]:
    questions, records = asked(model, store)
    assert questions, "there is something to choose"
    for question in questions:
        for fork, (_, *others) in question.forks.items():
            for other in others:
                yield question, records, fork, other


@pytest.mark.parametrize("name", CASES)
def test_every_alternative_is_right(name: str, store: LocalStore) -> None:
    model, reference = CASES[name]
    first = built(model, store, None)
    arrays = random(
        *[[int(d) for d in i.shape] for i in first.manifest.signature.functions[0].inputs]
    )
    expected = np.asarray(reference(*arrays), "float64")
    # Of sums of some hundred products, by Winograd's transforms with ten times the error.
    bound = 64 * np.finfo("float32").eps * np.abs(expected).max()
    told: set[str] = set()
    for question, records, fork, other in alternatives(model, store):
        records.keep(question.digest, Record(question.label, {fork: other}, {}))
        tuned = built(model, store, 0)
        found = nexus_runtime.load(tuned)(*arrays)
        assert np.abs(np.asarray(found, "float64") - expected).max() <= bound, (fork, other)
        assert f"{fork} {other}" in tuned.manifest.modules[0].factors["choices"]
        told.add(fork)
        records.keep(question.digest, Record(question.label, {}, {}))
    assert told
    assert module(built(model, store, 0)) == module(first)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_alternative_is_right_where_planes_are_copied(stride: int) -> None:
    shapes: list[Shape] = [(1, 6, 12, 12), (10, 6, 3, 3)]
    module = graph(shapes, lambda x, w: op.nn.conv2d(x, w, strides=stride, padding=1)).module
    questions: list[Question] = []
    passes = (Legalize(), Fuse(), Schedule(choices=Choices(note=questions.append)))
    base.run(module, passes)
    (question,) = questions
    assert set(question.forks) == {"tile", "band"}
    arrays = random(*shapes)
    given = [torch.from_numpy(array) for array in arrays]
    expected = torch.nn.functional.conv2d(*given, stride=stride, padding=1).numpy()
    for fork, names in question.forks.items():
        for name in names:
            known = ((question.digest, Choice.of({fork: name})),)
            made = Schedule(choices=Choices(known)).apply(question.module)
            (kernel,) = (f for _, f in made.functions.items())
            assert kernel.attrs["nexus.tuned"] == f"{fork} {name}"
            run = tvm.tirx.build(
                IRModule({"main": kernel.with_attr("global_symbol", "main")}), target="llvm"
            )["main"]
            result = tvm.runtime.empty(expected.shape, "float32")
            run(*[tvm.runtime.tensor(array) for array in arrays], result)
            np.testing.assert_allclose(result.numpy(), expected, rtol=2e-4, atol=2e-4)


def test_forks_are_met_in_many_places(store: LocalStore) -> None:
    met = {fork for model, _ in CASES.values() for q in asked(model, store)[0] for fork in q.forks}
    assert met == {"packing", "tile", "order", "blocks", "panel"}


def test_a_kernel_that_was_chosen_has_another_key_and_says_so(store: LocalStore) -> None:
    model, _ = CASES["weights"]
    first = built(model, store, None)
    question, records, fork, other = next(a for a in alternatives(model, store) if a[2] == "tile")
    records.keep(question.digest, Record(question.label, {fork: other}, {}))
    tuned = built(model, store, 0)
    assert tuned.manifest.modules[0].objects != first.manifest.modules[0].objects
    said = tuned.work("native")
    assert said is not None
    assert f"{fork} {other}" in [kernel.tuned for kernel in said.kernels.values()]
    assert module(built(model, store, None)) == module(first), "who does not ask gets no records"
    objects = {entry.digest for entry in store.entries(OBJECTS)}
    built(model, store, 0)
    assert {entry.digest for entry in store.entries(OBJECTS)} == objects, "nothing is built twice"


def test_records_outlive_an_edit(store: LocalStore) -> None:
    before = mlp(batch=32, features=64, widths=(128, 96, 80))
    after = mlp(batch=32, features=64, widths=(128, 96, 48), prefix="other")
    questions, records = asked(before, store)
    for question in questions:
        fork, (_, other, *_) = next(iter(question.forks.items()))
        records.keep(question.digest, Record(question.label, {fork: other}, {}))
    known = {question.digest for question in questions}
    shared = [question for question in asked(after, store)[0] if question.digest in known]
    assert shared
    choices = built(after, store, 0).manifest.modules[0].factors["choices"]
    assert all(question.label in choices for question in shared)


def test_nothing_known_and_no_budget_is_a_build_as_ever(store: LocalStore) -> None:
    model, _ = CASES["weights"]
    told = [built(model, store, tune) for tune in (None, 0)]
    assert module(told[0]) == module(told[1])
    assert "choices" not in told[1].manifest.modules[0].factors
    assert not list(store.entries(TUNING))


def test_an_unknown_alternative_is_not_taken(store: LocalStore) -> None:
    model, _ = CASES["weights"]
    questions, records = asked(model, store)
    for question in questions:
        records.keep(question.digest, Record(question.label, {"tile": "99x99"}, {}))
    found = nexus_runtime.load(built(model, store, 0))(*random((37, 300)))
    expected = nexus_runtime.load(built(model, store, None))(*random((37, 300)))
    np.testing.assert_array_equal(found, expected)


def test_measuring_answers_every_question(store: LocalStore) -> None:
    model, reference = CASES["weights"]
    stages: list[str] = []
    options = CompileOptions(
        store=store, memory=Memory(), tune=60, progress=lambda what, *_: stages.append(what)
    )
    tuned = nexus_compiler.compile(model, options=options)
    questions, records = asked(model, store)
    assert questions and all(records.of(question.digest) is not None for question in questions)
    assert "tune native" in stages
    x = random((37, 300))[0]
    np.testing.assert_allclose(nexus_runtime.load(tuned)(x), reference(x), rtol=1e-4, atol=1e-4)
    assert module(built(model, store, 0)) == module(tuned)
    entries = {entry.digest for entry in store.entries(TUNING)}
    built(model, store, 60)
    assert {entry.digest for entry in store.entries(TUNING)} == entries, "nothing is left to ask"


def test_a_record_that_cannot_be_read_is_told(store: LocalStore) -> None:
    model, _ = CASES["weights"]
    questions, records = asked(model, store)
    store.put(TUNING, records.key(questions[0].digest), b"{")
    with pytest.warns(TuningWarning, match="is not used"):
        built(model, store, 0)


@pytest.mark.parametrize(
    "target, why", [("cortex-a72", "aarch64"), ("xla-cpu", "another compiler")]
)
def test_only_what_runs_here_is_tuned(store: LocalStore, target: str, why: str) -> None:
    options = CompileOptions(store=store, memory=Memory(), tune=1)
    with pytest.raises(TargetError, match=why):
        nexus_compiler.compile(mlp(), targets=[target], options=options)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    text = "from nexus_compiler import GraphBuilder as Graph\n\n\n"
    text += "def net():\n    return Graph().input('x', (37, 300)).dense(70)\n"
    Path("net.py").write_text(text, encoding="utf-8")

    def said(*arguments: str) -> str:
        assert _run(list(arguments)) == 0
        return capsys.readouterr().out

    said("compile", "net.py:net", "--tune", "60")
    store = LocalStore()
    questions, records = asked(GraphBuilder().input("x", (37, 300)).dense(70), store)
    for question in questions:
        assert records.of(question.digest) is not None
        # Whatever was measured: what is taken can be seen where it is not the first.
        if "tile" in question.forks:  # of the kernel that the answer about packing led to
            taken = {"tile": question.forks["tile"][1]}
            records.keep(question.digest, Record(question.label, taken, {}))
    said("compile", "net.py:net", "--tune", "0")
    assert "measured: matmul" in said("compile", "net.py:net", "--plan", "--tune", "0")
    assert "  measured: matmul" in said("inspect", "net.nxa")
    assert f"tuning: {len(list(store.entries(TUNING)))} whole" in said("cache", "verify")
    assert "tuning-v2" in said("cache", "size")
    assert "measured" not in said("compile", "net.py:net", "--plan")
    assert _run(["compile", "net.py:net", "--tune", "-1"]) == 1
