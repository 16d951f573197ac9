"""Embeddings are added as they are read; PyTorch says what they come to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nexus_compiler
import nexus_runtime
from nexus_compiler import CompileOptions
from nexus_compiler.store.local import LocalStore

TOKENS, PLACES = 97, 40


class Embeddings(nn.Module):
    """Tokens, places and kinds of BERT, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(PLACES, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1])[None]
        return self.norm(self.tokens(tokens) + self.places(places) + self.kinds(kinds))


def given(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    tokens = torch.randint(0, TOKENS, (batch, length), generator=generator)
    return tokens, torch.randint(0, 2, (batch, length), generator=generator)


def check(module: nexus_runtime.Module, network: nn.Module, batch: int, length: int) -> None:
    tokens, kinds = given(batch, length)
    wanted = network.double()(tokens, kinds).detach().numpy()
    found = module(tokens.numpy(), kinds.numpy())
    width = found.shape[-1]
    # Of a norm: the sums of `width` values, and a few operations on values near one.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=8 * width**0.5 * np.finfo("f4").eps)


@pytest.mark.parametrize("width", [1, 13, 64])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 17)])
def test_three_embeddings(
    width: int, batch: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(0)
    network = Embeddings(width).eval()
    options = CompileOptions(store=LocalStore(tmp_path_factory.getbasetemp() / "store"))
    artifact = nexus_compiler.compile(network, args=given(batch, length), options=options)
    check(nexus_runtime.load(artifact), network, batch, length)
    told = artifact.work(artifact.manifest.modules[0].target)
    assert told is not None
    labels = [kernel.label for kernel in told.kernels.values() if "take" in kernel.label]
    assert len(labels) == 1
    assert labels[0].split().count("add") == 2


def test_embeddings_of_an_open_batch() -> None:
    torch.manual_seed(0)
    network = Embeddings(24).eval()
    batch = torch.export.Dim("n", min=1, max=64)
    artifact = nexus_compiler.compile(
        network, args=given(2, 9), dynamic_shapes=({0: batch}, {0: batch})
    )
    module = nexus_runtime.load(artifact)
    for size in (1, 2, 7, 33):
        check(module, network.float(), size, 9)
