"""The tokenizer of a published model, and what its own chat template puts around a user's words."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from encoder.backbones.base import first_line
from encoder.errors import ModelError
from llava_rad.model.assemble import read_tokens
from llava_rad.model.config import TokenIds
from llava_rad.model.templates import IMAGE
from llava_rad.model.tokenizer import Tokens

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PROBE = "\u241f probe \u241f"


def tokens_of(folder: Path, text: Mapping[str, Any], pad: int | None, vocabulary: int, what: str) -> Tokens:
    """Read a tokenizer whose folder is not a language model's.

    Args:
        folder: with ``tokenizer.json`` or ``tokenizer.model``.
        text: configuration of the language model, for the ids of its special tokens.
        pad: id of the padding where the whole model's configuration has one.
        vocabulary: rows of the embedding.
        what: what errors call the source.

    Raises:
        ModelError: it cannot be read, or has tokens without an embedding.
    """
    # by way of a folder of its own: transformers looks into config.json, which may name a model with remote code
    with tempfile.TemporaryDirectory(prefix="llava-rad-tokenizer-") as own:
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(own) / name)
        (Path(own) / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
        ids = {"eos_token_id": text["eos_token_id"], "bos_token_id": text["bos_token_id"], "pad_token_id": pad}
        tokens = read_tokens(Path(own), ids, what)
    if tokens.tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(f"the tokenizer of {what} has more tokens than the model has embeddings")
    pad = pad if pad is not None and 0 <= pad < vocabulary else 0
    return Tokens(tokens.tokenizer, TokenIds(bos=tokens.ids.bos, eos=tokens.ids.eos, pad=pad))


def kept_in_text(tokens: Tokens, names: Collection[str], what: str) -> Tokens:
    """The same tokenizer, in which tokens of a model's answers are no special ones: decoding would leave those out.

    Raises:
        ModelError: one of them is missing.
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
    """What a folder's chat template puts around a user's words, ``{}``, after the system text; None if it has none.

    The template is rendered by transformers in Jinja's sandbox.

    Raises:
        ModelError: it cannot be rendered, or begins with another text.
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
    """The template in ``chat_template.jinja``, ``chat_template.json`` or ``tokenizer_config.json``."""
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
                if isinstance(found, str):
                    return found
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"the chat template of {what} cannot be read ({type(error).__name__})") from error
    return None


def _empty() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE())
