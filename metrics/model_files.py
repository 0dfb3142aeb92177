"""Models' folders, which others wrote: found in the hub's cache, JSON read with limits, weights loaded whole."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metrics.base import HubFile, WeightsError, sha256_of

MAX_BYTES: Final = 16 << 20
"""Largest file that is read; a configuration has a few kB, a tokenizer's settings up to a few MB."""
_SIZES: Final = {
    "vocab_size": 1 << 20, "hidden_size": 1 << 14, "num_hidden_layers": 128, "num_attention_heads": 1 << 10,
    "intermediate_size": 1 << 16, "max_position_embeddings": 1 << 16, "type_vocab_size": 1 << 10,
    "pad_token_id": 1 << 20,
}  # fmt: skip
"""Entries of a BERT's configuration that are whole numbers, and the largest that is built."""
_OTHERS: Final = ("layer_norm_eps", "hidden_act")
_FILES: Final = (
    "config.json", "*.safetensors*", "tokenizer*", "vocab*", "merges.txt", "spm.model", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_JSON: Final = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PREFIX_SPACE: Final = frozenset({"roberta", "gpt2", "longformer", "bart", "camembert", "xlm-roberta"})
"""Types of models whose tokenizers mark the beginning of a word, so that the first word needs a space before it."""
FOLDER_HINT: Final = "expected: config.json, model.safetensors and the tokenizer's files"


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a pipe or a device is refused at once, not waited for.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, larger than :data:`MAX_BYTES`, or holds no object.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise ValueError("not a regular file, or too large")
        try:
            found = json.loads(file.read(status.st_size))
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def bert_sizes(config: Mapping[str, Any], shown: str, hint: str) -> dict[str, Any]:
    """Return the entries of a ``config.json`` that a BERT is built from.

    All others are dropped: transformers would fetch and run code from the hub for some (``attn_implementation``).

    Args:
        config: contents of ``config.json``.
        shown: name of the file in the error message.
        hint: advice of the error message.

    Raises:
        WeightsError: if a size is out of range; a network of a billion layers would be built for hours.
    """
    for name, largest in _SIZES.items():
        value = config.get(name, 1)
        if value is None and name == "pad_token_id":
            continue
        if type(value) is not int or not -1 <= value <= largest:
            raise WeightsError(f"{shown} has no usable {name}", hint=hint)
    return {name: config[name] for name in (*_SIZES, *_OTHERS) if name in config}


def find_folder(name: str, file: HubFile, *, old_name: str | None = None, allow_download: bool = False) -> Path:
    """Return the local folder of a model in transformers' format.

    Args:
        name: local folder, or hub repository.
        file: content and option of the model, for messages.
        old_name: another name of the same repository, under which a cache may have it.
        allow_download: fetch a model that is not in the hub cache.

    Raises:
        WeightsError: if it is not found.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith("."):
        raise WeightsError(f"{file.what} not found: {path} is no folder", hint=f"give {file.option}")
    from huggingface_hub import constants, snapshot_download

    for repository in filter(None, (name, old_name)):
        try:
            offline = not allow_download or constants.HF_HUB_OFFLINE
            return Path(snapshot_download(repository, allow_patterns=list(_FILES), local_files_only=offline))
        except Exception as error:  # the hub's errors, and those of a malformed name
            reason = error
    why = f"the hub did not give it ({type(reason).__name__})" if allow_download else "downloading is off"
    raise WeightsError(
        f"{file.what} not found: hub repository {name} (config.json, model.safetensors, tokenizer) "
        f"is not in the cache and {why}",
        hint=f"give {file.option}, or --allow-download to fetch it",
    )


def load_folder(
    folder: Path, what: str, kind: str, *, left_over: bool = False, **tokenizer: Any
) -> tuple[Any, Any, Any]:
    """Load configuration, tokenizer and model of a folder, with neither code nor pickle of others.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        what: name of the model, for messages.
        kind: transformers' class, such as ``AutoModel``.
        left_over: allow weights that the class does not have, such as the head of a pre-training.
        tokenizer: options of the tokenizer, for models of the RoBERTa kind alone.

    Raises:
        WeightsError: if it cannot be loaded, or weights are missing; those of the pooler, which nobody here uses, may.
    """
    import transformers
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        for file in _JSON:
            if (folder / file).exists() or file == "config.json":
                read_object(folder / file)
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise ValueError("quantised weights are not read")
        bert_sizes(config.to_dict(), "config.json", FOLDER_HINT)
        config._attn_implementation = None  # a file may name code to be fetched from the hub
        options = tokenizer if config.model_type in PREFIX_SPACE else {}
        made = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
        model, report = getattr(transformers, kind).from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
        faults = [*report["missing_keys"], *([] if left_over else report["unexpected_keys"])]
        faults = [name for name in faults if "pooler." not in name and not name.endswith("position_ids")]
        if faults:
            raise WeightsError(
                f"{what} in {folder.name}: {min(faults)} is missing or does not belong there", hint=FOLDER_HINT
            )
    except WeightsError:
        raise
    except Exception as error:  # transformers and the hub's library raise types of their own
        raise WeightsError(
            f"{what} in {folder.name} cannot be loaded ({type(error).__name__})", hint=FOLDER_HINT
        ) from error
    return config, made, model


def folder_id(folder: Path) -> str:
    """Return the first digits of the SHA-256 of each file of weights in a folder."""
    return "-".join(sha256_of(path)[:16] for path in sorted(folder.glob("*.safetensors")))
