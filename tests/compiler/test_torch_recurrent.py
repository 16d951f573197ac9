"""Recurrent layers of PyTorch: as loops where sequences are long, or of any length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_models import leaves, nn, torch

import nexus_compiler
import nexus_runtime

LAYERS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "gru": lambda: nn.GRU(3, 4, bidirectional=True),
    "gru without bias": lambda: nn.GRU(3, 4, bias=False),
    "rnn": lambda: nn.RNN(3, 4),
    "relu": lambda: nn.RNN(3, 4, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_sequences_of_any_length(name: str) -> None:
    torch.manual_seed(0)
    model = LAYERS[name]().eval()
    dims = {0: torch.export.Dim("length"), 1: torch.export.Dim("batch")}
    graph = nexus_compiler.capture(model, (torch.randn(5, 6, 3),), dynamic_shapes=(dims,))
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    for shape in ((1, 2, 3), (7, 1, 3), (70, 3, 3)):
        x = torch.randn(*shape)
        found: Any = module(x.numpy())
        for ours, theirs in zip(found.values(), leaves(model(x)), strict=True):
            np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_the_code_does_not_grow_with_the_sequence() -> None:
    model = nn.LSTM(3, 4, batch_first=True).eval()
    state = tuple(torch.randn(1, 2, 4) for _ in range(2))
    calls: list[int] = []
    for length in (40, 400):
        graph = nexus_compiler.capture(model, (torch.randn(2, length, 3), state))
        calls.append(len(graph.module.script().splitlines()))
    assert calls[0] == calls[1]
    x = torch.randn(2, 400, 3)
    names = [spec.name for spec in graph.signature.functions[0].inputs]
    arrays = [np.asarray(value) for value in (x, *state)]
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    found = module.run("main", dict(zip(names, arrays)))
    for ours, theirs in zip(found.values(), leaves(model(x, state)), strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-4, atol=1e-5)
