"""Memory that a model takes, computed from the headers of its files; no weight is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ModelError
from encoder.json_files import read_json

if TYPE_CHECKING:
    from llava_rad.generation.profiles import Profile

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_OF_LAYERS = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes of a weight of the language model's layers; 64 weights of 4 bits share a scale."""
_TEXTS = 512
"""Tokens of a prompt's texts: 57 in LLaVA's, some 200 in MAIRA-2's with boxes and without fields."""


@dataclass(frozen=True)
class Need:
    """Memory that a checkpoint takes to write one report at a time; no weight is read.

    Attributes:
        parameters: parameters of the encoder, the projector and the language model.
        quantisable: parameters that ``8bit`` and ``4bit`` quantise.
        cached: numbers in the key-value cache of the longest prompt with one image, and its answer.
        whole: False if the language model is an adapter, whose base is not counted.
    """

    parameters: int
    quantisable: int
    cached: int
    whole: bool

    def bytes(self, dtype: str) -> int:
        """Bytes of weights and cache in a type; with ``8bit`` and ``4bit`` the rest is in bfloat16."""
        each = _BYTES.get(dtype, 2.0)
        return round((self.parameters + self.cached) * each + self.quantisable * (_OF_LAYERS.get(dtype, each) - each))


def need_of(folder: Path) -> Need:
    """Compute the memory of a checkpoint folder from the headers of its files.

    Raises:
        ModelError: if it is no checkpoint, or a file of it is damaged.
    """
    from llava_rad.model.checkpoint import LANGUAGE_MODEL
    from llava_rad.model.config import LlavaRadConfig

    config = LlavaRadConfig.load(folder)
    parameters = quantisable = 0
    for path, name, size in _tensors(sorted(folder.rglob("*.safetensors"))):
        parameters += size
        quantisable += size if name.endswith("_proj.weight") and path.parent.name == LANGUAGE_MODEL else 0
    whole = not (folder / LANGUAGE_MODEL / "adapter_config.json").is_file()
    if not whole:
        return Need(parameters, quantisable, 0, whole=False)
    try:
        each = _cached_numbers(read_json(folder / LANGUAGE_MODEL / "config.json"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the language model's config.json cannot be read ({type(error).__name__})") from error
    cached = each * (config.image_tokens + _TEXTS + config.generation.max_new_tokens)
    return Need(parameters, quantisable, cached, whole=True)


def need_of_vision_language(files: Iterable[Path], config: Mapping[str, Any], profile: Profile) -> Need:
    """Compute the memory of a model of transformers' image-text-to-text class.

    Args:
        files: of its weights.
        config: contents of its ``config.json``, with the defaults of transformers.
        profile: of the model.

    Raises:
        ModelError: if a file is damaged, or ``config.json`` lacks a size.
    """
    parameters = quantisable = 0
    for _, name, size in _tensors(files):
        parameters += size
        of_words = "visual" not in name and "vision" not in name
        quantisable += size if of_words and name.endswith("_proj.weight") else 0
    try:
        each = _cached_numbers(config.get("text_config") or config)
        prompt = _image_tokens(config, profile) + _TEXTS
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the model's config.json lacks a size ({type(error).__name__})") from error
    return Need(parameters, quantisable, each * (prompt + profile.max_new_tokens), whole=True)


def _image_tokens(config: Mapping[str, Any], profile: Profile) -> int:
    """Estimate the tokens of one image, which depend on its shape for some families."""
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if config.get(name):
            return int(config[name]) * (5 if "image_grid_pinpoints" in config else 1)  # a whole view and four tiles
    vision = config.get("vision_config") or {}
    side = int(vision.get("patch_size", 14)) * int(vision.get("spatial_merge_size", 1))
    pixels = profile.most_pixels or profile.side * profile.side * 5 // 4
    return pixels // side**2


def _cached_numbers(words: Mapping[str, Any]) -> int:
    """Numbers in the key-value cache of one token of a language model."""
    heads = int(words["num_attention_heads"])
    width = int(words.get("head_dim") or int(words["hidden_size"]) // heads)
    return 2 * int(words["num_hidden_layers"]) * int(words.get("num_key_value_heads") or heads) * width


def _tensors(paths: Iterable[Path]) -> Iterator[tuple[Path, str, int]]:
    """Yield file, name and number of elements of every tensor.

    Raises:
        ModelError: if a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    for path in paths:
        try:
            file: Any = safe_open(path, framework="numpy")
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                yield path, name, math.prod(file.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the model's file {path.name} cannot be read ({type(error).__name__})") from error


def in_words(number: int) -> str:
    """Format bytes as GiB, or as MiB below one GiB."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def memory_of_machine() -> int | None:
    """Bytes of main memory, or None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
