"""Small folders in the formats in which MAIRA-2, LLaVA-Rad and LLaVA-1.5 are published: real names, scaled shapes."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.llava_rad.published import vicuna_folder, vicuna_tokenizer

SIZE, PATCH = 56, 14
TOWER = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIZE, "patch_size": PATCH}
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
}  # fmt: skip
COORDINATES = [f"<{axis}{n}>" for axis in "xy" for n in range(100)]
GROUNDING = ["<obj>", "</obj>", "<box>", "</box>", *COORDINATES]
# chat_template.json of optimum-intel-internal-testing/tiny-random-maira2, cut to one turn
CHAT = (
    "You are an expert radiology assistant tasked with interpreting a chest X-ray study. {% for message in messages %}"
    "USER: {% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}"
    "{% elif item['type'] == 'image' %}<image>{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def mlp(widths: list[int]) -> torch.nn.Sequential:
    """Linear layers with GELU between them, as published projectors are."""
    parts: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [torch.nn.Linear(before, after), torch.nn.GELU()]
    return torch.nn.Sequential(*parts[:-1])


def save_shards(tensors: dict[str, torch.Tensor], folder: Path, shards: int = 2) -> None:
    """``model-0000k-of-0000n.safetensors`` with their index."""
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_tokenizer(folder: Path, special: list[str], plain: list[str]) -> None:
    """``tokenizer.json`` of Vicuna's form with tokens of a model behind its 32,000."""
    tokenizer = vicuna_tokenizer()
    tokenizer.add_tokens(plain)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def llama(vocabulary: int, **more: Any):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **TEXT, **more)).eval()


def maira_2(folder: Path) -> Path:
    """As ``microsoft/maira-2``: 32,207 tokens with ``<image>`` at 32204, 4 projector layers, linear scaling by 1.5."""
    from transformers import Dinov2Config, Dinov2Model

    folder.mkdir(parents=True)
    torch.manual_seed(3)
    scaling = {"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 10000.0}}
    Dinov2Model(Dinov2Config(**TOWER)).save_pretrained(folder / "tower")
    tensors = {f"vision_tower.{n}": t for n, t in load_file(folder / "tower" / "model.safetensors").items()}
    shutil.rmtree(folder / "tower")
    tensors |= {f"language_model.{n}": t for n, t in llama(32207, **scaling).state_dict().items()}
    projector = mlp([24, 32, 32, 32, 32])
    tensors |= {f"multi_modal_projector.layers.{n}": t * 3 for n, t in projector.state_dict().items()}
    save_shards({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder)
    text = {"model_type": "llama", "vocab_size": 32207, "rope_scaling": {"type": "linear", "factor": 1.5}, **TEXT}
    vision = {
        "model_type": "dinov2", "apply_layernorm": True, "reshape_hidden_states": False,
        "out_features": ["stage3"], "out_indices": [3], **TOWER,
    }  # fmt: skip
    config = {
        "model_type": "maira2", "architectures": ["Maira2ForConditionalGeneration"], "image_token_index": 32204,
        "auto_map": {"AutoConfig": "configuration_maira2.Maira2Config"}, "pad_token_id": 0, "projector_n_layers": 4,
        "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
        "torch_dtype": "bfloat16", "text_config": text, "vision_config": vision,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder, ["<image>", "<pad>", "<extra>"], GROUNDING)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    levels = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "crop_size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(levels))
    return folder


def llava(folder: Path, *, new_names: bool = False) -> tuple[Path, Any]:
    """As ``llava-hf/llava-1.5-7b-hf`` in either naming, and transformers' model of it."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    folder.mkdir(parents=True)
    torch.manual_seed(4)
    vision = CLIPVisionConfig(**TOWER, intermediate_size=48)
    text = LlamaConfig(vocab_size=32064, **TEXT)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000, image_seq_length=16)
    model = LlavaForConditionalGeneration(config).eval()
    tensors = {}
    for name, tensor in model.state_dict().items():
        old = name
        if name.startswith("model.language_model."):
            old = f"language_model.model.{name.removeprefix('model.language_model.')}"
        elif name.startswith("lm_head."):
            old = f"language_model.{name}"
        elif name.startswith("model.vision_tower."):
            inner = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
            old = f"vision_tower.vision_model.{inner}"
        elif name.startswith("model.multi_modal_projector."):
            old = name.removeprefix("model.")
        tensors[name if new_names else old] = tensor.half()
    save_shards(tensors, folder)
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    plain = {
        "model_type": "llava", "image_token_index": 32000, "pad_token_id": 32001, "projector_hidden_act": "gelu",
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "torch_dtype": "float16",
        "text_config": {"model_type": "llama", "vocab_size": 32064, "torch_dtype": "float16", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", "intermediate_size": 48, **TOWER},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(plain))
    save_tokenizer(folder, ["<image>", "<pad>"], [])
    return folder, model


def llava_original(folder: Path, hf: Path, *, apart: bool) -> tuple[Path, Path]:
    """As ``liuhaotian/llava-v1.5-7b`` and ``openai/clip-vit-large-patch14-336``: the weights of a replica of llava-hf.

    Args:
        folder: of both.
        hf: the replica.
        apart: the projector is in ``mm_projector.bin``.
    """
    model, tower = folder / "model", folder / "clip"
    model.mkdir(parents=True)
    tower.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for path in hf.glob("*.safetensors"):
        tensors |= load_file(path)
    layers = {"linear_1": "0", "linear_2": "2"}
    projector = {
        f"model.mm_projector.{layers[name.split('.')[1]]}.{name.split('.')[2]}": tensor
        for name, tensor in tensors.items()
        if name.startswith("multi_modal_projector.")
    }
    text = {n.removeprefix("language_model."): t for n, t in tensors.items() if n.startswith("language_model.")}
    torch.save(text if apart else text | projector, model / "pytorch_model.bin")
    if apart:
        torch.save(projector, model / "mm_projector.bin")
    vision = {n.removeprefix("vision_tower."): t for n, t in tensors.items() if n.startswith("vision_tower.")}
    more = {"text_model.embeddings.position_ids": torch.arange(3), "logit_scale": torch.ones(())}
    torch.save(vision | more, tower / "pytorch_model.bin")
    hf_config = json.loads((hf / "config.json").read_text())
    (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": hf_config["vision_config"]}))
    config = {
        **hf_config["text_config"], "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_hidden_size": 24, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "pad_token_id": 0, "use_mm_proj": True,
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(hf / name, model / name)
    return model, tower


def llava_rad(folder: Path, *, pickled: bool = True) -> Path:
    """As ``microsoft/llava-rad`` with its base beside it in ``base``: adapter, projector, open_clip's checkpoint."""
    import timm
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import LlamaForCausalLM

    folder.mkdir(parents=True)
    base = vicuna_folder(folder / "base")
    torch.manual_seed(5)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    settings.base_model_name_or_path = str(base)
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    adapter = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(adapted).items()}
    settings.save_pretrained(folder)
    described = {"mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False}
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **described}))
    if pickled:
        torch.save(adapter, folder / "adapter_model.bin")
    else:
        save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    projector = {f"base_model.model.model.mm_projector.{n}": t for n, t in mlp([64, 32, 32]).state_dict().items()}
    torch.save(
        {name: tensor.to(torch.bfloat16) for name, tensor in projector.items()}, folder / "non_lora_trainables.bin"
    )
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 64, "depth": 3, "num_heads": 1, "init_values": 0.5}
    tower = timm.create_model("vit_base_patch16_224", num_classes=0, **sizes)
    state = {f"module.visual.trunk.{name}": tensor for name, tensor in tower.state_dict().items()}
    state |= {"module.logit_scale": torch.ones(()), "module.text.proj.0.weight": torch.ones(2, 2)}
    save_file(dict(tower.state_dict()), folder.parent / "trunk.safetensors")  # for comparison
    import numpy as np

    whole = {"epoch": 3, "loss": np.float64(0.5), "state_dict": state}
    torch.save(whole, folder / "biomedclipcxr_518_checkpoint.pt")
    return folder


def saying(folder: Path, tokens: list[str]) -> Path:
    """Make a replica of MAIRA-2 say these tokens, each once, whatever it is shown.

    Attention and feed-forward parts add nothing, so that the next token depends on the last one alone: each has a
    direction of its own in the embeddings, which the output layer turns into the one behind it.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.token_to_id(token) for token in [*tokens, "</s>"]]
    assert None not in ids and len(set(ids)) == len(ids) <= TEXT["hidden_size"]
    for file in sorted(folder.glob("model-*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if "o_proj" in name or "down_proj" in name or "embed_tokens" in name or "lm_head" in name:
                tensor.zero_()
            if "embed_tokens" in name:
                tensor[[tokenizer.token_to_id("▁"), tokenizer.token_to_id(":")], 0] = 1.0  # a prompt's last
                tensor[ids[:-1], torch.arange(1, len(ids))] = 1.0
            if "lm_head" in name:
                tensor[ids, torch.arange(len(ids))] = 1.0
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def maira_2_with_boxes(folder: Path) -> Path:
    """A replica of MAIRA-2 that says a sentence with a box, and one without."""
    said = "<obj> ▁The ▁heart ▁is ▁normal ▁in ▁size . <box> <x10> <y20> <x30> <y40> </box> </obj> ▁l ungs ▁are ▁clear"
    return saying(maira_2(folder), said.split())
