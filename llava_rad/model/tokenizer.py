"""Tokenizer of the language model, read by the ``tokenizers`` library alone: importing transformers takes seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import ModelError
from llava_rad.model.config import TokenIds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """A tokenizer with the ids of its special tokens."""

    tokenizer: Tokenizer
    ids: TokenIds

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Ids that are never generated: ``<image>``, if the vocabulary has it."""
        image = self.tokenizer.token_to_id("<image>")
        return () if image is None else (image,)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode generated ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @classmethod
    def load(cls, folder: Path, ids: TokenIds) -> Tokens:
        """Read ``tokenizer.json`` of a language-model folder.

        Raises:
            ModelError: if the file is missing or not valid.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"the language model {folder.name} has no tokenizer.json")
        try:
            return cls(Tokenizer.from_file(str(path)), ids)
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise ModelError(f"the language model's tokenizer.json cannot be read ({type(error).__name__})") from error

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``, and ``tokenizer_config.json`` for transformers."""
        self.tokenizer.encode_special_tokens = False
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.tokenizer.id_to_token(self.ids.bos),
            "eos_token": self.tokenizer.id_to_token(self.ids.eos),
            "pad_token": self.tokenizer.id_to_token(self.ids.pad),
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
