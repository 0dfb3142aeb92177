"""Converter of LLaVA-Rad, which is published as a LoRA adapter of Vicuna-7B, a projector and an open_clip image tower.

Public sources of names and numbers: microsoft/LLaVA-Rad ``llava/model/builder.py`` (prefixes of
``non_lora_trainables.bin``) and ``open_clip_encoder.py`` (blocks' outputs without the final norm, the last but one,
without CLS); copies in pradyunramesh/LLaVA-Rad and SeanCheng1996/LLaVA-Rad-main. Architecture and sizes of the tower
are read off its tensors: one account of the weights calls it ``vit_base_patch14_dinov2`` (patches of 14, LayerScale).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from encoder.backbones import timm_vit
from encoder.backbones import weight_files as files
from encoder.backbones.registry import PENULTIMATE, STORED_KEY
from encoder.errors import ModelError
from encoder.preprocessing import llava_rad as llava_rad_recipe
from llava_rad.conversion.parts import Parts, llama_config, projector_names, tokens_of
from llava_rad.conversion.weights import Stored, read_folder, read_pickle, read_safetensors
from llava_rad.model.assemble import fetch_language_model
from llava_rad.model.config import PromptConfig

_PROJECTOR = re.compile(r"(?:base_model\.)?(?:model\.)*mm_projector\.(\d+\.(?:weight|bias))")
_LOW_RANK = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_EXPECTED_ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False,
    "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {},
}  # fmt: skip

EXPECTED: dict[str, Any] = {
    "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
}  # fmt: skip


def llava_rad(folder: Path, what: str, *, base: str | Path | None = None, offline: bool = False) -> Parts:
    """Read LLaVA-Rad; adapter and base are added tensor by tensor when they are written.

    Args:
        folder: folder of the published files.
        what: name of the model in error messages.
        base: base model; None takes the one that the adapter names.
        offline: never ask the hub.

    Raises:
        ModelError: if a file is missing or damaged, or describes another model.
    """
    adapter = files.read_json(folder / "adapter_config.json", what)
    for key, value in _EXPECTED_ADAPTER.items():
        if (adapter.get(key) or value) != value:
            raise ModelError(f"adapter_config.json of {what} says {key} = {adapter[key]!r}; only {value!r} is read")
    if (folder / files.CONFIG).is_file():
        described = files.read_json(folder / files.CONFIG, what)
        for key, value in EXPECTED.items():
            if described.get(key, value) != value:
                raise ModelError(f"config.json of {what} says {key} = {described[key]!r}; only {value!r} is read")
    named = base or adapter.get("base_model_name_or_path")
    if not named:
        raise ModelError(f"adapter_config.json of {what} names no base model", hint="name it with --base")
    base_folder = fetch_language_model(named, adapter.get("revision") if base is None else None, offline=offline)
    of_base = f"the base model {named}"
    config = files.read_json(base_folder / files.CONFIG, of_base)
    llama = llama_config(config, of_base)
    tensors = read_folder(base_folder, "model", of_base, pickled="pytorch_model")
    pairs = read_folder(folder, "adapter_model", what, pickled="adapter_model")
    projector = read_pickle(folder / "non_lora_trainables.bin", what)
    tower, encoder_config, patch, size = _tower(folder, what)
    recipe = llava_rad_recipe(size)
    return Parts(
        encoder_config={**encoder_config, files.RECIPE: recipe.name, STORED_KEY: PENULTIMATE},
        encoder=tower,
        features=PENULTIMATE,
        patch_size=patch,
        projector=projector_names(original_projector(projector, "non_lora_trainables.bin", what), what),
        llama=llama,
        language_model=merged(tensors, pairs, int(adapter["r"]), float(adapter["lora_alpha"]), what),
        tokens=tokens_of(base_folder, llama.to_dict(), config.get("pad_token_id"), llama.vocab_size, of_base),
        recipe=recipe,
        prompt=PromptConfig(template="llava-rad"),
    )


def merged(
    base: Mapping[str, Stored], adapter: Mapping[str, Stored], rank: int, alpha: float, what: str
) -> dict[str, Stored]:
    """Add ``alpha / rank * B @ A`` to the tensors of a base, in float32 (Hu et al. 2021); the base's types are kept.

    Args:
        base: tensors under the names of ``LlamaForCausalLM``.
        adapter: tensors under PEFT's names, pairs of ``lora_A`` [rank, in] and ``lora_B`` [out, rank].
        rank: rank of the adapter.
        alpha: ``lora_alpha`` of the adapter.
        what: name of the model in error messages.

    Raises:
        ModelError: if a tensor of the adapter has no partner, no base, or another shape.
    """
    found: dict[str, dict[str, Stored]] = {}
    for name, tensor in adapter.items():
        match = _LOW_RANK.fullmatch(name)
        if match is None:
            raise ModelError(f"the adapter of {what} has an unexpected tensor {name}")
        found.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
    result = dict(base)
    for name, pair in found.items():
        if name not in base or pair.keys() != {"A", "B"}:
            raise ModelError(f"the adapter of {what} has no whole pair for {name}, or its base no such tensor")
        rows, columns = base[name].shape
        if (pair["A"].shape, pair["B"].shape) != ((rank, columns), (rows, rank)):
            raise ModelError(f"the adapter's tensors for {name} do not have the shapes of a rank of {rank}")
        result[name] = _sum(base[name], pair["A"], pair["B"], alpha / rank)
    if not found:
        raise ModelError(f"the adapter of {what} holds no tensors")
    return result


def _sum(base: Stored, down: Stored, up: Stored, scale: float) -> Stored:
    def read() -> torch.Tensor:
        weight = base.read().float()
        weight.addmm_(up.read().float(), down.read().float(), alpha=scale)
        return weight.to(base.dtype)

    return Stored(base.shape, base.dtype, read)


def original_projector(tensors: Mapping[str, Stored], file: str, what: str) -> dict[str, Stored]:
    """Return the tensors of LLaVA's projector under the names of its ``nn.Sequential``.

    Raises:
        ModelError: if a tensor is of another part.
    """
    found = {}
    for name, tensor in tensors.items():
        match = _PROJECTOR.fullmatch(name)
        if match is None:
            raise ModelError(f"{file} of {what} has an unexpected tensor {name}")
        found[match[1]] = tensor
    return found


def _tower(folder: Path, what: str) -> tuple[dict[str, Stored], dict[str, Any], int, int]:
    """Find the image tower: its tensors, configuration, patch size and image size in pixels."""
    paths = sorted(path for path in (*folder.glob("*.pt"), folder / "open_clip_model.safetensors") if path.is_file())
    if len(paths) != 1:
        raise ModelError(
            f"{what} has {len(paths)} files of an image tower, not one", hint="it is biomedclipcxr_518_checkpoint.pt"
        )
    read = read_safetensors if paths[0].suffix == ".safetensors" else read_pickle
    tensors = {name.removeprefix("module."): tensor for name, tensor in read(paths[0], what).items()}
    known = (timm_vit.BIOMEDCLIP_TRUNK, *timm_vit.BIOMEDCLIP_LEFT_OUT)
    unexpected = sorted(name for name in tensors if not name.startswith(known))
    if unexpected:
        raise ModelError(f"the image tower of {what}: {len(unexpected)} unexpected keys, first {unexpected[0]}")
    prefix = timm_vit.BIOMEDCLIP_TRUNK
    trunk = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    stem, positions = trunk.get("patch_embed.proj.weight"), trunk.get("pos_embed")
    if stem is None or positions is None or len(stem.shape) != 4 or len(positions.shape) != 3:
        raise ModelError(f"the image tower of {what} is no vision transformer of timm's")
    patch = stem.shape[-1]
    size = patch * round((positions.shape[1] - 1) ** 0.5)
    depth = len({name.split(".")[1] for name in trunk if name.startswith("blocks.")})
    config = timm_vit.describe(stem.shape[0], depth, patch, size, "token")
    if "blocks.0.ls1.gamma" in trunk:
        config["model_args"]["init_values"] = 1e-5  # LayerScale; the value only initialises training
    return trunk, config, patch, size
