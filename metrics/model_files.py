"""JSON of models' folders, which others wrote: read with limits, and of a BERT its sizes alone."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metrics.base import WeightsError

MAX_BYTES: Final = 16 << 20
"""Largest file that is read; a configuration has a few kB, a tokenizer's settings up to a few MB."""
_SIZES: Final = {
    "vocab_size": 1 << 20, "hidden_size": 1 << 14, "num_hidden_layers": 128, "num_attention_heads": 1 << 10,
    "intermediate_size": 1 << 16, "max_position_embeddings": 1 << 16, "type_vocab_size": 1 << 10,
    "pad_token_id": 1 << 20,
}  # fmt: skip
"""Entries of a BERT's configuration that are whole numbers, and the largest that is built."""
_OTHERS: Final = ("layer_norm_eps", "hidden_act")


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
