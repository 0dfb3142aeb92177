"""Tokenizer of the language model, read by the ``tokenizers`` library alone: importing transformers takes seconds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ModelError
from encoder.json_files import read_json
from llava_rad.model.config import TokenIds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer


_REPEATS = re.compile(r"[*+]|\{[0-9]*,[0-9]*\}|\{[0-9]{2,}\}")
"""Repetition without a small limit."""
_ESCAPED = re.compile(rb"Regex|\\u00[4-7]")
"""Key of a pattern, or a letter written so that the key is not seen."""


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
            if _ESCAPED.search(path.read_bytes()) and any(map(_backtracks, _patterns(read_json(path)))):
                raise ModelError("the language model's tokenizer.json has a pattern that can take for ever")
            return cls(Tokenizer.from_file(str(path)), ids)
        except ModelError:
            raise
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


def _patterns(content: Any) -> Iterator[str]:
    """Yield the regular expressions of a ``tokenizer.json``; its vocabulary holds none."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == "Regex" and isinstance(value, str):
                yield value
            elif name not in ("vocab", "merges", "added_tokens"):
                yield from _patterns(value)
    elif isinstance(content, list):
        for value in content:
            yield from _patterns(value)


def _backtracks(pattern: str) -> bool:
    """Tell whether a repeated group of a pattern repeats something itself or has alternatives, as ``(a+)+`` does.

    Such patterns may take exponential time, at whose limit the library ends the thread. No published tokenizer has one.
    """
    pattern = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    pattern = re.sub(r"\[\^?\]?[^\]]*\]", "x", pattern)  # sets of characters
    varies = [False]  # of each open group
    at = 0
    while at < len(pattern):
        character = pattern[at]
        repeats = _REPEATS.match(pattern, at)
        if character == "(":
            varies.append(False)
        elif character == ")" and len(varies) > 1:
            inside = varies.pop()
            varies[-1] |= inside
            if inside and _REPEATS.match(pattern, at + 1):
                return True
        elif character == "|" or repeats:
            varies[-1] = True
        at = repeats.end() if repeats else at + 1
    return False
