"""Word embeddings of a language model that another engine runs: prompts are embedded here, the rest is not loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from encoder.errors import LlavaRadError, ModelError
from llava_rad.generation.llama import read_llama
from llava_rad.model.config import check_language_model, positions

_TABLE = "model.embed_tokens.weight"


@dataclass(frozen=True)
class WordEmbeddings:
    """The part of ``llava_rad.generation.llama.Llama`` that embeds prompts.

    Attributes:
        embedding: [V, D].
        longest: tokens that the language model takes.
    """

    embedding: torch.Tensor
    longest: int

    @property
    def width(self) -> int:
        """Width of the language model."""
        return self.embedding.shape[1]

    @property
    def device(self) -> torch.device:
        """Of the computation."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation."""
        return self.embedding.dtype

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> WordEmbeddings:
        """Read one tensor of a ``LlamaForCausalLM`` folder.

        Raises:
            LlavaRadError: if the folder holds an adapter.
            ModelError: if a file is missing or damaged, or does not fit.
        """
        refuse_adapter(folder)
        config, tensors = read_llama(folder)
        check_language_model(config)
        if _TABLE not in tensors:
            raise ModelError(f"the language model lacks the tensor {_TABLE}")
        table, shape = tensors[_TABLE], (int(config["vocab_size"]), int(config["hidden_size"]))
        if tuple(table.shape) != shape:
            raise ModelError(f"the language model's tensor {_TABLE} is {tuple(table.shape)}, not {shape}")
        return cls(table.to(device=device, dtype=dtype), positions(config))


def refuse_adapter(language_model: Path) -> None:
    """Refuse a folder that is no whole language model.

    Raises:
        LlavaRadError: if it holds an adapter.
    """
    if (language_model / "adapter_config.json").is_file():
        raise LlavaRadError(
            "the language model is an adapter, and vLLM is given whole models only",
            hint="merge the adapter into its base first, see docs/vllm.md",
        )
