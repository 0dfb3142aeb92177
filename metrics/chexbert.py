"""CheXbert (Smit et al. 2020): a BERT that labels a report with the fourteen observations.

The published file ``chexbert.pth`` is for academic, non-commercial use and may not be passed on, so it is read from
where the user has it. Architecture and text preparation are those of https://github.com/stanfordmlgroup/CheXbert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from metrics.errors import WeightsError
from metrics.labels import CLASSES, refuse_constant
from metrics.onednn import with_onednn
from metrics.texts import checked_texts
from metrics.weights import SCORERS, HubFile, sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["float32", "bfloat16"]

WEIGHTS = HubFile(
    SCORERS,
    "chexbert.pth",
    "CheXbert weights",
    "--chexbert FILE",
    "or take chexbert out of --metrics, where rules is a labeler without weights",
)
VOCABULARY = HubFile(
    "google-bert/bert-base-uncased", "vocab.txt", "CheXbert's vocabulary", "--bert-vocab DIR", "it is 230 kB"
)
_MAX_TOKENS = 512
_UNKNOWN_SHARE = 0.2


class _Labeler(nn.Module):
    """BERT and fourteen heads on [CLS]; parameter names are those of the published file."""

    def __init__(self, config: Any) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel(config)
        sizes = [4] * (len(CLASSES) - 1) + [2]  # "No Finding" is blank or positive
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in sizes)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Codes ``[B, 14]`` of tokens ``[B, T]``."""
        first = self.bert(tokens, attention_mask=mask).last_hidden_state[:, 0]
        return torch.stack([head(first).argmax(dim=1) for head in self.linear_heads], dim=1)


class CheXbert:
    """The labeler.

    Args:
        weights: ``chexbert.pth``, or the folder it is in; None looks in the hub cache.
        vocabulary: ``vocab.txt`` of bert-base-uncased, or the folder it is in (with ``config.json``, its sizes are
            taken from there); None looks in the hub cache.
        device: of torch.
        precision: bfloat16 is about four times as fast on a CPU and can change labels that are nearly a tie.
        allow_download: whether the hub may be asked.

    Raises:
        WeightsError: a file is missing, damaged, or not of this model.
    """

    name = "chexbert"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        vocabulary: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        allow_download: bool = False,
    ) -> None:
        from tokenizers import BertWordPieceTokenizer

        self._file = WEIGHTS.find(weights, allow_download=allow_download)
        vocab = VOCABULARY.find(vocabulary, allow_download=allow_download)
        self.weights_id = f"{sha256_of(self._file)[:16]}-{sha256_of(vocab)[:8]}-{precision}"
        self._tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._config = vocab.with_name("config.json")
        self._device, self._precision = torch.device(device), precision
        self._model: _Labeler | None = None
        self.forwards = 0
        self.warnings: list[str] = []

    def label(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.int8]:
        """Codes of :mod:`metrics.labels` for N texts: ``[N, 14]``.

        Raises:
            WeightsError: 20 or more different texts all get the same codes.
            InputError: not a list of strings.
        """
        import numpy as np

        texts = checked_texts(texts)
        different = list(dict.fromkeys(texts))
        rows = [row for portion in self.portions(different, batch_size=batch_size) for row in portion]
        refuse_constant(different, rows, "CheXbert")
        known = dict(zip(different, rows, strict=True))
        return np.array([known[text] for text in texts], dtype=np.int8)

    def portions(self, texts: Sequence[str], *, batch_size: int = 8) -> Iterator[list[list[int]]]:
        """The same in the order given, as it comes: long lists are labelled in portions of sixteen batches."""
        for start in range(0, len(texts), 16 * batch_size):
            yield self._portion(texts[start : start + 16 * batch_size], batch_size)

    def _portion(self, texts: Sequence[str], batch_size: int) -> list[list[int]]:
        """Batches of similar length waste little on padding; on a CPU large ones are slower than batches of 8."""
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        codes: list[list[int]] = [[] for _ in texts]
        model = self._loaded()
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            longest = max(len(encoded[index]) for index in some)
            tokens = torch.zeros(len(some), longest, dtype=torch.long)
            mask = torch.zeros(len(some), longest, dtype=torch.long)
            for row, index in enumerate(some):
                tokens[row, : len(encoded[index])] = torch.tensor(encoded[index])
                mask[row, : len(encoded[index])] = 1
            with torch.inference_mode():
                found = model(tokens.to(self._device), mask.to(self._device)).tolist()
            self.forwards += len(some)
            for index, row_codes in zip(some, found, strict=True):
                codes[index] = row_codes
        return codes

    def _encode(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(re.sub(r"\s+", " ", text).strip())
        unknown = encoding.tokens.count("[UNK]")
        if unknown > _UNKNOWN_SHARE * len(encoding.tokens) and not self.warnings:
            self.warnings.append("CheXbert does not know over 20 % of the tokens of some report: check --bert-vocab")
        ids: list[int] = encoding.ids
        return ids

    def _loaded(self) -> _Labeler:
        if self._model is None:
            model = load_labeler(self._file, self._config if self._config.is_file() else None)
            dtype = torch.bfloat16 if self._precision == "bfloat16" else torch.float32
            self._model = with_onednn(model.to(device=self._device, dtype=dtype).eval())
        return self._model


def load_labeler(path: Path, config: Path | None = None) -> _Labeler:
    """Read a file of CheXbert's form: with or without ``module.`` before its names and ``position_ids`` among them.

    Args:
        path: a torch file of the state, or with the state under ``model_state_dict``.
        config: of another BERT than bert-base-uncased.

    Raises:
        WeightsError: not such a file.
    """
    from transformers import BertConfig

    layout = "a torch file with 'model_state_dict': bert.* and linear_heads.0 to linear_heads.13"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state = saved.get("model_state_dict", saved)
        state = {name.removeprefix("module."): value for name, value in state.items()}
    except Exception as error:  # torch raises anything on a damaged file
        raise WeightsError(
            f"{path.name} cannot be read as CheXbert's weights ({type(error).__name__})", hint=f"expected: {layout}"
        ) from error
    state = {name: value for name, value in state.items() if not name.endswith(".position_ids")}
    with torch.device("meta"):
        model = _Labeler(BertConfig.from_json_file(config) if config else BertConfig())
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    if missing or extra:
        fault = f"{missing[0]} is missing" if missing else f"{extra[0]} does not belong there"
        raise WeightsError(
            f"{path.name} is not CheXbert: {fault} ({len(missing)} missing, {len(extra)} unknown)",
            hint=f"expected: {layout}",
        )
    for name, value in wanted.items():
        if not isinstance(state[name], torch.Tensor) or state[name].shape != value.shape:
            raise WeightsError(
                f"{path.name} is not CheXbert: {name} has another shape than {list(value.shape)}",
                hint="a config.json beside vocab.txt must be that of the same BERT",
            )
    model.load_state_dict(state, assign=True)
    # buffers that are not in the file were made without storage
    model.bert.embeddings.position_ids = torch.arange(model.bert.config.max_position_embeddings).unsqueeze(0)
    model.bert.embeddings.token_type_ids = torch.zeros_like(model.bert.embeddings.position_ids)
    return model
