"""Operators in terms of others, written in PyTorch; gradients' own operators among them.

A recipe returns NotImplemented for the calls that a handler translates as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table

aten: Any = torch.ops.aten


def histogram(x: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """`aten.histc` with bounds: how many elements are in each of `bins` equal intervals."""
    if min == max:  # the bounds are those of the data, if there are several elements in them
        return NotImplemented
    flat = x.flatten()
    inside = (flat >= min) & (flat <= max)
    place = ((flat - min) * bins / (max - min)).clamp(0, bins - 1).to(torch.int64)
    return x.new_zeros(bins).scatter_add(0, place, inside.to(x.dtype))


def _experts(rows: int, ends: Any) -> Any:
    """For each of the rows in order, its group: how many of the `ends` are not behind it."""
    places = torch.arange(rows, device=ends.device)[:, None]
    return (places >= ends[None, :]).sum(1)


def grouped_matmul(input: Any, weight: Any, offs: Any) -> Any:
    """Rows in groups that end at `offs`, each group times a matrix of its own; zeros behind.

    Every row meets every matrix: the groups' sizes are data, and a kernel's are not.
    """
    group, count = _experts(input.shape[0], offs), weight.shape[0]
    products = torch.matmul(input[None], weight)
    places = group.clamp(max=count - 1)[None, :, None].expand(1, -1, weight.shape[2])
    chosen = products.gather(0, places)[0]
    return torch.where((group < count)[:, None], chosen, 0)


def grouped_matmul_backward(input: Any, weight: Any, offs: Any, grad: Any) -> tuple[Any, Any]:
    """The gradients of `grouped_matmul` with respect to its rows and matrices."""
    group = _experts(input.shape[0], offs)
    mine = group[None, :] == torch.arange(weight.shape[0], device=offs.device)[:, None]
    masked = torch.where(mine[:, :, None], input[None], 0)
    return grouped_matmul(grad, weight.transpose(1, 2), offs), masked.transpose(1, 2) @ grad[None]


def grouped_mm(x: Any, mat2: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """`aten._grouped_mm` of rows with a matrix for each group."""
    if offs is None or x.dim() != 2 or mat2.dim() != 3 or bias is not None:
        return NotImplemented
    result = grouped_matmul(x, mat2, offs)
    return result if out_dtype is None else result.to(out_dtype)


def distances(a: Any, b: Any, p: float, compute_mode: int | None = None) -> Any:
    """`aten._cdist_forward`: the p-norm between all pairs of rows."""
    del compute_mode  # how PyTorch would compute it
    away = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 2:
        return (away * away).sum(-1).sqrt()
    if p == 1:
        return away.sum(-1)
    if math.isinf(p):
        return away.amax(-1)
    if p == 0:
        return (away != 0).sum(-1).to(a.dtype)
    return away.pow(p).sum(-1).pow(1 / p)


def distances_backward(grad: Any, a: Any, b: Any, p: float, found: Any) -> Any:
    """The gradient of `distances` with respect to `a`; 0 where two rows are equal."""
    if p not in {1, 2}:
        return NotImplemented
    away = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == 1:
        return (grad.unsqueeze(-1) * away.sign()).sum(-2)
    rate = torch.where(found == 0, 0, grad / torch.where(found == 0, 1, found))
    return (rate.unsqueeze(-1) * away).sum(-2)


def ranked(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """`aten.kthvalue`: the k-th smallest element of an axis, and where it is."""
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, places = x.sort(dim)
    pair = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return pair if keepdim else (pair[0].squeeze(dim), pair[1].squeeze(dim))


def median(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """The middle element of an axis, the lower of two."""
    return ranked(x, (x.shape[dim] + 1) // 2 if x.dim() else 1, dim, keepdim)


def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    """The elements of `source`, in order, where the mask is set."""
    x, mask = torch.broadcast_tensors(x, mask)
    place = (mask.reshape(-1).to(torch.int64).cumsum(0) - 1).clamp(min=0)
    return torch.where(mask, source.reshape(-1)[place].view(x.shape), x)


def masked_scatter_backward(grad: Any, mask: Any, sizes: Sequence[int]) -> Any:
    """What of `grad` came from the source, in order, and zeros for what was not used."""
    mask = mask.expand(grad.shape).reshape(-1)
    total = math.prod(sizes)
    place = torch.where(mask, mask.to(torch.int64).cumsum(0) - 1, total)
    return grad.new_zeros(total + 1).scatter(0, place, grad.reshape(-1))[:total].view(sizes)


def scatter_reduce(
    x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """`aten.scatter_reduce` by a mean, or without the elements that are replaced."""
    if include_self and reduce != "mean":
        return NotImplemented
    start = x
    if not include_self:
        start = x.scatter(dim, index, _identity(x.dtype, reduce))
    if reduce != "mean":
        return start.scatter_reduce(dim, index, src, reduce)
    count = torch.ones_like(x) if include_self else torch.ones_like(x).scatter(dim, index, 0)
    count = count.scatter_add(dim, index, torch.ones_like(src)).clamp(min=1)
    whole = start.scatter_add(dim, index, src)
    return whole / count if x.is_floating_point() else whole.div(count, rounding_mode="floor")


def _identity(dtype: torch.dtype, reduce: str) -> float:
    if reduce in {"sum", "mean", "prod"}:
        return int(reduce == "prod")
    if dtype.is_floating_point:
        return -math.inf if reduce == "amax" else math.inf
    limits = torch.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


def copysign(x: Any, other: Any) -> Any:
    """The size of one and the sign of the other."""
    size = x.abs()
    return torch.where(torch.signbit(other), -size, size)


def hypot(x: Any, y: Any) -> Any:
    """sqrt(x^2 + y^2), without overflow."""
    x, y = x.abs(), y.abs()
    large, small = torch.maximum(x, y), torch.minimum(x, y)
    rate = torch.where(large > 0, small / torch.where(large > 0, large, 1), 0)
    return torch.where(torch.isinf(large), large, large * (1 + rate * rate).sqrt())


def weight_norm_backward(grad: Any, v: Any, g: Any, norms: Any, dim: int) -> tuple[Any, Any]:
    """The gradients of v and g, where the weight is v * g / norm(v) over all axes but `dim`."""
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()]
    dots = (grad * v).sum(axes, keepdim=True)
    return g / norms * (grad - v * (dots / (norms * norms))), dots / norms


def add_products(x: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """`aten.addbmm`: the sum of all products of a stack, and x."""
    return beta * x + alpha * torch.bmm(batch1, batch2).sum(0)


_OWN: dict[Any, Callable[..., Any]] = {
    aten._cdist_backward.default: distances_backward,
    aten._cdist_forward.default: distances,
    aten._grouped_mm.default: grouped_mm,
    aten._weight_norm_interface_backward.default: weight_norm_backward,
    aten.addbmm.default: add_products,
    aten.copysign.Tensor: copysign,
    aten.histc.default: histogram,
    aten.hypot.default: hypot,
    aten.kthvalue.default: ranked,
    aten.masked_scatter.default: masked_scatter,
    aten.masked_scatter_backward.default: masked_scatter_backward,
    aten.median.default: lambda x: median(x.flatten(), 0)[0],
    aten.median.dim: median,
    aten.scatter_reduce.two: scatter_reduce,
}
# Those that PyTorch has, but counts among the operators that backends should know.
_PYTORCHS = (
    "adaptive_max_pool2d", "adaptive_max_pool3d", "bucketize", "grid_sampler_2d",
    "linalg_vector_norm", "tril_indices", "triu_indices",
)  # fmt: skip


def table() -> dict[Any, Callable[..., Any]]:
    """The recipes by operator; those for operators of other libraries where these are loaded."""
    found = dict(_OWN)
    for target, recipe in decomposition_table.items():
        name, _, overload = str(target).removeprefix("aten.").partition(".")
        if name in _PYTORCHS and overload in {"Tensor", "default"}:
            found[target] = recipe
    library: Any = torch.ops.transformers
    if hasattr(library, "grouped_mm_fallback"):
        found[library.grouped_mm_fallback.default] = grouped_matmul
        found[library.grouped_mm_fallback_backward.default] = grouped_matmul_backward
    return found
