"""Small random models of Hugging Face's transformers: inference with open sizes, and gradients."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_models import chosen, eager, nn, torch

import nexus_compiler
import nexus_runtime

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 32,
}
LLAMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60, "n_positions": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
DISTIL = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 60}
IMAGE = {**SMALL, "image_size": 16, "patch_size": 8}
TWO_STACKS = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 60,
}
SPEECH = {
    **TWO_STACKS,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
EXPERTS = {
    **LLAMA,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MIXTRAL = {**LLAMA, "num_local_experts": 4}
DEBERTA = {
    **SMALL,
    "relative_attention": True,
    "position_buckets": 4,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
BART = {**TWO_STACKS, "max_position_embeddings": 32}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16}
SOUND = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
    "conv_dim": (8, 8),
    "conv_stride": (3, 2),
    "conv_kernel": (5, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
NO_ENDS = {"bos_token_id": None, "eos_token_id": None}


class Plain(nn.Module):
    """A model of transformers as a function from tensors to one tensor."""

    def __init__(self, kind: str, config: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = getattr(transformers, kind)(config)
        self.names = names
        self.cache = {"use_cache": False} if hasattr(config, "use_cache") else {}

    def forward(self, *args: Any) -> Any:
        found = self.model(**dict(zip(self.names, args)), **self.cache, return_dict=True)
        return found.logits if hasattr(found, "logits") else found.last_hidden_state


def words(n: int) -> tuple[Any, ...]:
    return (torch.randint(3, 60, (n, n + 3)),)


def masked(n: int) -> tuple[Any, ...]:
    mask = torch.ones(n, n + 3, dtype=torch.int64)
    mask[0, -1] = 0
    return (*words(n), mask)


def two_texts(n: int) -> tuple[Any, ...]:
    return (*words(n), *words(n))


def image(n: int) -> tuple[Any, ...]:
    return (torch.randn(n, 3, 16, 16),)


def sound(n: int) -> tuple[Any, ...]:
    return (torch.randn(n, 200),)


def speech(n: int) -> tuple[Any, ...]:
    return torch.randn(n, 8, 20), torch.randint(3, 60, (n, 4))


TEXT = ("input_ids",)
MASKED = (*TEXT, "attention_mask")
Inputs = Callable[[int], tuple[Any, ...]]
MODELS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...], Inputs]] = {
    "bert": ("BertModel", "BertConfig", SMALL, (*TEXT, "attention_mask"), masked),
    "distilbert": ("DistilBertModel", "DistilBertConfig", DISTIL, TEXT, words),
    "roberta": ("RobertaModel", "RobertaConfig", SMALL, TEXT, words),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, **NO_ENDS}, TEXT, words),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA, TEXT, words),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 4}, TEXT, words),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", LLAMA, TEXT, words),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", LLAMA, TEXT, words),
    "t5": (
        "T5ForConditionalGeneration", "T5Config", T5, (*TEXT, "decoder_input_ids"), two_texts,
    ),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig", SPEECH,
        ("input_features", "decoder_input_ids"), speech,
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", MIXTRAL, TEXT, words),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", EXPERTS, TEXT, words),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", LLAMA, TEXT, words),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {**LLAMA, "num_hidden_layers": 2, "sliding_window": 4}, TEXT, words,
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", LLAMA, TEXT, words),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", LLAMA, TEXT, words),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", LLAMA, TEXT, words),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL, TEXT, words),
    "falcon": ("FalconForCausalLM", "FalconConfig", {**SMALL, **NO_ENDS}, TEXT, words),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60}, MASKED, masked,
    ),
    "opt": (
        "OPTForCausalLM", "OPTConfig", {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
        MASKED, masked,
    ),
    "electra": ("ElectraModel", "ElectraConfig", {**SMALL, "embedding_size": 8}, MASKED, masked),
    "albert": ("AlbertModel", "AlbertConfig", {**SMALL, "embedding_size": 8}, MASKED, masked),
    "mpnet": ("MPNetModel", "MPNetConfig", SMALL, MASKED, masked),
    "deberta_v2": ("DebertaV2Model", "DebertaV2Config", DEBERTA, MASKED, masked),
    "bart": ("BartModel", "BartConfig", BART, (*TEXT, "decoder_input_ids"), two_texts),
    "convnext": ("ConvNextModel", "ConvNextConfig", STAGES, ("pixel_values",), image),
    "convnextv2": ("ConvNextV2Model", "ConvNextV2Config", STAGES, ("pixel_values",), image),
    "resnet": (
        "ResNetModel", "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        ("pixel_values",), image,
    ),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**IMAGE, "mlp_ratio": 2}, ("pixel_values",), image),
    "beit": ("BeitModel", "BeitConfig", IMAGE, ("pixel_values",), image),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", IMAGE, ("pixel_values",), image),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", SOUND, ("input_values",), sound),
    "vit": ("ViTModel", "ViTConfig", IMAGE, ("pixel_values",), image),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE, ("pixel_values",), image),
}  # fmt: skip


QUICK = {
    "albert", "bert", "convnextv2", "distilbert", "falcon", "gpt2", "gpt_neox", "llama", "mistral",
    "mixtral", "olmo", "opt", "qwen2", "resnet", "t5", "vit",
}  # fmt: skip
TRAINED = {"albert", "bert", "distilbert", "gpt2", "llama", "olmo"}


def build(name: str) -> tuple[Any, Inputs]:
    kind, config, values, names, inputs = MODELS[name]
    torch.manual_seed(0)
    return Plain(kind, getattr(transformers, config)(**values), names), inputs


def open_sizes(inputs: Inputs) -> Any:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=32)
    texts = inputs not in {image, sound, speech}
    return (tuple({0: batch, 1: length} if texts else {0: batch} for _ in inputs(2)),)


@pytest.mark.parametrize("name", chosen(MODELS, QUICK))
def test_inference(name: str) -> None:
    model, inputs = build(name)
    model.eval()
    shapes = open_sizes(inputs)
    graph = nexus_compiler.capture(model, inputs(2), dynamic_shapes=shapes)
    module = nexus_runtime.load(nexus_compiler.compile(graph))
    for size in (2, 3):
        args = inputs(size)
        (wanted,), _ = eager(model, args)
        found = module(*map(np.asarray, args))
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", chosen(MODELS, TRAINED))
def test_training(name: str) -> None:
    model, inputs = build(name)
    model.eval()  # without dropout, whose masks are not eager's
    twin, args = copy.deepcopy(model), inputs(2)
    torch._dynamo.reset()
    losses: list[float] = []
    for network in (torch.compile(model, backend="nexus"), twin):
        loss = network(*args).square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name_, ours), theirs in zip(model.named_parameters(), twin.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name_
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name_)
