"""The published models at full size: every name and shape, spelt out from public facts, without memory."""

from __future__ import annotations

import torch

from encoder.backbones import clip, timm_vit
from encoder.backbones.dinov2 import VisionTransformer
from llava_rad.conversion import llava
from llava_rad.conversion.lora import merged
from llava_rad.conversion.parts import _in_shards, llama_config, projector_names, shapes_of
from llava_rad.conversion.weights import Stored
from llava_rad.generation.llama import Llama
from llava_rad.model.prompt import Prompt
from llava_rad.model.templates import MAIRA_2_INSTRUCTION, MAIRA_2_SYSTEM, Study
from tests.llava_rad.conversion import replicas
from tests.llava_rad.generation.test_full_size import dinov2_shapes, vicuna_shapes
from tests.llava_rad.published import vicuna_tokenizer

Shapes = dict[str, tuple[int, ...]]
# config.json of microsoft/maira-2 and of llava-hf/llava-1.5-7b-hf leave out what is LlamaConfig's own
VICUNA = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "model_type": "llama"}
MAIRA_2 = {**VICUNA, "vocab_size": 32207, "rope_scaling": {"type": "linear", "factor": 1.5}}


def stored(shapes: Shapes, dtype: torch.dtype = torch.float16) -> dict[str, Stored]:
    def read() -> torch.Tensor:
        raise AssertionError("nothing may be read here")

    return {name: Stored(shape, dtype, read) for name, shape in shapes.items()}


def shapes_in(tensors: dict[str, Stored]) -> Shapes:
    return {name: tensor.shape for name, tensor in tensors.items()}


def with_rows(rows: int) -> Shapes:
    """Vicuna's tensors with more words."""
    return vicuna_shapes() | dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (rows, 4096))


def test_maira_2() -> None:
    layers = {0: (4096, 768), 2: (4096, 4096), 4: (4096, 4096), 6: (4096, 4096)}
    published: Shapes = {f"language_model.{name}": shape for name, shape in with_rows(32207).items()}
    published |= {f"vision_tower.{name}": shape for name, shape in dinov2_shapes().items()}
    for number, shape in layers.items():
        published |= {f"multi_modal_projector.layers.{number}.weight": shape}
        published |= {f"multi_modal_projector.layers.{number}.bias": (4096,)}
    assert len(published) == 291 + 223 + 8 == 522
    parts = llava._split(stored(published), "it")
    config = llama_config(MAIRA_2, "it")
    assert shapes_in(parts["language model"]) == shapes_of(config) == with_rows(32207)
    layered = {name.removeprefix("layers."): t for name, t in parts["projector"].items()}
    projector = shapes_in(projector_names(layered, "it"))
    assert projector["linear_1.weight"] == (4096, 768) and projector["linear_4.weight"] == (4096, 4096)
    tensors = {name: torch.empty(t.shape, device="meta") for name, t in parts["vision tower"].items()}
    from transformers import Dinov2Config

    vision = Dinov2Config(image_size=518, patch_size=14).to_dict()
    tower = VisionTransformer(vision, tensors, size=518, device="meta")
    assert tower(torch.empty(1, 3, 518, 518, device="meta")).patches.shape == (1, 1369, 768)
    # room for three images, a report of 450 tokens and the texts
    words = {name: torch.empty(shape, device="meta") for name, shape in with_rows(32207).items()}
    llama = Llama(config.to_dict(), words, device="meta")
    assert llama.longest == 6144 > 3 * 1369 + 450 + 500
    total = sum(t.bytes for part in parts.values() for t in part.values())
    assert 13.7e9 < total < 13.9e9  # 6.88 thousand million parameters in 16 bits


def test_maira_2s_shards_stay_small() -> None:
    groups = _in_shards(stored(with_rows(32207)))
    sizes = stored(with_rows(32207))
    assert sum(map(len, groups)) == 291
    assert max(sum(sizes[name].bytes for name in group) for group in groups) <= 2 * 10**9


def test_maira_2s_tokens_have_the_published_ids() -> None:
    """32,000 of Vicuna, 4 of phrases and boxes, 200 coordinates, then <image>: 32204, as config.json has it."""
    tokenizer = vicuna_tokenizer()
    tokenizer.add_tokens(replicas.GROUNDING)
    tokenizer.add_special_tokens(["<image>"])
    assert tokenizer.token_to_id("<image>") == 32204
    study = Study(lateral=True, prior=True)
    prompt = Prompt(MAIRA_2_SYSTEM, MAIRA_2_INSTRUCTION, "maira-2", None, "whole", study)
    assert len(prompt.pieces(tokenizer, 1)) == 4


def test_llava() -> None:
    tower: Shapes = {
        "embeddings.class_embedding": (1024,),
        "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, 1024),
    }
    tower |= {f"{side}.{kind}": (1024,) for side in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")}
    for layer in range(24):
        at = f"encoder.layers.{layer}."
        for part in ("q", "k", "v", "out"):
            tower |= {f"{at}self_attn.{part}_proj.weight": (1024, 1024), f"{at}self_attn.{part}_proj.bias": (1024,)}
        tower |= {f"{at}layer_norm{n}.{kind}": (1024,) for n in (1, 2) for kind in ("weight", "bias")}
        tower |= {f"{at}mlp.fc1.weight": (4096, 1024), f"{at}mlp.fc1.bias": (4096,)}
        tower |= {f"{at}mlp.fc2.weight": (1024, 4096), f"{at}mlp.fc2.bias": (1024,)}
    assert len(tower) == 391
    language = with_rows(32064)
    bridge: Shapes = {"linear_1.weight": (4096, 1024), "linear_2.weight": (4096, 4096)}
    bridge |= {f"linear_{n}.bias": (4096,) for n in (1, 2)}
    older: Shapes = {f"language_model.{name}": shape for name, shape in language.items()}
    older |= {f"vision_tower.vision_model.{name}": shape for name, shape in tower.items()}
    older |= {f"multi_modal_projector.{name}": shape for name, shape in bridge.items()}
    newer: Shapes = {"lm_head.weight": language["lm_head.weight"]}
    newer |= {
        f"model.language_model.{name.removeprefix('model.')}": shape
        for name, shape in language.items()
        if name != "lm_head.weight"
    }
    newer |= {f"model.vision_tower.vision_model.{name}": shape for name, shape in tower.items()}
    newer |= {f"model.multi_modal_projector.{name}": shape for name, shape in bridge.items()}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    network = clip.architecture({**vision, "image_size": 336, "patch_size": 14}).state_dict()
    ours = {name.removeprefix(clip.PREFIX): tuple(tensor.shape) for name, tensor in network.items()}
    assert {name: shape for name, shape in ours.items() if name != "embeddings.position_ids"} == tower
    for published in (older, newer):
        parts = llava._split(stored(published), "it")
        assert shapes_in(parts["language model"]) == shapes_of(llama_config({**VICUNA, "vocab_size": 32064}, "it"))
        assert shapes_in(parts["projector"]) == bridge
        assert {name.removeprefix(clip.PREFIX) for name in parts["vision tower"]} == tower.keys()


def test_llava_rad() -> None:
    adapter: Shapes = {}
    for name, shape in vicuna_shapes().items():
        if name.endswith("_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            adapter |= {f"{module}.lora_A.weight": (64, shape[1]), f"{module}.lora_B.weight": (shape[0], 64)}
    assert len(adapter) == 448  # q, k, v, o, gate, up and down of 32 layers, twice
    found = merged(stored(vicuna_shapes()), stored(adapter, torch.float32), 64, 128.0, "it")
    assert shapes_in(found) == vicuna_shapes()
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    import timm

    with torch.device("meta"):
        published = timm.create_model("vit_base_patch14_dinov2", num_classes=0).state_dict()
    config = timm_vit.describe(768, 12, 14, 518, "token")
    config["model_args"]["init_values"] = 1e-5
    ours = timm_vit.architecture(config).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in published.items()}
