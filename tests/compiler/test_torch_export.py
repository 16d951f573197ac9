"""PyTorch models captured through torch.export compute what eager PyTorch does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from torch_models import MODELS, Encoder, eager, leaves, nn, resnet, torch

import nexus_compiler
import nexus_runtime
from nexus_compiler import CapturedGraph
from nexus_compiler.frontend.torch.values import as_array
from nexus_runtime.errors import CaptureError, InputError, UnsupportedOperator


def run(graph: CapturedGraph, args: tuple[Any, ...], **more: Any) -> dict[str, np.ndarray]:
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    names = [spec.name for spec in graph.signature.functions[0].inputs]
    return module.run("main", {**dict(zip(names, map(np.asarray, leaves(args)))), **more})


def compare(model: Any, graph: CapturedGraph, *batches: tuple[Any, ...], tol: float) -> None:
    (entry,) = graph.signature.functions
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    names = [spec.name for spec in entry.inputs]
    for args in batches:
        wanted, twin = eager(model, args)
        found = module.run("main", dict(zip(names, map(np.asarray, leaves(args)))))
        state = twin.state_dict()
        pairs = [(found[name], state[target]) for name, target in entry.updates.items()]
        plain = [value for name, value in found.items() if name not in entry.updates]
        for ours, theirs in [*zip(plain, wanted, strict=True), *pairs]:
            np.testing.assert_allclose(ours, np.asarray(theirs), rtol=tol, atol=tol)


@pytest.mark.parametrize("name", list(MODELS))
def test_inference(name: str) -> None:
    torch.manual_seed(0)
    case = MODELS[name]
    model, args = case.make().eval(), case.inputs(2)
    shapes = case.dynamic_shapes()
    graph = nexus_compiler.capture(model, args, dynamic_shapes=shapes)
    assert graph.source.kind == "torch"
    assert set(dict(model.named_parameters())) <= set(graph.params)
    for spec, axes in zip(graph.signature.functions[0].inputs, case.axes):
        assert {axis: spec.shape[axis] for axis in axes} == axes
    compare(model, graph, args, case.inputs(3), tol=2e-5)


def test_training_mode_returns_the_statistics() -> None:
    torch.manual_seed(0)
    model, args = resnet().train(), (torch.randn(4, 3, 32, 32),)
    graph = nexus_compiler.capture(model, args)
    (entry,) = graph.signature.functions
    assert entry.outputs[0].name == "output"
    assert entry.updates["update:1.running_mean"] == "1.running_mean"
    assert len(entry.updates) == 3 * sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    compare(model, graph, args, tol=1e-4)


def test_dropout_is_real_in_training_mode() -> None:
    class Twice(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.functional.dropout(x, 0.25), nn.functional.dropout(x, 0.25)

    args = (torch.ones(64, 100),)
    graph = nexus_compiler.capture(Twice(), args)
    seeds = {"seed": np.uint32(7), "row": np.int64(0)}
    first, second = run(graph, args, **seeds).values()
    assert 0.22 < (first == 0).mean() < 0.28
    assert np.unique(first).tolist() == [0, np.float32(1 / 0.75)]
    assert (first != second).any()
    again = run(graph, args, **seeds)
    np.testing.assert_array_equal(first, again["output_0"])
    other = run(graph, args, seed=np.uint32(8), row=np.int64(0))
    assert (first != other["output_0"]).any()


def test_a_part_of_a_batch_draws_its_own_rows() -> None:
    torch.manual_seed(0)
    model, shapes = nn.Dropout(0.5), ({0: torch.export.Dim("batch")},)
    graph = nexus_compiler.capture(model, (torch.ones(4, 6),), dynamic_shapes=shapes)
    whole = run(graph, (torch.ones(8, 6),), seed=np.uint32(3), row=np.int64(0))["output"]
    half = run(graph, (torch.ones(3, 6),), seed=np.uint32(3), row=np.int64(5))["output"]
    np.testing.assert_array_equal(whole[5:], half)


def test_no_dropout_in_evaluation_mode() -> None:
    graph = nexus_compiler.capture(Encoder(0.5).eval(), (torch.randint(0, 20, (2, 4)),))
    assert [spec.name for spec in graph.signature.functions[0].inputs] == ["x"]


def test_mutable_buffers_come_back() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: Any) -> Any:
            self.total.add_(x)
            return self.total * 2

    graph = nexus_compiler.capture(Counter(), (torch.ones(3),))
    (entry,) = graph.signature.functions
    assert entry.updates == {"update:total": "total"}
    found = run(graph, (torch.full((3,), 5.0),))
    np.testing.assert_array_equal(found["output"], [10, 10, 10])
    np.testing.assert_array_equal(found["update:total"], [5, 5, 5])


def test_outputs_have_the_names_of_a_dict() -> None:
    class Named(nn.Module):
        def forward(self, x: Any) -> Any:
            return {"twice": x * 2, "rows": [x + 1, x - 1]}

    graph = nexus_compiler.capture(Named(), (torch.ones(3),))
    names = [spec.name for spec in graph.signature.functions[0].outputs]
    assert names == ["twice", "rows_0", "rows_1"]


def test_unknown_operators_are_listed_together() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            y = torch.linalg.qr(x)[0] + torch.linalg.qr(x)[1]
            return torch.special.bessel_j0(y)

    with pytest.raises(UnsupportedOperator) as caught:
        nexus_compiler.capture(Odd(), (torch.randn(3, 3),))
    message = str(caught.value)
    assert "2 operators" in message
    assert "aten.linalg_qr.default (2 times" in message
    assert "aten.special_bessel_j0.default (once" in message
    assert "test_torch_export.py" in message


class Sized(nn.Module):
    """Calculates with sizes, as each of the cases below says."""

    def __init__(self, calculate: Any) -> None:
        super().__init__()
        self.calculate = calculate

    def forward(self, *args: Any) -> Any:
        return self.calculate(*args)


def put_rows(x: Any) -> Any:
    chosen = x[:, 0] > 0
    x = x.clone()
    x[x < -1] = 5.0
    x[chosen] = x[chosen] * 2
    return x


def first_rows(x: Any, count: Any) -> Any:
    rows = count.item()
    torch._check(rows >= 0)
    torch._check(rows <= x.shape[0])
    return x[:rows] * 2


def running(x: Any) -> Any:
    scan = torch._higher_order_ops.scan
    return scan(lambda h, row: (h * 0.5 + row, h.sin()), x[0], x, dim=0)


def halved(x: Any) -> Any:
    loop, weight = torch._higher_order_ops.while_loop, torch.linspace(0.1, 0.9, 12).reshape(4, 3)

    def step(count: Any, y: Any) -> Any:
        return count + 1, y * weight

    return loop(lambda count, y: y.abs().sum() > count, step, (torch.tensor(0), x))


FROM_DATA = {
    "nonzero": lambda x: torch.nonzero(x > 0),
    "elements": lambda x: (x[x > 0], torch.masked_select(x, x < 0)),
    "rows": lambda x: (x[(x > 0).any(1)], x[:, x[0] > 0], x[x[:, 0] > 9].sum(0)),
    "put": put_rows,
    "branches": lambda x: torch.cond(x.sum() > 0, torch.sin, torch.neg, (x,)),
    "scan": running,
    "while": halved,
}


@pytest.mark.parametrize("name", FROM_DATA)
def test_results_whose_size_or_way_depends_on_data(name: str) -> None:
    torch.manual_seed(0)
    model, args = Sized(FROM_DATA[name]), (torch.randn(4, 3),)
    compare(model, nexus_compiler.capture(model, args), args, (-args[0],), tol=1e-6)


def test_a_size_out_of_a_tensor_is_checked_in_each_run() -> None:
    shapes = (({0: torch.export.Dim("rows")}, None),)
    args = (torch.ones(4, 3), torch.tensor(2))
    graph = nexus_compiler.capture(Sized(first_rows), args, dynamic_shapes=shapes)
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    x = np.ones((5, 3), np.float32)
    for count in (0, 5):
        assert np.asarray(module(x, np.array(count))).shape == (count, 3)
    for count in (6, -1):
        with pytest.raises(Exception, match="match_cast error"):
            module(x, np.array(count))


def test_what_cannot_be_traced_is_an_error() -> None:
    class Branch(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match=r"torch\.export cannot trace Branch"):
        nexus_compiler.capture(Branch(), (torch.randn(3),))


def test_compile_takes_a_module() -> None:
    model = nn.Linear(3, 2)
    shapes = ({0: torch.export.Dim("batch")},)
    artifact = nexus_compiler.compile(model, args=(torch.ones(2, 3),), dynamic_shapes=shapes)
    x = torch.randn(5, 3)
    found = nexus_runtime.load(artifact)(np.asarray(x))
    np.testing.assert_allclose(np.asarray(found), model(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_program_that_is_exported_already() -> None:
    program = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    graph = nexus_compiler.capture(program)
    assert set(graph.params) == {"weight", "bias"}


def checked(x: Any) -> Any:
    torch._check(x.shape[0] < 20)
    return x.reshape(-1, 4, 3)


Dim = torch.export.Dim
GUARDED = {
    "bounds": (lambda x: x + 1, [{0: Dim("rows", min=3, max=16)}], [(3,), (16,)], [(2,), (17,)]),
    "table": (lambda x: torch.arange(9)[: x.shape[0], None] + x, [{0: Dim.AUTO}], [(9,)], [(10,)]),
    "divides": (checked, [{0: Dim.AUTO}], [(4,), (16,)], [(6,), (20,)]),
    "branch": (lambda x: -x if x.shape[0] == 7 else x, [{0: Dim.AUTO}], [(6,)], [(7,)]),
    "multiple": (lambda x: x.view(2, -1, 3), [{0: 2 * Dim("half", max=8)}], [(2,)], [(3,), (18,)]),
    "related": (
        lambda x, y: x + torch.cat([y, y]),
        [{0: 2 * Dim("rows")}, {0: Dim("rows")}], [(6, 3)], [(6, 4)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUARDED)
def test_what_was_assumed_of_sizes_is_checked_at_each_call(name: str) -> None:
    calculate, shapes, good, bad = GUARDED[name]
    model, args = Sized(calculate), tuple(torch.randn(8 >> i, 3) for i in range(len(shapes)))
    graph = nexus_compiler.capture(model, args, dynamic_shapes=(tuple(shapes),))
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    for rows in good:
        args = tuple(torch.randn(count, 3) for count in rows)
        found = module(*map(np.asarray, args))
        np.testing.assert_allclose(np.asarray(found), model(*args), rtol=1e-6)
    for rows in bad:
        with pytest.raises(InputError, match=rf"is {rows[0]} long on axis 0 .* needs "):
            module(*(np.zeros((count, 3), np.float32) for count in rows))


def test_tied_parameters_are_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Any) -> Any:
            return self.head(self.words(x))

    model, args = Tied(), (torch.tensor([[1, 2], [3, 8]]),)
    graph = nexus_compiler.capture(model, args)
    assert list(graph.params) == ["words.weight"]
    compare(model, graph, args, tol=1e-6)


@pytest.mark.parametrize(("dtype", "tol"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_narrow_floats_and_autocast(dtype: str, tol: float) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", dtype=kind):
                return self.inside(x)

    x = torch.randn(4, 6)
    for network, given in ((Cast(), x), (copy.deepcopy(model).to(kind), x.to(kind))):
        graph = nexus_compiler.capture(network, (given,))
        assert graph.signature.functions[0].outputs[0].dtype == dtype
        (found,) = (
            nexus_runtime.load(nexus_compiler.compile(graph))
            .run("main", {graph.signature.functions[0].inputs[0].name: as_array(given)})
            .values()
        )
        wanted = network(given).detach().float()
        np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "bool"])
def test_transpositions_of_every_width(dtype: str) -> None:
    class Turned(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(2, 0, 1).contiguous()

    x = (torch.randn(2, 35, 48) * 3).to(getattr(torch, dtype))
    module = nexus_runtime.load(nexus_compiler.compile(Turned(), args=(x,)))
    (found,) = module.run("main", {"x": as_array(x)}).values()
    np.testing.assert_array_equal(found, as_array(x.permute(2, 0, 1).contiguous()))
