"""Kernels that PyTorch has for whole layers, in the parts that they are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    embed_dim: int,
    num_head: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    mask: Any = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Any, Any]:
    """`aten._native_multi_head_attention`: nn.MultiheadAttention where no gradient is asked for."""
    parts = [
        functional.linear(x, weight, bias).unflatten(-1, (num_head, -1)).transpose(1, 2)
        for x, weight, bias in zip(
            (query, key, value), qkv_weight.split(embed_dim), qkv_bias.split(embed_dim)
        )
    ]
    scores = parts[0] @ parts[1].transpose(-1, -2) * (embed_dim // num_head) ** -0.5
    if mask is not None:
        scores = scores.masked_fill(_wide(mask, mask_type), float("-inf"))
    weights = scores.softmax(-1)
    mixed = (weights @ parts[2]).transpose(1, 2).flatten(2)
    result = functional.linear(mixed, proj_weight, proj_bias)
    if not need_weights:
        return result, result.new_empty(0)
    return result, weights.mean(1) if average_attn_weights else weights


def _wide(mask: Any, mask_type: int | None) -> Any:
    """A mask for (batch, heads, rows, columns): 0 is (rows, columns), 1 is (batch, columns)."""
    if mask_type == 1:
        return mask.bool()[:, None, None, :]
    return mask.bool()


def encoder_layer(
    src: Any,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Any,
    norm_bias_1: Any,
    norm_weight_2: Any,
    norm_bias_2: Any,
    ffn_weight_1: Any,
    ffn_bias_1: Any,
    ffn_weight_2: Any,
    ffn_bias_2: Any,
    mask: Any = None,
    mask_type: int | None = None,
) -> Any:
    """`aten._transformer_encoder_layer_fwd`: nn.TransformerEncoderLayer without gradients."""
    projections = (qkv_weight, qkv_bias, proj_weight, proj_bias)

    def attend(x: Any) -> Any:
        return multi_head_attention(
            x, x, x, embed_dim, num_heads, *projections, mask, False, True, mask_type
        )[0]

    def feed(x: Any) -> Any:
        hidden = functional.linear(x, ffn_weight_1, ffn_bias_1)
        hidden = functional.gelu(hidden) if use_gelu else functional.relu(hidden)
        return functional.linear(hidden, ffn_weight_2, ffn_bias_2)

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        return functional.layer_norm(x, (embed_dim,), weight, bias, eps)

    first, second = (norm_weight_1, norm_bias_1), (norm_weight_2, norm_bias_2)
    if norm_first:
        src = src + attend(norm(src, *first))
        return src + feed(norm(src, *second))
    src = norm(src + attend(src), *first)
    return norm(src + feed(src), *second)


TABLE: dict[Any, Any] = {
    torch.ops.aten._native_multi_head_attention.default: multi_head_attention,
    torch.ops.aten._transformer_encoder_layer_fwd.default: encoder_layer,
}
