"""Single operators and small functions in PyTorch, captured and compared with eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_models import F, leaves, nn, torch

import nexus_compiler
import nexus_runtime

# PyTorch's tracing warns of its own old interfaces, and of reductions that it is about to change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def image(*shape: int) -> Any:
    return torch.randn(shape or (2, 4, 6, 6))


PLACES = torch.tensor([[0, 2, 1], [2, 0, 0], [1, 1, 2], [0, 0, 0]])
GRID = torch.rand(2, 5, 5, 2) * 2.4 - 1.2


def nearest_codes(x: Any, codes: Any) -> Any:
    found = codes[torch.cdist(x, codes).argmin(-1)]
    return x + (found - x).detach(), F.mse_loss(found, x)


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "pixel_shuffle": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 3), (image(),)),
    "depthwise": (lambda x, w: F.conv2d(x, w, groups=4, padding=1), (image(), image(4, 1, 3, 3))),
    "dilated": (lambda x, w: F.conv2d(x, w, dilation=2, stride=2), (image(), image(3, 4, 2, 2))),
    "conv3d": (F.conv3d, (image(1, 2, 4, 4, 4), image(3, 2, 2, 2, 2))),
    "transposed": (
        lambda x, w: (F.conv_transpose2d(x, w, stride=2, output_padding=1, groups=2),
                      F.conv_transpose2d(x, w, w[0, :, 0, 0], stride=(3, 2), padding=(0, 1)),
                      F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=(1, 0)),
                      F.conv_transpose2d(x, w[..., :1, :1], stride=2, output_padding=1),
                      F.conv_transpose2d(x, w, stride=2, dilation=2),
                      F.conv_transpose1d(x[:, :, 0], w[..., 0], stride=2)),
        (image(), image(4, 2, 3, 3)),
    ),
    "grid_sample": (lambda x, g: F.grid_sample(x, g, align_corners=False), (image(), GRID)),
    "grid_sample_nearest": (
        lambda x, g: F.grid_sample(x, g, "nearest", "border", align_corners=True), (image(), GRID),
    ),
    "grid_sample_reflection": (
        lambda x, g: F.grid_sample(x, g, "bilinear", "reflection", align_corners=False),
        (image(), GRID),
    ),
    "affine_grid": (lambda t: F.affine_grid(t, [2, 1, 3, 4], align_corners=False),
                    (image(2, 2, 3),)),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (image(),)),
    "bilinear_corners": (
        lambda x: F.interpolate(x, (9, 5), mode="bilinear", align_corners=True), (image(),),
    ),
    "bicubic": (lambda x: F.interpolate(x, (9, 5), mode="bicubic"), (image(),)),
    "area": (lambda x: F.interpolate(x, (3, 2), mode="area"), (image(),)),
    "nearest_exact": (lambda x: F.interpolate(x, (7, 5), mode="nearest-exact"), (image(),)),
    "trilinear": (
        lambda x: F.interpolate(x, (3, 5, 4), mode="trilinear"), (image(1, 2, 2, 3, 4),),
    ),
    "glu": (lambda x: F.glu(x, 1) * F.silu(x.chunk(2, 1)[0]), (image(),)),
    "activations": (
        lambda x: (F.celu(x), F.selu(x), F.elu(x), F.hardswish(x), F.hardsigmoid(x), F.softsign(x),
                   F.tanhshrink(x), F.softshrink(x), F.hardshrink(x), F.relu6(x), F.mish(x),
                   F.logsigmoid(x), F.leaky_relu(x), F.gelu(x, approximate="tanh"),
                   F.threshold(x, 0.1, 2.0), F.softmin(x, 1)),
        (image(),),
    ),
    "prelu": (F.prelu, (image(), torch.rand(4))),
    "codes": (nearest_codes, (image(6, 3), image(5, 3))),
    "norms": (
        lambda x: (x.norm(), x.norm(1, 1), x.norm(3, (2, 3)), F.normalize(x, dim=1),
                   torch.linalg.vector_norm(x, float("inf"), 1),
                   torch.linalg.vector_norm(x, 0, -1), torch.linalg.matrix_norm(x)),
        (image(),),
    ),
    "einsum": (
        lambda a, b: (torch.einsum("bhid,bhjd->bhij", a, b), torch.einsum("bcxy,bcxy->bc", a, b),
                      torch.einsum("bcxx->bcx", a)),
        (image(), image()),
    ),
    "sorting": (
        lambda x: (x.sort(1, descending=True)[0], x.argsort(-1), x.topk(3, -1, largest=False)[0],
                   x.median(-1)[0], x.kthvalue(2, -1)[0], x.median()),
        (image(),),
    ),
    "running": (
        lambda x: (x.cumsum(1), x.cumprod(2)),
        (image(),),
    ),
    "histogram": (
        lambda x: (torch.histc(x, 5, -2, 2), torch.bucketize(x, torch.tensor([-1.0, 0, 1])),
                   ),
        (image(),),
    ),
    "scatter": (
        lambda x, y: (x.scatter(1, PLACES, y), x.scatter(1, PLACES, 2.5),
                      x.scatter_add(1, PLACES, y), x.scatter(1, PLACES, y, reduce="multiply")),
        (image(4, 3), image(4, 3)),
    ),
    **{
        f"scatter_reduce_{kind}{'' if own else '_without'}": (
            lambda x, y, kind=kind, own=own: x.scatter_reduce(1, PLACES, y, kind, include_self=own),
            (image(4, 3), image(4, 3)),
        )
        for kind in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
    "index_reduce": (
        lambda x, y: (x.index_add(0, PLACES[0], y), x.index_copy(0, PLACES[0], y),
                      x.index_fill(0, PLACES[0], 3.0)),
        (image(4, 3), image(3, 3)),
    ),
    "masks": (
        lambda x, y: (x.masked_fill(y > 0, 2.0), torch.where(y > 0, x, y),
                      x.masked_scatter(y > 0, y)),
        (image(4, 3), image(4, 3)),
    ),
    "triangles": (
        lambda x: (x.tril(1), x.triu(-1), torch.tril_indices(3, 4), x.diagonal(1, -1, -2),
                   x.diagonal(dim1=0, dim2=1).diag_embed(), x[0, 0].trace(),
                   torch.block_diag(x[0, 0], x[1, 1])),
        (image(),),
    ),
    "products": (
        lambda a, b: (torch.cross(a, b, -1), torch.kron(a, b), torch.outer(a[0], b[0]),
                      torch.tensordot(a, b, ([0], [0])),
                      torch.addbmm(a @ b.mT, a[None], b.mT[None]),
                      torch.cdist(a, b), torch.cdist(a, b, 1.0), F.cosine_similarity(a, b),
                      torch.baddbmm(a[None] @ b.mT[None], a[None], b.mT[None], beta=0.5)),
        (image(4, 3), image(4, 3)),
    ),
    "losses": (
        lambda x, y: (F.cross_entropy(x, PLACES[:, 0], label_smoothing=0.1), F.mse_loss(x, y),
                      F.cross_entropy(x, PLACES[:, 0], ignore_index=0),
                      F.smooth_l1_loss(x, y), F.huber_loss(x, y), F.kl_div(x, y.softmax(1)),
                      F.binary_cross_entropy_with_logits(x, y.sigmoid()),
                      F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), F.nll_loss(x, PLACES[:, 0]),
                      F.poisson_nll_loss(x, y), F.triplet_margin_loss(x, y, x * y)),
        (image(4, 3), image(4, 3)),
    ),
    "special": (
        lambda x: (torch.xlogy(x.abs(), x.abs() + 1), x.sinc(), x.frac(),
                   torch.logaddexp(x, -x), torch.hypot(x, x),
                   x.logit(0.1), torch.copysign(x, -x), torch.heaviside(x, x), x.square().log2(),
                   torch.special.entr(x.abs()), torch.lerp(x, -x, 0.3),
                   torch.addcdiv(x, x, x.exp()),
                   torch.addcmul(x, x, x, value=0.5), x.rad2deg(), torch.clamp(x, x - 1, x + 1)),
        (image(),),
    ),
    "integers": (
        lambda x: (x // 3, x % 3, -x // 3, x.bitwise_xor(5), x << 2, x >> 1, x.float().fmod(2.0),
                   x.remainder(-4), torch.floor_divide(x, -3)),
        (torch.arange(-6, 6),),
    ),
    "moving": (
        lambda x: (x.roll((1, -2), (1, 2)), x.flip(0, -1), torch.rot90(x, 1, (2, 3)),
                   x.unfold(2, 3, 2), x.repeat(1, 2, 1, 1), x.repeat_interleave(2, 1), x.tile(2),
                   torch.movedim(x, 0, -1), x.unflatten(1, (2, 2)),
                   torch.meshgrid(x[0, 0, 0], x[0, 0, 1]),
                   F.fold(F.unfold(x, 3), (6, 6), 3), torch.stack(x.unbind(1), -1), x.diff(dim=1),
                   torch.hstack([x, x]), x.swapaxes(0, 1),
                   torch.cartesian_prod(x[0, 0, 0], x[0, 0, 1])),
        (image(),),
    ),
    "padding": (
        lambda x: (F.pad(x, (1, 2, 0, 1), "circular"),
                   F.pad(x, (1, 2, 0, 1), "reflect"), F.pad(x, (1, 2, 0, 1), "replicate"),
                   F.pad(x, (-1, 2, 0, -1), value=3.0)),
        (image(),),
    ),
    "pooling": (
        lambda x: (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 2, return_indices=True)[1],
                   F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
                   F.adaptive_avg_pool2d(x, (4, 3)), F.adaptive_max_pool2d(x, (3, 2)),
                   F.lp_pool2d(x, 2, 2), F.max_pool1d(x[0], 2), F.avg_pool1d(x[0], 2),
                   F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
        (image(),),
    ),
    "normalisation": (
        lambda x: (F.layer_norm(x, (6, 6)), F.group_norm(x, 2), F.instance_norm(x),
                   F.rms_norm(x, (6,)), F.local_response_norm(x, 2),
                   F.batch_norm(x, torch.zeros(4), torch.ones(4))),
        (image(),),
    ),
    "statistics": (
        lambda x: (x.std(1), x.var((1, 2), unbiased=False), torch.std_mean(x, 2), x.amax((1, 2)),
                   x.aminmax(), x.nansum(1), x.nanmean(1), x.logsumexp((1, 2)), x.argmax(),
                   x.count_nonzero(1), x.all(1), x.any()),
        (image(),),
    ),
    "linear_algebra": (
        lambda x: (torch.matrix_power(x, 3), torch.linalg.multi_dot([x[0], x[1], x[2]])),
        (image(3, 4, 4),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    function, args = CASES[name]
    model = Function(function)
    graph = nexus_compiler.capture(model, args)
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    names = [spec.name for spec in graph.signature.functions[0].inputs]
    found = module.run("main", dict(zip(names, map(np.asarray, args))))
    for (label, ours), theirs in zip(found.items(), leaves(model(*args)), strict=True):
        assert ours.dtype == np.asarray(theirs).dtype, label
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5, err_msg=label)
