"""Parts of a published model, as converters return them, and the checkpoint directory written from them.

Tensors are read one at a time while they are written, so that models larger than the memory can be converted.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.backbones import weight_files as files
from encoder.backbones.base import first_line, tokens_of_patches
from encoder.backbones.loading import load_vision
from encoder.backbones.registry import FeatureKind
from encoder.errors import ModelError
from encoder.files import check_room
from encoder.preprocessing import Recipe
from llava_rad.conversion.weights import Stored, read_all
from llava_rad.model.assemble import read_tokens
from llava_rad.model.checkpoint import ENCODER, LANGUAGE_MODEL, PROJECTOR, writing
from llava_rad.model.config import GenerationDefaults, LlavaRadConfig, PromptConfig, TokenIds, check_language_model
from llava_rad.model.llava_rad import greedy
from llava_rad.model.projector import Projector
from llava_rad.model.tokenizer import Tokens

if TYPE_CHECKING:
    from transformers import LlamaConfig

SHARD = 2 * 10**9
"""Bytes of a file of weights at most, except for longer tensors: so much is in memory at once."""
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Parts of a published model.

    Attributes:
        encoder_config: ``config.json`` of the image encoder in the form of checkpoints.
        encoder: tensors of the image encoder.
        features: output of the image encoder that is projected.
        patch_size: patch size of the image encoder, in pixels.
        projector: tensors of the projector: ``linear_1.weight`` and so on.
        llama: configuration of the language model.
        language_model: tensors of the language model.
        tokens: tokenizer of the language model.
        recipe: preprocessing recipe of the images.
        prompt: conversation around the image.
    """

    encoder_config: Mapping[str, Any]
    encoder: Mapping[str, Stored]
    features: FeatureKind
    patch_size: int
    projector: Mapping[str, Stored]
    llama: LlamaConfig
    language_model: Mapping[str, Stored]
    tokens: Tokens
    recipe: Recipe
    prompt: PromptConfig

    @property
    def bytes(self) -> int:
        """Size of all tensors on disk, in bytes."""
        return sum(
            tensor.bytes for part in (self.encoder, self.projector, self.language_model) for tensor in part.values()
        )


def write_parts(
    parts: Parts, target: Path, what: str, *, name: str, max_new_tokens: int, force: bool = False
) -> LlavaRadConfig:
    """Write the checkpoint directory in one step (temporary folder, then rename).

    Args:
        parts: the model.
        target: folder to write.
        what: name of the model in error messages.
        name: name of the model in reports.
        max_new_tokens: default of the longest report.
        force: replace ``target``.

    Returns:
        The config that was written (without the file hashes).

    Raises:
        ModelError: if a tensor is missing, left over or of another shape, or the parts do not fit together.
        LlavaRadError: if ``target`` exists, or the disk has no room for it.
    """
    from safetensors.torch import save_file

    _refuse_full_disk(target, parts.bytes)
    config = LlavaRadConfig(
        name=name,
        features=parts.features,
        image_tokens=tokens_of_patches(parts.recipe.size, parts.patch_size),
        prompt=parts.prompt,
        recipe=parts.recipe.to_dict(),
        tokens=parts.tokens.ids,
        generation=GenerationDefaults(max_new_tokens=max_new_tokens),
    )
    with writing(target, config, force=force) as folder:
        files.write(folder / ENCODER, parts.encoder_config, read_all(parts.encoder))
        # loading for inference takes every tensor exactly once, so none is missing and none left over
        size = parts.recipe.size
        vision = load_vision(folder / ENCODER, size=size, device="cpu", dtype=torch.float32, features=parts.features)
        save_file({name: tensor.read().contiguous() for name, tensor in parts.projector.items()}, folder / PROJECTOR)
        projector = Projector.load(folder / PROJECTOR)
        if (projector.in_features, projector.out_features) != (vision.width, parts.llama.hidden_size):
            raise ModelError(
                f"the projector of {what} maps {projector.in_features} to {projector.out_features} features, but its "
                f"encoder gives {vision.width} and its language model takes {parts.llama.hidden_size}"
            )
        del vision, projector
        write_language_model(folder / LANGUAGE_MODEL, parts.llama, parts.language_model, parts.tokens, what)
    return config


def _refuse_full_disk(target: Path, needed: int) -> None:
    parent = next(path for path in target.absolute().parents if path.is_dir())
    check_room(parent, needed, "the converted model", "make room, or name a folder on another disk")


def projector_names(tensors: Mapping[str, Stored], what: str, step: int = 2) -> dict[str, Stored]:
    """Rename ``0.weight``, ``2.weight`` … of an ``nn.Sequential`` with activations between layers to ``linear_1`` ….

    Args:
        tensors: tensors under the names of the ``nn.Sequential``.
        what: name of the model in error messages.
        step: distance of two layers' numbers.

    Raises:
        ModelError: if a name is none of these.
    """
    found = {}
    for name, tensor in tensors.items():
        number, _, kind = name.partition(".")
        if not number.isdecimal() or int(number) % step or kind not in ("weight", "bias"):
            raise ModelError(f"the projector of {what} has an unexpected tensor {name}")
        found[f"linear_{int(number) // step + 1}.{kind}"] = tensor
    if not found:
        raise ModelError(f"{what} has no projector")
    return found


def check_preprocessor(folder: Path, recipe: Recipe, what: str) -> None:
    """Compare ``preprocessor_config.json``, if there is one, with the recipe.

    Raises:
        ModelError: if size, mean or standard deviation differ.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    config = files.read_json(path, what)
    crop = config.get("crop_size")
    size = crop.get("height") if isinstance(crop, dict) else crop
    if size is not None and size != recipe.size:
        raise ModelError(f"preprocessor_config.json of {what} says {size} pixels, its vision tower {recipe.size}")
    for key, level in (("image_mean", recipe.mean), ("image_std", recipe.std)):
        ours = list(level) if isinstance(level, tuple) else [level] * 3
        theirs = config.get(key, ours)
        if len(theirs) != 3 or any(abs(a - b) > 1e-3 for a, b in zip(ours, theirs, strict=True)):
            raise ModelError(f"preprocessor_config.json of {what} says {key} {theirs}, the recipe {recipe.name} {ours}")


def llama_config(text: Mapping[str, Any], what: str) -> LlamaConfig:
    """Make transformers' configuration of a Llama from published JSON; transformers' defaults fill in missing values.

    Raises:
        ModelError: if it describes another model.
    """
    from transformers import LlamaConfig

    if text.get("model_type", "llama") != "llama":
        raise ModelError(f"the language model of {what} is a {text['model_type']!r} model, not 'llama'")
    described = files.architecture_of(text, LlamaConfig, f"the language model of {what}")
    try:
        config = LlamaConfig(**{key: value for key, value in described.items() if "dtype" not in key})
    except Exception as error:  # transformers checks values with exceptions of several libraries
        raise ModelError(f"the language model's configuration of {what} is not valid: {first_line(error)}") from error
    config.architectures = ["LlamaForCausalLM"]
    config.tie_word_embeddings = False
    stated = {key: value for key, value in text.items() if "rope" not in key}  # those are in config, completed
    check_language_model({**stated, **config.to_dict()}, f"the language model of {what}")
    return config


def write_language_model(
    folder: Path,
    config: LlamaConfig,
    tensors: Mapping[str, Stored],
    tokens: Tokens,
    what: str,
) -> None:
    """Write ``config.json``, the weights and the tokenizer of a ``LlamaForCausalLM`` folder, each tensor in its type.

    Args:
        folder: folder to make.
        config: configuration of the model.
        tensors: tensors under transformers' names (``model.…``, ``lm_head.weight``).
        tokens: tokenizer of the model.
        what: name of the model in error messages.

    Raises:
        ModelError: if a tensor is missing, left over or of another shape.
    """
    from safetensors.torch import save_file

    shapes = shapes_of(config)
    files.refuse_other_shapes(shapes, tensors, what)
    folder.mkdir()
    config.dtype = tensors["model.embed_tokens.weight"].dtype
    config.save_pretrained(folder)
    greedy(tokens.ids).save_pretrained(folder)
    tokens.save(folder)
    groups = _in_shards({name: tensors[name] for name in shapes})
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        part = {name: tensors[name].read().contiguous() for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
        del part
        weight_map |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(tensors[name].bytes for name in shapes)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def shapes_of(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama's tensors, computed on the meta device."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _in_shards(tensors: Mapping[str, Stored]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.bytes > SHARD:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.bytes
    return groups


def tokens_of(folder: Path, text: Mapping[str, Any], pad: int | None, vocabulary: int, what: str) -> Tokens:
    """Read a tokenizer from a folder that is not a language model's.

    Args:
        folder: folder with ``tokenizer.json`` or ``tokenizer.model``.
        text: configuration of the language model, for the ids of its special tokens.
        pad: id of the padding token in the whole model's configuration, or None.
        vocabulary: number of rows of the embedding.
        what: name of the model in error messages.

    Raises:
        ModelError: if it cannot be read, or has tokens without an embedding.
    """
    # in a folder of its own: transformers reads config.json, which may name a model with remote code
    with tempfile.TemporaryDirectory(prefix="llava-rad-tokenizer-") as own:
        for name in _TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(own) / name)
        (Path(own) / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
        ids = {"eos_token_id": text["eos_token_id"], "bos_token_id": text["bos_token_id"], "pad_token_id": pad}
        tokens = read_tokens(Path(own), ids, what)
    if tokens.tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(f"the tokenizer of {what} has more tokens than the model has embeddings")
    pad = pad if pad is not None and 0 <= pad < vocabulary else 0
    return Tokens(tokens.tokenizer, TokenIds(bos=tokens.ids.bos, eos=tokens.ids.eos, pad=pad))
