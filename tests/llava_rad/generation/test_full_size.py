"""The paper's model at full size, on the meta device: no memory, but every shape and key name."""

from __future__ import annotations

import pytest
import torch

from encoder.backbones.dinov2 import RadDino, VisionTransformer
from encoder.preprocessing import RECIPES
from llava_rad.generation.llama import Llama
from llava_rad.model.config import LlavaRadConfig, TokenIds
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.projector import Projector
from llava_rad.model.tokenizer import Tokens
from tests.encoder.backbones.test_dinov2 import published_names
from tests.llava_rad.published import vicuna_tokenizer


def vicuna_shapes() -> dict[str, tuple[int, ...]]:
    """Key names and shapes in ``lmsys/vicuna-7b-v1.5`` (291 tensors), spelt out."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32000, 4096),
        "model.norm.weight": (4096,),
        "lm_head.weight": (32000, 4096),
    }
    for layer in range(32):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        shapes |= {f"{at}mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (4096, 11008)}
        shapes |= {f"{at}{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
    return shapes


def dinov2_shapes() -> dict[str, tuple[int, ...]]:
    """Key names and shapes in ``microsoft/rad-dino`` (223 tensors), spelt out."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 768),
        "embeddings.mask_token": (1, 768),
        "embeddings.position_embeddings": (1, 1370, 768),
        "embeddings.patch_embeddings.projection.weight": (768, 3, 14, 14),
    }
    ends = {"mlp.fc1.weight": (3072, 768), "mlp.fc1.bias": (3072,), "mlp.fc2.weight": (768, 3072)}
    for name in published_names(12) - set(shapes):
        matrix = name.endswith(("query.weight", "key.weight", "value.weight", "dense.weight"))
        shapes[name] = next((s for end, s in ends.items() if name.endswith(end)), (768, 768) if matrix else (768,))
    return shapes


@pytest.fixture(scope="module")
def model() -> LlavaRad:
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        # microsoft/rad-dino and lmsys/vicuna-7b-v1.5, config.json of each
        encoder = Dinov2Model(Dinov2Config(image_size=518, patch_size=14))
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32000,
                hidden_size=4096,
                intermediate_size=11008,
                num_hidden_layers=32,
                num_attention_heads=32,
                max_position_embeddings=4096,
                rms_norm_eps=1e-5,
            )
        )
        projector = Projector(768, 4096)
    config = LlavaRadConfig(name="full size", image_tokens=1369, recipe=RECIPES["rad-dino"].to_dict())
    return LlavaRad(RadDino(encoder), projector, llama, Tokens(vicuna_tokenizer(), TokenIds()), config)


def test_language_model_has_vicunas_keys_and_shapes(model: LlavaRad) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.language_model.state_dict().items()}
    assert shapes == vicuna_shapes()
    assert len(shapes) == 291


def test_encoder_has_rad_dinos_shapes(model: LlavaRad) -> None:
    tensors = model.encoder.model.state_dict()
    assert sorted(tuple(tensor.shape) for tensor in tensors.values()) == sorted(dinov2_shapes().values())
    assert len(tensors) == 223
    assert sum(tensor.numel() for tensor in tensors.values()) == 86_580_480


def test_projector(model: LlavaRad) -> None:
    assert sum(p.numel() for p in model.projector.parameters()) == 768 * 4096 + 4096 + 4096 * 4096 + 4096


def test_an_image_is_1369_tokens_in_the_prompt(model: LlavaRad) -> None:
    before, after = model.config.conversation.encode(model.tokens.tokenizer, 1)
    assert (len(before), len(after)) == (35, 22)
    pixels = torch.empty(2, 3, 518, 518, device="meta")
    assert model.encoder(pixels).patches.shape == (2, 1369, 768)
    embeds, mask = model.embed(pixels, [(before, after)] * 2)
    assert embeds.shape == (2, 35 + 1369 + 22, 4096) == (2, 1426, 4096)
    assert mask.shape == (2, 1426)
    assert model.language_model(inputs_embeds=embeds).logits.shape == (2, 1426, 32000)


def test_inference_forms_take_the_same_files(model: LlavaRad, tmp_path) -> None:
    llama = Llama(model.language_model.config.to_dict(), model.language_model.state_dict(), device="meta")
    assert {name: tuple(tensor.shape) for name, tensor in llama.tensors().items()} == vicuna_shapes()
    tensors = {name: torch.empty(shape, device="meta") for name, shape in dinov2_shapes().items()}
    config = model.encoder.model.config.to_dict()
    encoder = VisionTransformer(config, tensors, size=518, device="meta")
    assert encoder(torch.empty(1, 3, 518, 518, device="meta")).patches.shape == (1, 1369, 768)
