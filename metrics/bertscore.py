"""BERTScore (Zhang et al. 2020) by the package ``bert_score``, with the same results under transformers 5 as before.

Three repairs: RoBERTa's tokenizers get their prefix space when they are loaded, because the option is ignored later
(without it the first word is another token and all scores change); texts are cut at the longest input of the model; a
pair with an empty text scores 0 instead of raising an error.
"""

from __future__ import annotations

import contextlib
import csv
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metrics.base import HubFile, InputError, Metric, MetricError, checked_pairs, option, sha256_of
from metrics.model_files import PREFIX_SPACE, find_folder, folder_id, load_folder
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.base import Settings
    from metrics.scores import Floats

MODEL = "FacebookAI/roberta-large"
"""The package's choice for English."""
WEIGHTS = HubFile(MODEL, "model.safetensors", "BERTScore's model", "--bertscore-model DIR with --bertscore-layers N")
_OLD_NAMES = {
    "FacebookAI/roberta-large": "roberta-large", "google-bert/bert-base-uncased": "bert-base-uncased",
    "distilbert/distilroberta-base": "distilroberta-base",
}  # fmt: skip


@dataclass(frozen=True)
class BERTScoreOptions:
    """Options of BERTScore.

    Attributes:
        bertscore_model: Folder or hub repository of BERTScore's model.
        bertscore_layers: Layer whose output BERTScore compares.
        bertscore_baseline: Table LAYER, P, R, F to rescale BERTScore with.
    """

    bertscore_model: str | None = option(None, metavar="DIR-OR-HUB-ID")
    bertscore_layers: int | None = option(None, minimum=1)
    bertscore_baseline: Path | None = option(None, metavar="FILE")


class BERTScoreF1(Metric):
    """BERTScore as a registered metric."""

    summary = "BERTScore precision, recall and F1, means over reports"
    citation = "Zhang, T. et al. BERTScore: Evaluating text generation with BERT. 2020."
    options: ClassVar = (BERTScoreOptions,)
    weights: ClassVar = (WEIGHTS,)
    titles: ClassVar = {
        "bertscore_precision": "BERTScore precision",
        "bertscore_recall": "BERTScore recall",
        "bertscore_f1": "BERTScore F1",
    }
    headline = "bertscore_f1"
    leading = ("bertscore_f1", "bertscore_precision", "bertscore_recall")

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        own = settings.of(BERTScoreOptions)
        self._scorer = BERTScore(
            own.bertscore_model or MODEL,
            layers=own.bertscore_layers,
            baseline=own.bertscore_baseline,
            device=settings.device,
            allow_download=settings.allow_download,
        )

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :meth:`BERTScore.score`."""
        return self._scorer.score(candidates, references)


class BERTScore:
    """The model of BERTScore.

    Args:
        model: local folder (config, tokenizer, safetensors), or hub repository.
        layers: layer whose output is compared; by default the package's choice for repositories that it knows.
        baseline: table with the columns LAYER, P, R, F of a baseline to rescale with; by default none.
        idf: weigh words by their rarity among the references instead of alike.
        device: device of the model.
        batch_size: sentences at a time.
        allow_download: fetch a model that is not in the hub cache.
        file: content and option of the model, for messages.

    Raises:
        WeightsError: if the model cannot be loaded.
        InputError: if the number of layers must be given, or the baseline has no such layer.
        MetricError: if the package is not installed.
    """

    def __init__(
        self,
        model: str | Path = MODEL,
        *,
        layers: int | None = None,
        baseline: str | Path | None = None,
        idf: bool = False,
        device: str = "cpu",
        batch_size: int = 16,
        allow_download: bool = False,
        file: HubFile = WEIGHTS,
    ) -> None:
        try:
            from bert_score.utils import model2layers
        except ImportError as error:
            raise MetricError(
                "BERTScore needs the package bert-score", hint="pip install 'llava-rad[metrics]'"
            ) from error
        from metrics.onednn import with_onednn

        name = str(model)
        folder = find_folder(name, file, old_name=_OLD_NAMES.get(name), allow_download=allow_download)
        layers = layers or model2layers.get(_OLD_NAMES.get(name, name))
        if layers is None:
            raise InputError(f"which layer of {name} BERTScore is to take is not known", hint="give --bertscore-layers")
        # many are published with the head of their pre-training, which is left over
        config, self._tokenizer, self._model = load_folder(
            folder, file.what, "AutoModel", left_over=True, add_prefix_space=True
        )
        _keep_layers(self._model, layers)
        # positions 0 and 1 of RoBERTa are not for text
        room = getattr(config, "max_position_embeddings", 512) - (2 if config.model_type in PREFIX_SPACE else 0)
        self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, room)
        self._model = with_onednn(self._model.to(device).eval())
        self._device, self._batch_size, self._idf = device, batch_size, idf
        self._baseline = _baseline(Path(baseline), layers) if baseline else None
        shown = name if _OLD_NAMES.get(name) else folder.name if Path(name).is_dir() else name
        rescaled = f"rescaled:{sha256_of(Path(baseline))[:8]}" if baseline else "rescaled:no"
        weighted = "references" if idf else "no"
        self.signature = (
            f"bertscore|model:{shown}|layers:{layers}|idf:{weighted}|{rescaled}|weights:{folder_id(folder)}"
        )

    def score(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs: precision, recall and F1, means over reports.

        Returns:
            ``bertscore_precision``, ``bertscore_recall``, ``bertscore_f1``. A pair with a blank text scores 0.

        Raises:
            InputError: see :func:`metrics.base.checked_pairs`.
        """
        import numpy as np
        from bert_score.utils import bert_cos_score_idf

        candidates, references = checked_pairs(candidates, references)
        values: Floats = np.zeros((len(candidates), 3))
        rows = [
            row
            for row, (candidate, reference) in enumerate(zip(candidates, references, strict=True))
            if candidate.strip() and reference.strip()
        ]
        if rows:
            weights = self._weights(references)
            with contextlib.redirect_stdout(sys.stderr):  # the package prints its progress on standard output
                found = bert_cos_score_idf(
                    self._model,
                    [references[row] for row in rows],
                    [candidates[row] for row in rows],
                    self._tokenizer,
                    weights,
                    verbose=sys.stderr.isatty(),
                    device=self._device,
                    batch_size=self._batch_size,
                )
            values[rows] = found.double().numpy()
            if self._baseline is not None:
                values[rows] = (values[rows] - self._baseline) / (1 - self._baseline)
        names = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
        return mean_scores({name: values[:, column] for column, name in enumerate(names)}, self.signature)

    def _weights(self, references: Sequence[str]) -> Mapping[int, float]:
        """Return the weight of each token: 1 and of start and end 0, or the rarity among the references."""
        if self._idf:
            from bert_score.utils import get_idf_dict

            found: Mapping[int, float] = get_idf_dict([text for text in references if text], self._tokenizer, 0)
            return found
        weights: defaultdict[int, float] = defaultdict(lambda: 1.0)
        weights[self._tokenizer.sep_token_id] = weights[self._tokenizer.cls_token_id] = 0.0
        return weights


def _keep_layers(model: Any, layers: int) -> None:
    """Remove the layers above the one that is compared."""
    from torch import nn

    for holder in (getattr(model, "encoder", None), getattr(model, "transformer", None)):
        stack = getattr(holder, "layer", None)
        if isinstance(stack, nn.ModuleList):
            if not 1 <= layers <= len(stack):
                raise InputError(f"the BERTScore model has layers 1 to {len(stack)}, not {layers}")
            holder.layer = stack[:layers]  # type: ignore[union-attr]
            return
    raise InputError(
        f"{type(model).__name__} is not a model that BERTScore can be taken from here (BERT, RoBERTa, ...)"
    )


def _baseline(path: Path, layers: int) -> Floats:
    import numpy as np

    try:
        lines = path.read_text(encoding="utf-8").splitlines()  # the package's own are named .tsv and have commas
        table = csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ",")
        rows = {int(row["LAYER"]): [float(row[name]) for name in ("P", "R", "F")] for row in table}
        if not rows:
            raise ValueError
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path.name} is not a BERTScore baseline (columns LAYER, P, R, F)") from error
    if layers not in rows:
        raise InputError(f"{path.name} has no layer {layers}")
    return np.array(rows[layers])
