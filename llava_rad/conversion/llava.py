"""Converters of LLaVA-1.5 and MAIRA-2, which are published in the form of transformers' LLaVA.

One table of tensors holds all three parts. Names of tensors: ``llava-hf/llava-1.5-7b-hf`` (both namings of
transformers, as in the ``key_mapping`` of ``LlavaForConditionalGeneration``), and ``microsoft/maira-2``
(``modeling_maira2.py``: a ``Dinov2Backbone`` with ``apply_layernorm``, whose one feature map is the last layer's after
the LayerNorm, and a projector ``layers``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from encoder.backbones import clip
from encoder.backbones import weight_files as files
from encoder.backbones.base import first_line
from encoder.backbones.registry import AFTER_NORM, PENULTIMATE, STORED_KEY
from encoder.errors import ModelError
from encoder.hub import fetch
from encoder.json_files import read_json
from encoder.preprocessing import clip as clip_recipe
from encoder.preprocessing import maira_2 as maira_2_recipe
from llava_rad.conversion.lora import EXPECTED, original_projector
from llava_rad.conversion.parts import Parts, check_preprocessor, llama_config, projector_names, tokens_of
from llava_rad.conversion.weights import Stored, read_folder, read_pickle
from llava_rad.model.config import PromptConfig
from llava_rad.model.templates import IMAGE, MAIRA_2_INSTRUCTION, MAIRA_2_SYSTEM, TEMPLATES
from llava_rad.model.tokenizer import Tokens
from llava_rad.outputs.grounding import TAGS

_LANGUAGE_MODEL, _TOWER, _PROJECTOR = "language model", "vision tower", "projector"
_PREFIXES = {
    "language_model.model.": (_LANGUAGE_MODEL, "model."),
    "language_model.lm_head.": (_LANGUAGE_MODEL, "lm_head."),
    "vision_tower.": (_TOWER, ""),
    "multi_modal_projector.": (_PROJECTOR, ""),
    "model.language_model.": (_LANGUAGE_MODEL, "model."),
    "lm_head.": (_LANGUAGE_MODEL, "lm_head."),
    "model.vision_tower.": (_TOWER, ""),
    "model.multi_modal_projector.": (_PROJECTOR, ""),
}
_PROBE = "\u241f probe \u241f"
_POSITIONS = "vision_model.embeddings.position_ids"  # in older files; no weight


def llava(folder: Path, what: str, *, base: str | Path | None = None, offline: bool = False) -> Parts:
    """Read LLaVA-1.5: CLIP's last layer but one, a projector of two layers, the paper's prompt.

    Args:
        folder: folder of the published files: of ``llava-hf/llava-1.5-7b-hf``, or of ``liuhaotian/llava-v1.5-7b``,
            which has no image tower and may have its projector in ``mm_projector.bin``.
        what: name of the model in error messages.
        base: image tower; None takes the one that ``config.json`` names.
        offline: never ask the hub.

    Raises:
        ModelError: if a file is missing or damaged, or describes another model.
    """
    described = files.read_json(folder / files.CONFIG, what)
    if "mm_vision_tower" in described and "vision_config" not in described:
        return _original(folder, described, what, base, offline=offline)
    if base is not None:
        raise ModelError(f"{what} has its image tower inside", hint="leave --base out")
    config, vision, text = _configs(folder, what, "llava", "clip_vision_model", {"vision_feature_layer": -2})
    parts = _split(read_folder(folder, "model", what), what)
    tower = {
        name if name.startswith(clip.PREFIX) else clip.PREFIX + name: tensor for name, tensor in parts[_TOWER].items()
    }
    tower.pop(_POSITIONS, None)
    recipe = clip_recipe(int(vision["image_size"]))
    check_preprocessor(folder, recipe, what)
    llama = llama_config(text, what)
    return Parts(
        encoder_config={**vision, files.RECIPE: recipe.name, STORED_KEY: PENULTIMATE},
        encoder=tower,
        features=PENULTIMATE,
        patch_size=int(vision["patch_size"]),
        projector=parts[_PROJECTOR],
        llama=llama,
        language_model=parts[_LANGUAGE_MODEL],
        tokens=tokens_of(folder, llama.to_dict(), _pad(config, text), llama.vocab_size, what),
        recipe=recipe,
        prompt=PromptConfig(),
    )


def _original(folder: Path, config: Mapping[str, Any], what: str, base: str | Path | None, *, offline: bool) -> Parts:
    """Read LLaVA-1.5 as its authors publish it (haotian-liu/LLaVA ``llava/model/builder.py``): without the tower."""
    from transformers import LlamaConfig

    for key, value in EXPECTED.items():
        if config.get(key, value) != value:
            raise ModelError(f"config.json of {what} says {key} = {config[key]!r}; only {value!r} is read")
    tensors = read_folder(folder, "model", what, pickled="pytorch_model")
    if inside := sorted(name for name in tensors if "vision_tower." in name):
        raise ModelError(f"{what} has an image tower of its own inside ({inside[0]}), which is not read")
    projector = {name: tensor for name, tensor in tensors.items() if "mm_projector." in name}
    language_model = {name: tensor for name, tensor in tensors.items() if name not in projector}
    if not projector:
        projector = read_pickle(folder / "mm_projector.bin", what)
    tower, vision = _clip_tower(str(base or config["mm_vision_tower"]), offline=offline)
    recipe = clip_recipe(int(vision["image_size"]))
    known = {*LlamaConfig().to_dict(), "rope_scaling", "rope_theta"}
    llama = llama_config({key: value for key, value in config.items() if key in known - {"model_type"}}, what)
    return Parts(
        encoder_config={**vision, files.RECIPE: recipe.name, STORED_KEY: PENULTIMATE},
        encoder=tower,
        features=PENULTIMATE,
        patch_size=int(vision["patch_size"]),
        projector=projector_names(original_projector(projector, "mm_projector.bin", what), what),
        llama=llama,
        language_model=language_model,
        tokens=tokens_of(folder, llama.to_dict(), _pad(config, {}), llama.vocab_size, what),
        recipe=recipe,
        prompt=PromptConfig(),
    )


def _clip_tower(source: str, *, offline: bool) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Read the vision tower of a CLIP model: its tensors and configuration."""
    of_tower = f"the image tower {source}"
    folder = fetch(source, offline=offline, patterns=("config.json", "preprocessor_config.json", "*.safetensors"))
    if not any(folder.glob("*.safetensors")):
        folder = fetch(source, offline=offline, patterns=("config.json", "preprocessor_config.json", "pytorch_model*"))
    config = files.read_json(folder / files.CONFIG, of_tower)
    vision = _vision(config.get("vision_config", config), "clip_vision_model")
    if config.get("model_type") not in ("clip", "clip_vision_model") or vision is None:
        raise ModelError(f"{of_tower} is a {config.get('model_type')!r} model, not CLIP's")
    check_preprocessor(folder, clip_recipe(int(vision["image_size"])), of_tower)
    tensors = read_folder(folder, "model", of_tower, pickled="pytorch_model")
    tower = {name: tensor for name, tensor in tensors.items() if not name.startswith(clip.TEXT)}
    return tower, vision


def maira_2(folder: Path, what: str) -> Parts:
    """Read MAIRA-2: DINOv2 after its LayerNorm, a projector of four layers, its own prompt with up to three images.

    Args:
        folder: folder of the published files.
        what: name of the model in error messages.

    Raises:
        ModelError: if a file is missing or damaged, or describes another model.
    """
    config, vision, text = _configs(folder, what, "maira2", "dinov2", {"vision_feature_layer": -1})
    if not vision.get("apply_layernorm", True) or vision.get("reshape_hidden_states", False):
        raise ModelError(f"the vision tower of {what} gives something else than tokens after its LayerNorm")
    parts = _split(read_folder(folder, "model", what), what)
    recipe = maira_2_recipe(int(vision["image_size"]))
    check_preprocessor(folder, recipe, what)
    llama = llama_config(text, what)
    tokens = tokens_of(folder, llama.to_dict(), _pad(config, text), llama.vocab_size, what)
    image = config.get("image_token_index", config.get("image_token_id"))
    if image is None or tokens.tokenizer.token_to_id(IMAGE) != image:
        raise ModelError(f"config.json of {what} says that {IMAGE} is token {image}, its tokenizer says otherwise")
    tokens = unmark_special(tokens, TAGS, what)
    layers = {name.removeprefix("layers."): tensor for name, tensor in parts[_PROJECTOR].items()}
    projector = projector_names(layers, what)
    if len(projector) != 2 * int(config.get("projector_n_layers", 4)):
        raise ModelError(f"the projector of {what} has {len(projector)} tensors, which its config.json does not expect")
    left_out = ("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states")
    turn = turn_of(folder, MAIRA_2_SYSTEM, what)
    return Parts(
        encoder_config={
            **{key: value for key, value in vision.items() if key not in left_out},
            "architectures": ["Dinov2Model"],
            files.RECIPE: recipe.name,
        },
        encoder=parts[_TOWER],
        features=AFTER_NORM,
        patch_size=int(vision["patch_size"]),
        projector=projector,
        llama=llama,
        language_model=parts[_LANGUAGE_MODEL],
        tokens=tokens,
        recipe=recipe,
        prompt=PromptConfig(
            system=MAIRA_2_SYSTEM,
            instruction=MAIRA_2_INSTRUCTION,
            template="maira-2",
            turn=None if turn == TEMPLATES["maira-2"].turn else turn,
            chunks="whole",
        ),
    )


_Family = Literal["clip_vision_model", "dinov2"]


def _configs(
    folder: Path, what: str, kind: str, tower: _Family, expected: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read ``config.json``, and in it the configurations of the vision tower and the language model.

    transformers' defaults fill in the tower's missing values; values other than ``expected`` are refused.
    """
    config = files.read_json(folder / files.CONFIG, what)
    if config.get("model_type") != kind:
        raise ModelError(f"{what} is a {config.get('model_type')!r} model, not {kind!r}")
    common = {"vision_feature_select_strategy": "default", "projector_hidden_act": "gelu"}
    for key, value in {**common, **expected}.items():
        if config.get(key, value) != value:
            raise ModelError(f"config.json of {what} says {key} = {config[key]!r}; only {value!r} is read")
    vision, text = config.get("vision_config"), config.get("text_config")
    found = _vision(vision, tower)
    if found is None or not isinstance(text, dict):
        raise ModelError(f"config.json of {what} describes no {tower!r} tower beside a language model")
    return config, found, text


def _vision(vision: Any, tower: _Family) -> dict[str, Any] | None:
    """Complete a vision tower's configuration with transformers' defaults; None if it is of another family."""
    from transformers import CLIPVisionConfig, Dinov2Config

    if not isinstance(vision, dict) or vision.get("model_type", tower) != tower:
        return None
    left_out = ("model_type", "architectures", "_name_or_path", "dtype", "torch_dtype", "transformers_version")
    kind = CLIPVisionConfig if tower == "clip_vision_model" else Dinov2Config
    kept = files.architecture_of(vision, kind, "the image tower")
    whole = kind(**{key: value for key, value in kept.items() if key not in left_out})
    found = {key: value for key, value in whole.to_dict().items() if key not in left_out}
    return {**found, "model_type": tower}


def _split(tensors: Mapping[str, Stored], what: str) -> dict[str, dict[str, Stored]]:
    """Divide the tensors among the three parts, under the names that each part uses on its own.

    Raises:
        ModelError: if a tensor belongs to no part, or a part has none.
    """
    parts: dict[str, dict[str, Stored]] = {_LANGUAGE_MODEL: {}, _TOWER: {}, _PROJECTOR: {}}
    unexpected = []
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            unexpected.append(name)
        else:
            part, new = _PREFIXES[prefix]
            parts[part][new + name.removeprefix(prefix)] = tensor
    if unexpected:
        raise ModelError(f"{what}: {len(unexpected)} unexpected keys, first {min(unexpected)}")
    for part, found in parts.items():
        if not found:
            raise ModelError(f"{what} has no tensors of a {part}")
    return parts


def _pad(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    found = config.get("pad_token_id", text.get("pad_token_id"))
    return found if isinstance(found, int) else None


def unmark_special(tokens: Tokens, names: Collection[str], what: str) -> Tokens:
    """Make tokens of a model's answers ordinary ones: decoding leaves special tokens out.

    Raises:
        ModelError: if one of them is missing.
    """
    from tokenizers import Tokenizer

    missing = sorted(name for name in names if tokens.tokenizer.token_to_id(name) is None)
    if missing:
        raise ModelError(f"the tokenizer of {what} lacks {len(missing)} tokens of boxes, first {missing[0]}")
    data = json.loads(tokens.tokenizer.to_str())
    for token in data["added_tokens"]:
        if token["content"] in names:
            token["special"] = False
    return Tokens(Tokenizer.from_str(json.dumps(data)), tokens.ids)


def turn_of(folder: Path, system: str, what: str) -> str | None:
    """Render a folder's chat template, and return the text around the user's words, ``{}``, after the system text.

    transformers renders the template in Jinja's sandbox.

    Returns:
        The text, or None if the folder has no chat template.

    Raises:
        ModelError: if it cannot be rendered, or begins with another system text.
    """
    template = _chat_template(folder, what)
    if template is None:
        return None
    try:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_empty(), bos_token="<s>", eos_token="</s>")
        words = [{"type": "text", "text": _PROBE, "index": None}]
        text = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": words}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )
    except Exception as error:  # Jinja raises types of its own
        raise ModelError(f"the chat template of {what} cannot be used: {first_line(error)}") from error
    head, found, tail = text.removeprefix("<s>").partition(_PROBE)
    if not found or not head.startswith(system) or "{" in head + tail or IMAGE in head + tail:
        raise ModelError(f"the chat template of {what} is not the one that its prompts are known with")
    return f"{head.removeprefix(system)}{{}}{tail}"


def _chat_template(folder: Path, what: str) -> str | None:
    """Read the template from ``chat_template.jinja``, ``chat_template.json`` or ``tokenizer_config.json``."""
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                found = read_json(folder / name).get("chat_template")
                if isinstance(found, str):
                    return found
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"the chat template of {what} cannot be read ({type(error).__name__})") from error
    return None


def _empty() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE())
