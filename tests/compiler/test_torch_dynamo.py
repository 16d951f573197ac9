"""torch.compile(backend="nexus"): results, gradients, state, dynamic shapes, and what it tells."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch_models import MODELS, F, leaves, torch

from nexus_compiler import dynamo
from nexus_runtime.errors import UserError

# PyTorch's tracing uses what PyTorch itself deprecates, and warns of the numbers of its threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
    pytest.mark.filterwarnings("ignore:The tensor attributes"),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def step(model: Any, args: tuple[Any, ...]) -> list[Any]:
    """One forward and backward; the outputs."""
    outputs = leaves(model(*args))
    torch.stack([one.square().mean() for one in outputs]).sum().backward()
    return [one.detach() for one in outputs]


def compare_training(model: Any, args: tuple[Any, ...], *, tol: float = 2e-5) -> None:
    twin = copy.deepcopy(model)
    found = step(torch.compile(model, backend="nexus"), args)
    for ours, theirs in zip(found, step(twin, args), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tol, atol=tol)
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters()):
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=tol, atol=tol, msg=name)
    for ours, theirs in zip(model.buffers(), twin.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=tol, atol=tol)


@pytest.mark.parametrize("name", list(MODELS))
def test_training(name: str) -> None:
    case = MODELS[name]
    compare_training(case.make().train(), case.inputs(2))
    kinds = [graph.kind for graph in dynamo.report().graphs]
    assert kinds == ["forward", "backward"]


@pytest.mark.parametrize("name", ["mlp", "graph"])
def test_inference_with_other_sizes(name: str) -> None:
    case = MODELS[name]
    model = case.make().eval()
    compiled = torch.compile(model, backend="nexus")
    with torch.no_grad():
        for size in (2, 3, 4, 5):
            args = case.inputs(size)
            for ours, theirs in zip(leaves(compiled(*args)), leaves(model(*args)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    told = dynamo.report()
    assert [graph.kind for graph in told.graphs] == ["inference", "inference"]
    assert len(told.recompiles) == 1
    assert "size mismatch" in told.recompiles[0].reason
    assert "recompiles" in str(told)
    sizes = [text for text in told.frames[-1].conditions if ".size()[" in text]
    assert sizes, "the second graph is for every size that is not 0 or 1"
    assert sizes[0] in str(told)


CONVOLUTIONS = {
    "causal": lambda: torch.nn.Conv1d(4, 4, 3, padding=2, groups=4),
    "strided": lambda: torch.nn.Conv2d(4, 6, 3, 2, 1),
    "strided_more_than_it_sees": lambda: torch.nn.Conv2d(4, 6, 2, 3),
    "transposed": lambda: torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_over_open_sizes_learn(name: str) -> None:
    model = CONVOLUTIONS[name]()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="nexus", dynamic=True)
    for length in (7, 10, 12):
        x = torch.randn(2, 4, *[length] * (model.weight.dim() - 2))
        found: list[Any] = []
        for network in (compiled, twin):
            given = x.clone().requires_grad_()
            loss = network(given).square().mean()
            found.append(torch.autograd.grad(loss, [given, *network.parameters()]))
        torch.testing.assert_close(*found, rtol=2e-5, atol=2e-5)
    assert len(dynamo.report().graphs) == 2


def in_chunks(x: Any) -> Any:
    """Sums within chunks of 4 rows; the gradient of the border cuts by what may be nothing."""
    chunks = F.pad(x, (0, 0, 0, -x.shape[0] % 4)).reshape(-1, 4, 3)
    return torch.cumsum(chunks, 1).reshape(-1, 3)[: x.shape[0]]


def to_seven_rows(x: Any) -> Any:
    """A border that cuts where there are more."""
    return F.pad(x, (0, 0, 0, 7 - x.shape[0]), value=2.0) * torch.arange(7.0)[:, None]


def moved(x: Any) -> Any:
    """One end cuts where the other adds."""
    return F.pad(x, (0, 0, 6 - x.shape[0], x.shape[0] - 5), value=2.0) * 3


@pytest.mark.parametrize("bordered", [in_chunks, to_seven_rows, moved])
def test_borders_whose_widths_are_open_add_and_cut(bordered: Callable[[Any], Any]) -> None:
    compiled = torch.compile(bordered, backend="nexus", dynamic=True)
    for rows in (5, 6, 8, 9):
        x = torch.randn(rows, 3)
        found: list[Any] = []
        for function in (compiled, bordered):
            given = x.clone().requires_grad_()
            result = function(given)
            found.append((result, *torch.autograd.grad(result.square().sum(), given)))
        torch.testing.assert_close(*found, rtol=2e-5, atol=2e-5)
    assert len(dynamo.report().graphs) == 2


def test_products_of_sizes_that_only_a_guard_makes_equal() -> None:
    def pairs(x: Any, y: Any) -> Any:
        rows = x.shape[0] // 2
        halves = x.reshape(rows, 2, 3).reshape(rows * 2, 3, 1)
        return torch.bmm(halves, y[:, None]), halves[:, :, 0].t() @ y

    compiled = torch.compile(pairs, backend="nexus", dynamic=True)
    for rows in (4, 6):
        args = torch.randn(rows, 3), torch.randn(rows, 5)
        for ours, theirs in zip(compiled(*args), pairs(*args), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_objects_are_reused() -> None:
    model, args = MODELS["mlp"].make().eval(), MODELS["mlp"].inputs(2)
    with torch.no_grad():
        torch.compile(model, backend="nexus")(*args)
        torch._dynamo.reset()
        dynamo.reset()
        torch.compile(model, backend="nexus")(*args)
    told = dynamo.report()
    assert told.built == 0
    assert told.reused > 0
    (graph,) = told.graphs
    assert graph.new == ()
    assert graph.known > 0


def test_a_new_graph_tells_its_new_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The user's own store may know these regions.
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path))

    class Net(torch.nn.Module):
        def __init__(self, last: int) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(5, 13), torch.nn.ReLU())
            self.head = torch.nn.Linear(13, last)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    with torch.no_grad():
        torch.compile(Net(3), backend="nexus")(torch.zeros(2, 5))
        dynamo.reset()
        torch.compile(Net(11), backend="nexus")(torch.zeros(2, 5))
    (graph,) = dynamo.report().graphs
    assert graph.known == 1, "the body is the same"
    assert len(graph.new) == 1
    assert "matmul" in graph.new[0]
    assert f"new region: {graph.new[0]}" in str(dynamo.report())


def test_optimizer_steps_follow_eager() -> None:
    model = MODELS["mlp"].make()
    twin, losses = copy.deepcopy(model), []
    for network in (torch.compile(model, backend="nexus"), twin):
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        torch.manual_seed(1)
        line: list[float] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(torch.randn(8, 6)), torch.randint(0, 3, (8,)))
            loss.backward()
            optimizer.step()
            line.append(loss.item())
        losses.append(line)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_mask_of_dropout_is_the_same_on_the_way_back() -> None:
    compiled = torch.compile(lambda x: F.dropout(x, 0.5), backend="nexus")
    x = torch.ones(50, 40, requires_grad=True)
    first = compiled(x)
    first.sum().backward()
    assert 0.45 < (first == 0).float().mean() < 0.55
    torch.testing.assert_close(x.grad, first.detach())
    assert not torch.equal(first, compiled(x))
    torch.manual_seed(5)
    again = compiled(x)
    torch.manual_seed(5)
    torch.testing.assert_close(compiled(x), again)


def test_several_graphs_where_the_code_must_look_at_data() -> None:
    def branches(x: Any) -> Any:
        y = x * 2
        if y.sum() > 0:
            return torch.relu(y) + 1
        return -y

    compiled = torch.compile(branches, backend="nexus")
    for sign in (1, -1):
        x = sign * torch.ones(3)
        torch.testing.assert_close(compiled(x), branches(x))
    assert len(dynamo.report().graphs) == 3
    assert sum(dynamo.report().breaks.values()) >= 1


def test_sizes_in_and_out() -> None:
    def fill(x: Any, count: int) -> Any:
        return torch.arange(count) * 2.5, x.reshape(-1) * x.shape[0], count + x.shape[0]

    compiled = torch.compile(fill, backend="nexus", dynamic=True)
    for rows, count in ((2, 3), (5, 7)):
        x = torch.randn(rows, 2)
        line, flat, number = compiled(x, count)
        wanted = fill(x, count)
        torch.testing.assert_close(line, wanted[0])
        torch.testing.assert_close(flat, wanted[1])
        assert number == wanted[2]


def views_of_a_result(x: Any) -> Any:
    y = x * 2
    return y, y.t(), y[x.shape[0] - 2 :]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "expanded": lambda x: x[:1].expand(x.shape[0], -1),
    "reshaped": lambda x: x.view(-1, x.shape[0]),
    "cut": lambda x: x[x.shape[0] - 2 :],
    "of a result": views_of_a_result,
    "of a part": lambda x: (x[1:].t(), x[:, ::2] + 1),
}


@pytest.mark.parametrize("name", list(VIEWS))
def test_views_share_the_memory_of_their_base(name: str) -> None:
    compiled = torch.compile(VIEWS[name], backend="nexus")
    for rows in (4, 5, 6):
        x = torch.randn(rows + 1, 4)[1:]  # which does not begin where its memory begins
        found, wanted = leaves(compiled(x)), leaves(VIEWS[name](x))
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.stride() == theirs.stride()
            torch.testing.assert_close(ours, theirs)
        for base in (found[0], wanted[0], x):
            base.zero_()
        torch.testing.assert_close(found, wanted)


def test_dtypes_and_empty_tensors() -> None:
    compiled = torch.compile(lambda x, y: (x.to(y.dtype) + y, y.sum(0)), backend="nexus")
    for dtype in (torch.float64, torch.int32, torch.bfloat16):
        x, y = torch.arange(6).reshape(2, 3), torch.ones(2, 3, dtype=dtype)
        ours = compiled(x, y)
        assert ours[0].dtype == dtype
        torch.testing.assert_close(ours[0], x.to(dtype) + y)
    empty = torch.ones(0, 3)
    torch.testing.assert_close(compiled(empty, empty)[1], torch.zeros(3))


def test_unknown_operators_end_compilation() -> None:
    compiled = torch.compile(torch.special.bessel_j0, backend="nexus")
    with pytest.raises(Exception, match=r"aten\.special_bessel_j0\.default \(once"):
        compiled(torch.ones(3))


def test_fallback_is_asked_for_and_told() -> None:
    compiled = torch.compile(
        torch.special.bessel_j0, backend="nexus", options={"fallback": "eager"}
    )
    x = torch.ones(3)
    with pytest.warns(UserWarning, match="PyTorch runs it"):
        found = compiled(x)
    torch.testing.assert_close(found, torch.special.bessel_j0(x))
    (graph,) = dynamo.report().graphs
    assert "bessel_j0" in graph.reason
    assert "left to PyTorch" in str(graph)


@pytest.mark.parametrize("options", [{"fallbak": "eager"}, {"fallback": "yes"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    compiled = torch.compile(torch.relu, backend=dynamo.nexus, options=options)
    with pytest.raises(Exception, match="fallba") as caught:
        compiled(torch.ones(3))
    assert isinstance(caught.value.__cause__ or caught.value, UserError | Exception)
