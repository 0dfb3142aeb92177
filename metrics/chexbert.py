"""CheXbert (Smit et al. 2020): a BERT that labels a report with the fourteen observations, and the F1 of its labels.

The published file ``chexbert.pth`` is for academic, non-commercial use and may not be redistributed, so the user names
its path. Architecture and text preparation are those of https://github.com/stanfordmlgroup/CheXbert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metrics.annotations import Row, annotate, refuse_constant
from metrics.base import HubFile, InputError, Precision, WeightsError, checked_texts, option, sha256_of
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN, LabelF1, LabelOptions
from metrics.model_files import bert_sizes, read_object

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from metrics.base import Settings

    Found = tuple[list[int], NDArray[np.float32]]

WEIGHTS = HubFile(
    "StanfordAIMI/RRG_scorers",
    "chexbert.pth",
    "CheXbert weights",
    "--chexbert FILE",
    "or take chexbert out of --metrics, where rules is a labeler without weights",
)
VOCABULARY = HubFile(
    "google-bert/bert-base-uncased", "vocab.txt", "CheXbert's vocabulary", "--bert-vocab DIR", "it is 230 kB"
)
_CONFIG_HINT = "a config.json in the folder of vocab.txt must be that of the same BERT"
_MAX_TOKENS = 512
_UNKNOWN_SHARE = 0.2


# Tables of CheXbert and CheXpert write labels so.
_CODES = {"": BLANK, "nan": BLANK, "1": POSITIVE, "1.0": POSITIVE, "0": NEGATIVE, "0.0": NEGATIVE}
_CODES |= {"-1": UNCERTAIN, "-1.0": UNCERTAIN}


@dataclass(frozen=True)
class CheXbertOptions:
    """Files of CheXbert.

    Attributes:
        chexbert: CheXbert's weights, chexbert.pth.
        bert_vocab: Vocabulary of bert-base-uncased: vocab.txt or its folder.
    """

    chexbert: Path | None = option(None, metavar="FILE")
    bert_vocab: Path | None = option(None, metavar="DIR")


class CheXbertF1(LabelF1):
    """F1 of CheXbert's labels as a registered metric."""

    kind = "chexbert"
    labeler = "CheXbert"
    summary = "macro and micro F1 of CheXbert's labels; uncertain counts as negative"
    citation = "Smit, A. et al. CheXbert: Combining automatic labelers and expert annotations. 2020."
    options: ClassVar = (LabelOptions, CheXbertOptions)
    weights: ClassVar = (WEIGHTS, VOCABULARY)
    headline = "chexbert_macro_f1_14"

    def load(self) -> CheXbert:
        """Find the weights; they are read when the first text is labelled.

        Raises:
            WeightsError: if a file is missing.
        """
        return CheXbert.of(self.settings)

    @classmethod
    def from_row(cls, row: Row, where: str) -> list[int] | None:
        """Return the codes in a row of a file: a list under ``chexbert``, or a column for each observation.

        Raises:
            InputError: if the labels are malformed.
        """
        value = row.get("chexbert")
        absent = [name for name in CLASSES if name not in row]
        if value is None and 0 < len(absent) < len(CLASSES) // 2:
            raise InputError(f"{where}: there is no column '{absent[0]}'")
        if value is None and not absent:
            try:
                return [_CODES[str("" if row[name] is None else row[name]).strip().lower()] for name in CLASSES]
            except KeyError:
                raise InputError(f"{where}: labels must be 1, 0, -1 or empty") from None
        if value is not None and (
            not isinstance(value, list)
            or len(value) != len(CLASSES)
            or not all(isinstance(code, int) and BLANK <= code <= UNCERTAIN for code in value)
        ):
            raise InputError(f"{where}: chexbert must be {len(CLASSES)} codes from 0 to 3")
        return value


class CheXbert:
    """CheXbert's labeler.

    Args:
        weights: ``chexbert.pth``, or its folder; None looks in the hub cache.
        vocabulary: ``vocab.txt`` of bert-base-uncased, or its folder (a ``config.json`` in it gives the sizes of the
            model); None looks in the hub cache.
        device: device of the model.
        precision: bfloat16 is about four times as fast on a CPU and can change labels that are nearly a tie.
        allow_download: fetch files that are not in the hub cache.

    Raises:
        WeightsError: if a file is missing, damaged, or not of this model.

    Attributes:
        weights_id: id of weights, vocabulary and precision.
        forwards: number of reports that went through the model so far.
        warnings: remarks for a reader of the labels.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        vocabulary: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        allow_download: bool = False,
    ) -> None:
        import torch
        from tokenizers import BertWordPieceTokenizer

        self._file = WEIGHTS.find(weights, allow_download=allow_download)
        vocab = VOCABULARY.find(vocabulary, allow_download=allow_download)
        self.weights_id = f"chexbert:{sha256_of(self._file)[:16]}-{sha256_of(vocab)[:8]}-{precision}"
        self._tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._config = vocab.with_name("config.json")
        self._device, self._precision = torch.device(device), precision
        self._model: nn.Module | None = None
        self._remembered: dict[str, Found] | None = None
        self.forwards = 0
        self.warnings: list[str] = []

    @classmethod
    def of(cls, settings: Settings) -> CheXbert:
        """Make the labeler that an evaluation's options describe.

        Raises:
            WeightsError: if a file is missing.
        """
        files = settings.of(CheXbertOptions)
        return cls(
            files.chexbert,
            vocabulary=files.bert_vocab,
            device=settings.device,
            precision=settings.precision,
            allow_download=settings.allow_download,
        )

    def remember(self) -> None:
        """Keep codes and states of every text from now on, so that labels and states of it take one pass."""
        self._remembered = {} if self._remembered is None else self._remembered

    def label(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.int8]:
        """Return the codes of :mod:`metrics.labels` for N texts: ``[N, 14]``.

        Raises:
            WeightsError: if 20 or more different texts all get the same codes.
            InputError: if ``texts`` is not a list of strings.
        """
        import numpy as np

        texts = checked_texts(texts)
        rows = annotate(texts, lambda some: self.portions(some, batch_size=batch_size))
        refuse_constant(texts, rows, "CheXbert")
        return np.array(rows, dtype=np.int8)

    def portions(self, texts: Sequence[str], *, batch_size: int = 8) -> Iterator[list[list[int]]]:
        """Yield the codes of texts in their order, in portions of sixteen batches."""
        for part in self._portions(texts, batch_size):
            yield [codes for codes, _ in part]

    def states(self, texts: Sequence[str], *, batch_size: int = 8) -> Iterator[list[NDArray[np.float32]]]:
        """Yield BERT's last state of [CLS], ``[D]``, of texts in their order, in portions of sixteen batches."""
        for part in self._portions(texts, batch_size):
            yield [state for _, state in part]

    def _portions(self, texts: Sequence[str], batch_size: int) -> Iterator[list[Found]]:
        for start in range(0, len(texts), 16 * batch_size):
            some = texts[start : start + 16 * batch_size]
            known = self._remembered or {}
            found = {text: known[text] for text in some if text in known}
            new = [text for text in dict.fromkeys(some) if text not in found]
            found |= zip(new, self._portion(new, batch_size), strict=True)
            if self._remembered is not None:
                self._remembered |= found
            yield [found[text] for text in some]

    def _portion(self, texts: Sequence[str], batch_size: int) -> list[Found]:
        """Label in batches of similar length, which need little padding. On a CPU larger batches than 8 are slower."""
        import torch

        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        results: dict[int, Found] = {}
        for start in range(0, len(order), batch_size):
            model = self._loaded()
            some = order[start : start + batch_size]
            longest = max(len(encoded[index]) for index in some)
            tokens = torch.zeros(len(some), longest, dtype=torch.long)
            mask = torch.zeros(len(some), longest, dtype=torch.long)
            for row, index in enumerate(some):
                tokens[row, : len(encoded[index])] = torch.tensor(encoded[index])
                mask[row, : len(encoded[index])] = 1
            with torch.inference_mode():
                states = _first_states(model, tokens.to(self._device), mask.to(self._device))
                codes = torch.stack([head(states).argmax(dim=1) for head in model.linear_heads], dim=1).tolist()
            self.forwards += len(some)
            results |= zip(some, zip(codes, states.float().cpu().numpy(), strict=True), strict=True)
        return [results[index] for index in range(len(texts))]

    def _encode(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(re.sub(r"\s+", " ", text).strip())
        unknown = encoding.tokens.count("[UNK]")
        if unknown > _UNKNOWN_SHARE * len(encoding.tokens) and not self.warnings:
            self.warnings.append("CheXbert does not know over 20 % of the tokens of some report: check --bert-vocab")
        ids: list[int] = encoding.ids
        return ids

    def _loaded(self) -> Any:
        if self._model is None:
            import torch

            from metrics.onednn import with_onednn

            model = load_labeler(self._file, self._config if self._config.is_file() else None)
            dtype = torch.bfloat16 if self._precision == "bfloat16" else torch.float32
            self._model = with_onednn(model.to(device=self._device, dtype=dtype).eval())
        return self._model


def _build(config: Any) -> nn.Module:
    """Build BERT and fourteen heads on [CLS]; parameter names are those of the published file."""
    from torch import nn
    from transformers import BertModel

    sizes = [4] * (len(CLASSES) - 1) + [2]  # "No Finding" is blank or positive
    model = nn.Module()
    model.bert = BertModel(config)
    model.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in sizes)
    return model


def _first_states(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the last states of [CLS] ``[B, D]`` of tokens ``[B, T]``."""
    states: torch.Tensor = model.bert(tokens, attention_mask=mask).last_hidden_state[:, 0]
    return states


def load_labeler(path: Path, config: Path | None = None) -> nn.Module:
    """Load CheXbert from a file, with or without ``module.`` before its names and ``position_ids`` among them.

    Args:
        path: torch file of the state, or with the state under ``model_state_dict``.
        config: configuration of another BERT than bert-base-uncased.

    Raises:
        WeightsError: if the file is damaged or not of this model.
    """
    import torch
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
    sizes: dict[str, Any] = {}
    try:
        if config is not None:
            sizes = bert_sizes(read_object(config), config.name, _CONFIG_HINT)
        with torch.device("meta"):
            model = _build(BertConfig(**sizes))
    except WeightsError:
        raise
    except Exception as error:  # transformers and the hub's library raise types of their own
        raise WeightsError(
            f"CheXbert's config.json cannot be used ({type(error).__name__})", hint=_CONFIG_HINT
        ) from error
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
                hint=_CONFIG_HINT,
            )
    model.load_state_dict(state, assign=True)
    # buffers that are not in the file have no storage yet
    bert: Any = model.bert
    bert.embeddings.position_ids = torch.arange(bert.config.max_position_embeddings).unsqueeze(0)
    bert.embeddings.token_type_ids = torch.zeros_like(bert.embeddings.position_ids)
    return model
