"""The inference form of Llama against transformers' own class: logits, padding, grouped heads, tied head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encoder.errors import ModelError
from llava_rad.generation.llama import Llama, _attend

VARIANTS = {
    "llama": {},
    "grouped heads": {"num_key_value_heads": 2},
    "tied head": {"tie_word_embeddings": True},
    "head size of its own": {"head_dim": 12},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 10000.0}},
    "other base frequency": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}


def llama_for_causal_lm(**more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.3, **more)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_steps_equal_transformers(variant: str, tmp_path: Path) -> None:
    reference = llama_for_causal_lm(**VARIANTS[variant])
    reference.save_pretrained(tmp_path)
    llama = Llama.load(tmp_path)
    ids = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(ids).logits
        cache = llama.cache(2, 12)
        words = torch.nn.functional.embedding(ids, llama.embedding)
        found = [llama(words[:, :8], cache, 0)]
        found += [llama(words[:, at : at + 1], cache, at) for at in range(8, 12)]
    torch.testing.assert_close(torch.stack(found, 1), expected[:, 7:], rtol=1e-4, atol=1e-4)


def test_left_padding_changes_nothing(tmp_path: Path) -> None:
    reference = llama_for_causal_lm(num_key_value_heads=2)
    reference.save_pretrained(tmp_path)
    llama = Llama.load(tmp_path)
    ids = torch.randint(3, 97, (1, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        words = torch.nn.functional.embedding(ids, llama.embedding)
        padded = torch.cat([torch.full((1, 5, 32), 7.0), words], 1)
        mask = torch.tensor([[False] * 5 + [True] * 9])
        cache = llama.cache(1, 14)
        found = [llama(padded[:, :12], cache, 0, mask[:, :12])]
        found += [llama(padded[:, at : at + 1], cache, at, mask[:, : at + 1]) for at in (12, 13)]
        expected = reference(ids).logits[:, 6:]
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-4, atol=1e-4)


def test_weights_come_back_under_their_names(tmp_path: Path) -> None:
    reference = llama_for_causal_lm(num_key_value_heads=2)
    reference.save_pretrained(tmp_path)
    found = Llama.load(tmp_path).tensors()
    expected = reference.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_linear_scaling_makes_room_for_more_positions() -> None:
    model = llama_for_causal_lm(**VARIANTS["linear scaling"])
    llama = Llama(model.config.to_dict(), model.state_dict())
    assert llama.longest == 96
    ids = torch.randint(3, 97, (1, 96), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        words = torch.nn.functional.embedding(ids, llama.embedding)
        found = llama(words, llama.cache(1, 96), 0)
        torch.testing.assert_close(found, model(ids).logits[:, -1], rtol=1e-4, atol=1e-4)


def test_shards(tmp_path: Path) -> None:
    reference = llama_for_causal_lm()
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = Llama.load(tmp_path).tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in reference.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1.0}},
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"model_type": "mistral"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_variants_that_would_compute_something_else_are_refused(change: dict[str, object]) -> None:
    model = llama_for_causal_lm()
    with pytest.raises(ModelError):
        Llama(model.config.to_dict() | change, model.state_dict())


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_of_the_compiled_step_is_torchs(kv_heads: int) -> None:
    rng = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(3, heads, length, 8, generator=rng) for heads, length in ((4, 1), (kv_heads, 11), (kv_heads, 11))
    )
    seen = (torch.arange(11) <= torch.tensor([[10], [3], [0]]))[:, None, None]
    for mask in (seen, None):
        expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True)
        torch.testing.assert_close(_attend(query, keys, values, mask), expected)


@pytest.mark.parametrize("change", ["missing", "too many", "shape"])
def test_incomplete_weights_are_refused(change: str) -> None:
    model = llama_for_causal_lm()
    tensors = dict(model.state_dict())
    if change == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif change == "too many":
        tensors["model.layers.3.mlp.up_proj.weight"] = torch.zeros(2)
    else:
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    with pytest.raises(ModelError):
        Llama(model.config.to_dict(), tensors)
