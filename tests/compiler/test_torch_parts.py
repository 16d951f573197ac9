"""Layers that are traced once: what comes out is what comes out of tracing them all."""

from __future__ import annotations

import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import tvm
from torch import nn

import nexus_compiler
from nexus_compiler.frontend.torch import exported, parts
from nexus_compiler.frontend.torch.identity import Identities

X = torch.arange(24.0).reshape(2, 3, 4) / 10


class Layer(nn.Module):
    """A layer with weights, and with whatever a test makes of it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


class Model(nn.Module):
    """Layers one after another; `read` says what is done with their input and result."""

    def __init__(self, *layers: nn.Module, read=None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.read = read or (lambda layer, x: layer(x))

    def forward(self, x):
        for layer in self.layers:
            x = self.read(layer, x)
        return x


@pytest.fixture
def captures(monkeypatch) -> Iterator[list[parts.Parts]]:
    """The captures that a test makes."""
    made: list[parts.Parts] = []

    class Noted(parts.Parts):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(exported, "Parts", Noted)
    return made


def _whole(monkeypatch, model, *args, **settings):
    """The capture that traces every layer."""
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_layers", lambda model: iter(()))
        return exported.capture(model, *args, **settings)


def _check(monkeypatch, model, args=(X,), **settings):
    graph = exported.capture(model, args, **settings)
    whole = _whole(monkeypatch, model, args, **{**settings, "memory": None})
    tvm.ir.assert_structural_equal(graph.module, whole.module)
    assert graph.signature == whole.signature
    assert graph.source == whole.source
    assert graph.locations == whole.locations
    for name, array in whole.params.items():
        np.testing.assert_array_equal(graph.params[name], array)
    return graph


def test_equal_layers_are_traced_once(monkeypatch, captures):
    graph = _check(monkeypatch, Model(Layer(), Layer(), Layer(8), Layer()).eval())
    assert captures[0].traced == ["layers.0", "layers.2"]
    assert len(graph.locations) == 16  # of every weight, also of layers that were not traced
    assert {where.partition(":")[0] for where in graph.locations.values()} == {
        "test_torch_parts.py"
    }


def test_a_later_capture_traces_what_is_new(monkeypatch, captures):
    memory = parts.Memory()
    exported.capture(Model(Layer(), Layer()), (X,), memory=memory)
    _check(monkeypatch, Model(Layer(), Layer(7), Layer()), memory=memory)
    _check(monkeypatch, Model(Layer(7), Layer(7), Layer()), memory=memory)
    ours = [captures[0], captures[1], captures[3]]
    assert [one.traced for one in ours] == [["layers.0"], ["layers.1"], []]


def test_sizes_may_be_symbols(monkeypatch, captures):
    shapes = {"x": {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("n", max=64)}}

    class Rows(Layer):
        def forward(self, x):
            batch, n, width = x.shape
            flat = super().forward(x.reshape(batch * n, width))
            return flat.reshape(batch, n, width)

    memory = parts.Memory()
    for _ in range(2):  # symbols of one capture mean nothing in the next
        _check(monkeypatch, Model(Rows(), Rows()), dynamic_shapes=shapes, memory=memory)
    assert [one.traced for one in captures if one.traced] == [["layers.0"]] * 2


def test_training_keeps_its_random_numbers_apart(monkeypatch, captures):
    class Drops(Layer):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    graph = _check(monkeypatch, Model(Drops(), Drops()).train())
    assert captures[0].traced == ["layers.0"]
    assert {"seed", "row"} <= {spec.name for spec in graph.signature.functions[0].inputs}


def test_tied_weights_stay_tied(monkeypatch, captures):
    one, other, third = Layer(), Layer(), Layer()
    other.first.weight = one.first.weight
    third.second.weight = third.first.weight
    graph = _check(monkeypatch, Model(one, other, third))
    assert captures[0].traced == ["layers.0", "layers.2"]
    assert len(graph.params) == 10


class Normalised(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return super().forward(self.norm(x))


def _pair(layer, x):
    one, other = layer(x, {"scale": 2.0})
    return one + other["more"]


class Pair(Layer):
    def forward(self, x, settings):
        y = super().forward(x) * settings["scale"]
        return y, {"more": x - y, "nothing": None}


class Same(Layer):
    def forward(self, x, y):
        return super().forward(x) if x is y else super().forward(x * y)


def test_what_layers_take_and_return(monkeypatch, captures):
    _check(monkeypatch, Model(Normalised(), Normalised()).eval())
    _check(monkeypatch, Model(Pair(), Pair(), read=_pair))
    _check(monkeypatch, Model(Same(), Same(), read=lambda layer, x: layer(x, x)))
    _check(monkeypatch, Model(Same(), read=lambda layer, x: layer(x, x) + layer(x, 2 * x)))
    _check(monkeypatch, nn.Sequential(nn.Sequential(Layer()), nn.Sequential(Layer())))
    traced = [one.traced for one in captures[::2]]
    assert traced == [["layers.0"]] * 3 + [["layers.0"] * 2] + [["0"]]


class Statistics(Normalised):
    """In training mode it writes to its buffers."""


class InPlace(Layer):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Appends(Layer):
    def forward(self, x, seen):
        seen.append(x)
        return super().forward(x)


class View(Layer):
    def forward(self, x):
        super().forward(x)
        return x.view(-1).view(x.shape)


class Remembers(Layer):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls


class Buffered(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(4)  # no buffer: its elements are constants

    def forward(self, x):
        return super().forward(x * self.mask)


class Number(Layer):
    def forward(self, x, times):
        return super().forward(x) * times


OUTSIDE = nn.Parameter(torch.ones(4))


class Outside(Layer):
    def __init__(self, other: list[nn.Parameter]) -> None:
        super().__init__()
        self.other = other  # hidden from PyTorch in a list

    def forward(self, x):
        return super().forward(x * self.other[0])


def _seen(layer, x):
    seen = []
    y = layer(x, seen)
    return y + len(seen)


@pytest.mark.parametrize(
    ("layer", "read"),
    [
        (Statistics, None),
        (InPlace, lambda layer, x: layer(y := x + 1) + y),
        (Appends, _seen),
        (View, lambda layer, x: layer(y := x + 1).add_(1) + y),
        (Buffered, None),
        (Number, lambda layer, x: layer(x, times=x.sum())),
    ],
)
def test_layers_that_reach_over_their_borders(monkeypatch, layer, read):
    memory = parts.Memory()
    for _ in range(2):
        _check(monkeypatch, Model(layer(), layer(), read=read).train(), memory=memory)


def test_a_layer_that_counts_its_calls(monkeypatch):
    graph = exported.capture(Model(Remembers(), Remembers()), (X,))
    whole = _whole(monkeypatch, Model(Remembers(), Remembers()), (X,))
    tvm.ir.assert_structural_equal(graph.module, whole.module)


def test_a_weight_of_another_layer_is_not_taken_for_ones_own(monkeypatch):
    def model():
        torch.manual_seed(0)
        made = Model(Layer(), Layer())
        shared = [Outside([made.layers[0].first.bias]), Outside([made.layers[1].first.bias])]
        made.layers.extend(shared)
        return made

    _check(monkeypatch, model())


def _edited(source: str) -> bytes | None:
    """The identity of the layer that a file makes."""
    world = types.ModuleType("model")
    exec(compile(source, "model.py", "exec"), vars(world))
    return Identities().of(world.make())


MODEL = """
import torch
import torch.nn.functional as F

SCALE = 2.0

def scaled(x, by=1):
    return helper(x) * SCALE * by

def helper(x):
    return x + 1

def outer(exponent):
    def inner(x):
        return x ** exponent
    return inner

class Base(torch.nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.norm = torch.nn.LayerNorm(4, eps=eps)
        self.power = outer(2)

class Layer(Base):
    def forward(self, x):
        return F.relu(self.power(scaled(self.norm(x))))

def make():
    return Layer(1e-5)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("by=1", "by=2"),
        ("x + 1", "x - 1"),
        ("outer(2)", "outer(3)"),
        ("x ** exponent", "exponent ** x"),
        ("F.relu", "F.gelu"),
        ("1e-5", "1e-6"),
        ("LayerNorm(4,", "LayerNorm(4, bias=False,"),
        ("class Layer(Base):", "class Layer(Base):\n    def __call__(self, x): return x"),
    ],
)
def test_every_edit_changes_the_identity(old, new):
    assert old in MODEL
    before = _edited(MODEL)
    assert before is not None
    assert before == _edited(MODEL)
    assert _edited(MODEL.replace(old, new)) not in {before, None}


@pytest.mark.parametrize(
    "body", ["eval('x')", "globals()['scaled'](x)", "getattr(__import__('os'), 'name')"]
)
def test_code_that_cannot_be_followed_has_no_identity(body):
    assert _edited(MODEL.replace("return x + 1", f"return {body}")) is None


def test_functions_that_call_each_other_are_told_by_both():
    ends = "def ping(x, n=3):\n    return x if n == 0 else pong(x, n - 1)\n"
    ends += "def pong(x, n):\n    return ping(x + 1, n)\n"
    one = MODEL.replace("def make", ends + "def make").replace("scaled(self", "ping(self")
    other = one.replace("x + 1, n", "x + 2, n")
    assert _edited(one) is not None
    assert _edited(one) != _edited(other)


def test_weights_are_no_part_of_the_identity():
    one, other = Layer(), Layer()
    assert Identities().of(one) == Identities().of(other)
    other.first.weight = nn.Parameter(other.first.weight.double())
    assert Identities().of(one) != Identities().of(other)


def test_hooks_are_not_forgotten(monkeypatch):
    model = Model(Layer(), Layer())
    model.layers[1].register_forward_hook(lambda module, args, result: result * 2)
    _check(monkeypatch, model)


def test_a_warm_session_and_a_fresh_process_make_the_same_bytes():
    def model(width: int) -> nn.Module:
        torch.manual_seed(0)
        return Model(Layer(), Layer(width), Layer()).eval()

    session = nexus_compiler.Session()
    session.compile(model(4), args=(X,))
    warm = session.compile(model(6), args=(X,))
    assert warm.digest == nexus_compiler.compile(model(6), args=(X,)).digest
