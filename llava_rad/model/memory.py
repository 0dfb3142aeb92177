"""How much memory a checkpoint takes, read off the headers of its files; no weight is read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.errors import ModelError
from llava_rad.model.checkpoint import LANGUAGE_MODEL
from llava_rad.model.config import LlavaRadConfig

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_OF_LAYERS = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes of a weight of the language model's layers; in 4 bits each 64 of them have a scale
(llava_rad.generation.quantized)."""
_TEXTS = 512
"""Tokens of the texts of a prompt: LLaVA's has 57, MAIRA-2's with boxes and without fields some 200."""


@dataclass(frozen=True)
class Need:
    """What a checkpoint takes to write one report at a time.

    Attributes:
        parameters: numbers in the encoder, the projector and the language model.
        rounded: those of them that 8 and 4 bits are for.
        cached: numbers in the key-value cache of the longest prompt with one image, and its answer.
        whole: False where the language model is an adapter, whose base is not counted.
    """

    parameters: int
    rounded: int
    cached: int
    whole: bool

    def bytes(self, dtype: str) -> int:
        """Memory of weights and cache in a floating-point type, or in few bits and the rest in bfloat16."""
        each = _BYTES.get(dtype, 2.0)
        return round((self.parameters + self.cached) * each + self.rounded * (_OF_LAYERS.get(dtype, each) - each))


def need_of(folder: Path) -> Need:
    """Sizes of a checkpoint folder.

    Raises:
        ModelError: it is none, or a file of it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    config = LlavaRadConfig.load(folder)
    parameters = rounded = 0
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            file: Any = safe_open(path, framework="numpy")
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= int(length)
                parameters += size
                rounded += size if name.endswith("_proj.weight") and path.parent.name == LANGUAGE_MODEL else 0
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the checkpoint's file {path.name} cannot be read ({type(error).__name__})") from error
    whole = not (folder / LANGUAGE_MODEL / "adapter_config.json").is_file()
    if not whole:
        return Need(parameters, rounded, 0, whole=False)
    try:
        llama = json.loads((folder / LANGUAGE_MODEL / "config.json").read_text(encoding="utf-8"))
        heads = int(llama["num_attention_heads"])
        width = int(llama.get("head_dim") or int(llama["hidden_size"]) // heads)
        each = 2 * int(llama["num_hidden_layers"]) * int(llama.get("num_key_value_heads") or heads) * width
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the language model's config.json cannot be read ({type(error).__name__})") from error
    cached = each * (config.image_tokens + _TEXTS + config.generation.max_new_tokens)
    return Need(parameters, rounded, cached, whole=True)


def memory_of_machine() -> int | None:
    """Bytes of main memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
