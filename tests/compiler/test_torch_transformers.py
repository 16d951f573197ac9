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
SPEECH = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 60,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
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


def speech(n: int) -> tuple[Any, ...]:
    return torch.randn(n, 8, 20), torch.randint(3, 60, (n, 4))


TEXT = ("input_ids",)
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
    "vit": ("ViTModel", "ViTConfig", IMAGE, ("pixel_values",), image),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE, ("pixel_values",), image),
}  # fmt: skip


def build(name: str) -> tuple[Any, Inputs]:
    kind, config, values, names, inputs = MODELS[name]
    torch.manual_seed(0)
    return Plain(kind, getattr(transformers, config)(**values), names), inputs


def open_sizes(inputs: Inputs) -> Any:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=32)
    texts = inputs not in {image, speech}
    return (tuple({0: batch, 1: length} if texts else {0: batch} for _ in inputs(2)),)


@pytest.mark.parametrize("name", chosen(MODELS, {"bert", "llama", "vit"}))
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
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", chosen(["bert", "gpt2", "llama", "t5", "vit"], {"gpt2"}))
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
