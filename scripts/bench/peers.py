"""Other people's implementations, made to run from local files and under transformers 5."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any
from unittest import mock

from metrics.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

_CODES = {"": BLANK, 1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}


class F1CheXbert:
    """The package ``f1chexbert`` 0.0.2 with local weights and a tokenizer that has the method it calls.

    Args:
        weights: a file named ``chexbert.pth``.
        bert: folder with ``vocab.txt`` and ``config.json``.
    """

    def __init__(self, weights: Path, bert: Path) -> None:
        import f1chexbert.f1chexbert as package
        import torch
        from transformers import BertConfig, BertTokenizer

        tokenizer = BertTokenizer.from_pretrained(bert)

        def encode_plus(tokens: list[str]) -> dict[str, list[int]]:
            """What the method of transformers 4 gave for a list of tokens."""
            ids = tokenizer.convert_tokens_to_ids(tokens)
            return {"input_ids": [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]}

        tokenizer.encode_plus = encode_plus
        config = BertConfig.from_json_file(bert / "config.json")
        with (
            mock.patch.object(package, "CACHE_DIR", str(weights.parent)),
            mock.patch.object(package.BertTokenizer, "from_pretrained", lambda name: tokenizer),
            mock.patch.object(package.AutoConfig, "from_pretrained", lambda name: config),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self._labeler: Any = package.F1CheXbert(device=torch.device("cpu"))

    def label(self, texts: list[str]) -> list[list[int]]:
        """Codes of :mod:`metrics.labels`, one report at a time as the package does it."""
        import torch

        with torch.inference_mode():
            return [[_CODES[value] for value in self._labeler.get_label(text, mode="classification")] for text in texts]
