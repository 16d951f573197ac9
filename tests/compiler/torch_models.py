"""Small PyTorch models of many kinds, with inputs, for the tests of both ways to capture them."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inside, outside, 1, stride)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.skip(x))


def resnet() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(4, 4, 1),
        Residual(4, 8, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.middle(skip))], 1))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cells = kind(3, 4, bidirectional=True, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.cells(x)[0].sum(1)


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Any) -> Any:
        return self.layers(self.words(x)).mean(1)


class CachedAttention(nn.Module):
    """One step of a decoder: the new keys and values go behind those of the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Any, keys: Any, values: Any) -> Any:
        batch, length, _ = x.shape
        query, key, value = self.project(x).view(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        mask = torch.ones(length, keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - length)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, 8)), keys, values


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.layer(x)[:, 0])


class MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.first = nn.Parameter(torch.randn(4, 6, 8) * 0.3)
        self.second = nn.Parameter(torch.randn(4, 8, 6) * 0.3)

    def forward(self, x: Any) -> Any:
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        gates = torch.zeros(x.shape[0], 4).scatter(1, chosen, weights)
        hidden = torch.relu(torch.einsum("bi,eih->ebh", x, self.first))
        return torch.einsum("ebo,be->bo", torch.bmm(hidden, self.second), gates)


class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Any, edges: Any) -> Any:
        source, target = edges[0], edges[1]
        degree = torch.ones(x.shape[0]).scatter_add(0, target, torch.ones(target.shape[0]))
        h = torch.relu(self.first(x))
        h = h.index_add(0, target, h[source]) / degree[:, None]
        return self.second(h)


class DiffusionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.GroupNorm(2, 8)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.time = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any, step: Any) -> Any:
        rates = torch.exp(-math.log(100) * torch.arange(4) / 4)
        angles = step[:, None].float() * rates[None]
        time = self.time(F.silu(torch.cat([angles.sin(), angles.cos()], -1)))
        h = self.convs[0](F.silu(self.norms[0](x))) + time[:, :, None, None]
        h = x + self.convs[1](F.silu(self.norms[1](h)))
        flat = h.flatten(2).transpose(1, 2)
        flat = flat + self.attention(flat, flat, flat, need_weights=False)[0]
        h = self.down(flat.transpose(1, 2).reshape(x.shape))
        return self.up(F.interpolate(h, scale_factor=2.0, mode="nearest"))


class Mamba(nn.Module):
    """A selective state space: h' = exp(A dt) h + dt B x, in the log-space form of a scan."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.conv = nn.Linear(4, 12), nn.Conv1d(6, 6, 3, groups=6, padding=2)
        self.select, self.out = nn.Linear(6, 5), nn.Linear(6, 4)
        self.rate = nn.Parameter(torch.rand(6, 2))

    def forward(self, x: Any) -> Any:
        length = x.shape[1]
        x, gate = self.inside(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        step, b, c = self.select(x).split([1, 2, 2], -1)
        step = F.softplus(step)
        decay = torch.cumsum(-step[..., None] * self.rate.exp(), 1)
        drive = (step * x)[..., None] * b[:, :, None]
        state = torch.exp(decay) * torch.cumsum(drive * torch.exp(-decay), 1)
        return self.out((state * c[:, :, None]).sum(-1) * F.silu(gate))


@dataclass(frozen=True)
class Case:
    """A model, example inputs, and which axes of them may have other sizes."""

    make: Callable[[], Any]
    inputs: Callable[[int], tuple[Any, ...]]
    axes: tuple[dict[int, str], ...] = ()

    def dynamic_shapes(self) -> Any:
        return tuple({axis: torch.export.Dim(n) for axis, n in one.items()} for one in self.axes)


def _cached(n: int) -> tuple[Any, ...]:
    return torch.randn(2, 3, 8), torch.randn(2, 2, n, 4), torch.randn(2, 2, n, 4)


def _graph(n: int) -> tuple[Any, ...]:
    return torch.randn(6, 4), torch.randint(0, 6, (2, 3 * n))


BATCH = ({0: "batch"},)
MODELS = {
    "mlp": Case(mlp, lambda n: (torch.randn(n, 6),), BATCH),
    "resnet": Case(resnet, lambda n: (torch.randn(n, 3, 32, 32),), BATCH),
    "unet": Case(UNet, lambda n: (torch.randn(n, 2, 8, 8),), BATCH),
    "lstm": Case(lambda: Recurrent(nn.LSTM), lambda n: (torch.randn(n, 3, 3),), BATCH),
    "gru": Case(lambda: Recurrent(nn.GRU), lambda n: (torch.randn(n, 3, 3),), BATCH),
    "encoder": Case(
        Encoder, lambda n: (torch.randint(0, 20, (n, n + 3)),), ({0: "batch", 1: "length"},)
    ),
    "decoder": Case(CachedAttention, _cached, ({}, {2: "past"}, {2: "past"})),
    "vit": Case(ViT, lambda n: (torch.randn(n, 3, 8, 8),), BATCH),
    "moe": Case(MixtureOfExperts, lambda n: (torch.randn(n, 6),), BATCH),
    "graph": Case(GraphConvolution, _graph, ({}, {1: "edges"})),
    "diffusion": Case(
        DiffusionBlock,
        lambda n: (torch.randn(n, 8, 8, 8), torch.arange(n)),
        ({0: "batch"}, {0: "batch"}),
    ),
    "mamba": Case(Mamba, lambda n: (torch.randn(n, 5, 4),), ({0: "batch"},)),
}


def leaves(value: Any) -> list[Any]:
    """The tensors in what a model returns."""
    found = torch.utils._pytree.tree_leaves(value)
    return [one for one in found if isinstance(one, torch.Tensor)]


def eager(model: Any, args: tuple[Any, ...], kwargs: Any = None) -> tuple[list[Any], Any]:
    """What PyTorch computes, and the model that it leaves behind."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        return leaves(twin(*copy.deepcopy(args), **(kwargs or {}))), twin


def chosen(names: Iterable[str], quick: set[str]) -> list[Any]:
    """`names` as parameters of a test; only those in `quick` run unless all are asked for."""
    full = bool(os.environ.get("NEXUS_ALL_MODELS"))
    mark = pytest.mark.skipif(not full, reason="takes long: NEXUS_ALL_MODELS=1 runs all models")
    return [n if n in quick else pytest.param(n, marks=mark) for n in names]
