"""Writing a language model's folder, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from encoder.backbones.base import first_line, refuse_incomplete
from encoder.errors import ModelError
from llava_rad.conversion.weights import Stored
from llava_rad.model.llava_rad import greedy
from llava_rad.model.tokenizer import Tokens

if TYPE_CHECKING:
    from transformers import LlamaConfig

SHARD = 2 * 10**9
"""Bytes of a shard: so much is in memory at once."""


def llama_config(text: Mapping[str, Any], what: str) -> LlamaConfig:
    """transformers' configuration of a Llama from the JSON that a publisher gives, what it leaves out filled in.

    Raises:
        ModelError: it describes another model.
    """
    from transformers import LlamaConfig

    if text.get("model_type", "llama") != "llama":
        raise ModelError(f"the language model of {what} is a {text['model_type']!r} model, not 'llama'")
    left_out = ("model_type", "architectures", "_name_or_path", "dtype", "torch_dtype", "transformers_version")
    try:
        config = LlamaConfig(**{key: value for key, value in text.items() if key not in left_out})
    except Exception as error:  # transformers checks values with exceptions of several libraries
        raise ModelError(f"the language model's configuration of {what} is not valid: {first_line(error)}") from error
    config.architectures = ["LlamaForCausalLM"]
    config.tie_word_embeddings = False
    return config


def write_language_model(
    folder: Path,
    config: LlamaConfig,
    tensors: Mapping[str, Stored],
    tokens: Tokens,
    what: str,
    *,
    shard: int = SHARD,
) -> None:
    """Write ``config.json``, the weights and the tokenizer of a ``LlamaForCausalLM`` folder, each tensor in its type.

    Args:
        folder: to be made.
        config: of the model.
        tensors: under transformers' names (``model.…``, ``lm_head.weight``).
        tokens: its tokenizer.
        what: what errors call the source.
        shard: bytes of a file of weights at most, but for tensors that are longer.

    Raises:
        ModelError: a tensor is missing, left over or of another shape.
    """
    from safetensors.torch import save_file

    shapes = shapes_of(config)
    refuse_incomplete(
        {
            "missing_keys": sorted(shapes.keys() - tensors.keys()),
            "unexpected_keys": sorted(tensors.keys() - shapes.keys()),
            "mismatched_keys": sorted(k for k in shapes.keys() & tensors.keys() if shapes[k] != tensors[k].shape),
        },
        what,
    )
    folder.mkdir()
    config.dtype = tensors["model.embed_tokens.weight"].dtype
    config.save_pretrained(folder)
    greedy(tokens.ids).save_pretrained(folder)
    tokens.save(folder)
    groups = _in_shards({name: tensors[name] for name in shapes}, shard)
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
    """Names and shapes of a Llama's tensors, without memory."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _in_shards(tensors: Mapping[str, Stored], limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.bytes
    return groups
