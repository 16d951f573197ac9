"""The operators that a model is brought down to: core ATen, and what has a good form in Relax."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from nexus_compiler.frontend.torch import composites, recipes

# Composite operators that the handlers take whole: their parts would be slower or less exact.
KEPT = (
    "_unsafe_view",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "baddbmm",
    "embedding_dense_backward",
    "index_add",
    "layer_norm",
    "linear",
    "log_sigmoid_forward",
    "logsumexp",
    "masked_fill",
    "matmul",
    "mish",
    "one_hot",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "rms_norm",
    "roll",
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "silu",
    "softplus",
    "split",
    "stack",
    "tril",
    "triu",
    "unbind",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bicubic2d",
)


def table() -> dict[Any, Callable[..., Any]]:
    """Decompositions by operator, for `run_decompositions` and for AOTAutograd."""
    return {**_of_pytorch(), **composites.TABLE, **recipes.table()}


@functools.cache
def _of_pytorch() -> dict[Any, Callable[..., Any]]:
    found: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    for target in list(found):
        schema = target._schema
        if schema.name.removeprefix("aten::") in KEPT:
            del found[target]
    return found
