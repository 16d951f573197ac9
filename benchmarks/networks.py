"""Networks for the benchmarks, with random weights: nothing is fetched."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F


def mlp(*widths: int) -> nn.Module:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet() -> nn.Module:
    """LeNet-5 with rectifiers and max pools, for 28 x 28 images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def _conv(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the image's size but for its stride, and its normalisation."""
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


class Residual(nn.Module):
    """relu(body(x) + skip(x)) (He et al. 2016)."""

    def __init__(self, body: nn.Module, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = body
        same = stride == 1 and before == after
        self.skip = nn.Identity() if same else _conv(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def _basic(before: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(_conv(before, width, 3, stride), nn.ReLU(), _conv(width, width, 3))
    return Residual(body, before, width, stride)


def _bottleneck(before: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        *(_conv(before, width, 1), nn.ReLU(), _conv(width, width, 3, stride), nn.ReLU()),
        _conv(width, 4 * width, 1),
    )
    return Residual(body, before, 4 * width, stride)


def _stages(block: type | object, counts: tuple[int, ...], growth: int) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    before = 64
    for stage, count in enumerate(counts):
        width = 64 << stage
        for index in range(count):
            blocks.append(block(before, width, 2 if stage and not index else 1))  # type: ignore[operator]
            before = growth * width
    return blocks


def resnet18(classes: int = 1000, *, small: bool = False) -> nn.Module:
    """ResNet-18; `small` is the form for images of 32 x 32."""
    blocks = _stages(_basic, (2, 2, 2, 2), 1)
    stem = [_conv(3, 64, 3)] if small else [_conv(3, 64, 7, 2)]
    pool = [] if small else [nn.MaxPool2d(3, 2, 1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return _settled(nn.Sequential(*stem, nn.ReLU(), *pool, *blocks, *head))


def resnet50() -> nn.Module:
    """ResNet-50 v1.5 for 224 x 224 images, 25.6 million parameters, 8.2 GFLOP an image."""
    blocks = _stages(_bottleneck, (3, 4, 6, 3), 4)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
    stem = (_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return _settled(nn.Sequential(*stem, *blocks, *head))


class _Excite(nn.Module):
    """Squeeze and excitation as MobileNet-v3 has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = -(-channels // 32) * 8
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.up(F.relu(self.down(squeezed))))


class _Inverted(nn.Module):
    """The inverted residual of MobileNet-v3."""

    def __init__(
        self, before: int, size: int, inner: int, after: int, excite: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        act = nn.Hardswish() if swish else nn.ReLU()
        layers: list[nn.Module] = [_conv(before, inner, 1), act] if inner != before else []
        layers += [_conv(inner, inner, size, stride, inner), act]
        layers += [_Excite(inner)] if excite else []
        self.body = nn.Sequential(*layers, _conv(inner, after, 1))
        self.same = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.same else self.body(x)


# Table 1 of Howard et al. 2019: size, inner, output, excitation, hard swish, stride.
_MOBILENET = (
    *((3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2)),
    *((5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1)),
    *((3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1)),
    *((3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1)),
    (5, 960, 160, 1, 1, 1),
)


def mobilenet() -> nn.Module:
    """MobileNet-v3 large for 224 x 224 images."""
    before, blocks = 16, []
    for size, inner, after, excite, swish, stride in _MOBILENET:
        blocks.append(_Inverted(before, size, inner, after, bool(excite), bool(swish), stride))
        before = after
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish())
    stem = (_conv(3, 16, 3, 2), nn.Hardswish())
    tail = (_conv(160, 960, 1), nn.Hardswish(), *head, nn.Linear(1280, 1000))
    return _settled(nn.Sequential(*stem, *blocks, *tail))


class Encoder(nn.Module):
    """A layer of BERT: attention and a network of two layers, each normalised afterwards."""

    def __init__(self, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out, self.first = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.second = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_split(one(x), self.heads) for one in (self.q, self.k, self.v))
        x = self.first(x + self.out(_merge(attend(q, k, v))))
        return self.second(x + self.down(F.gelu(self.up(x))))


def transformer(layers: int = 4, width: int = 256, length: int = 64) -> nn.Module:
    """Encoder layers and a classifier of ten over all that they return."""
    blocks = (Encoder(width, 4) for _ in range(layers))
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(length * width, 10))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of [batch, heads, length, size], written out so that all peers see the same."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(scores, -1) @ v


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(1, 2)


def _merge(x: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * size)


class _DecoderLayer(nn.Module):
    """A layer of GPT-2 that sees one new token and the keys and values of those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = self.qkv(self.first(x)).chunk(3, -1)
        q, k, v = (_split(part, self.heads) for part in parts)
        found = attend(q, torch.cat((keys, k), 2), torch.cat((values, v), 2))
        x = x + self.out(_merge(found))
        return x + self.down(F.gelu(self.up(self.second(x)), approximate="tanh")), k, v


class Decoder(nn.Module):
    """One step of GPT-2 small: 12 layers of 768, 50257 tokens, tied embedding.

    token int64 [1, 1], cache [24, 1, 12, past, 64] -> logits [1, 50257], new keys and values
    [24, 1, 12, 1, 64].
    """

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50257, width), nn.Embedding(1024, width)
        self.layers = nn.ModuleList(_DecoderLayer(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        # As in GPT-2: logits of a normal size.
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(
        self, token: torch.Tensor, cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.tokens(token) + self.places.weight[cache.shape[3]]
        new: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers):
            x, k, v = layer(x, cache[2 * index], cache[2 * index + 1])
            new += [k, v]
        return F.linear(self.last(x)[:, 0], self.tokens.weight), torch.stack(new)


def _settled(network: nn.Module) -> nn.Module:
    """`network` with statistics of normalisations that are not trivial."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network
