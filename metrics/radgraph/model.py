"""RadGraph inference: entities and relations of reports, equal to those of the package ``radgraph``.

The model is DyGIE++ (Wadden et al. 2019): BERT over the words, a score for every span of up to some words, and a score
for every ordered pair of the best spans. Reports go through BERT in batches of similar length; the package takes them
one by one and spends the same time again in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from metrics.annotations import annotate, refuse_constant
from metrics.base import HubFile, WeightsError, checked_texts, sha256_of
from metrics.model_files import bert_sizes, read_object
from metrics.onednn import with_onednn
from metrics.radgraph.archive import ARCHIVES, Archive, Kind, open_archive

Annotation = dict[str, Any]

# Punctuation that v1 separates; ",-:" is a range of the published pattern and holds , - . / 0-9 and :
_V1_SPACES = re.compile(r"(?<! )(?=[/,-,:,.,!?()])|(?<=[/,-,:,.,!?()])(?! )")
_WORD_OR_SIGNS = re.compile(r"\w+|[^\w\s]+")
_XL_BEFORE = (("\\n", "  "), ("\\f", "  "), ("\\u2122", "      "), ("\n", " "), ('\\"', "``"))
_XL_AFTER = ((").", ") ."), ("%.", "% ."), (".'", ". '"), ("%,", "% ,"), ("%)", "% )"))
_PAIRS_AT_A_TIME = 1 << 25  # floats of one block of pairs
_UNKNOWN_SHARE = 0.2


def words(text: str, model: Kind) -> list[str]:
    """Split a report into words as in the training of the model."""
    if model == "radgraph":
        return _V1_SPACES.sub(" ", text).split()
    for before, after in _XL_BEFORE:
        text = text.replace(before, after)
    text = " ".join(_WORD_OR_SIGNS.findall(text))
    for before, after in _XL_AFTER:
        text = text.replace(before, after)
    return text.split()


def pack(annotation: Annotation) -> list[Any]:
    """Return an annotation without any word of the report: ``[start, end, label, [[relation, target], ...]]`` each."""
    return [
        [entity["start_ix"], entity["end_ix"], entity["label"], entity["relations"]]
        for entity in annotation["entities"].values()
    ]


def unpack(text: str, packed: Sequence[Any], model: Kind) -> Annotation:
    """Return the annotation of a packed one and its text."""
    tokens = words(text, model)
    return {
        "text": " ".join(tokens),
        "entities": {
            str(number): {
                "tokens": " ".join(tokens[start : end + 1]),
                "label": label,
                "start_ix": start,
                "end_ix": end,
                "relations": relations,
            }
            for number, (start, end, label, relations) in enumerate(packed, 1)
        },
        "data_source": None,
        "data_split": "inference",
    }


class RadGraphModel:
    """A loaded model; see :meth:`load`.

    Attributes:
        model: ``radgraph`` or ``radgraph-xl``.
        weights_id: id of archive, vocabulary and precision.
        forwards: number of reports that went through the model so far.
        warnings: remarks for a reader of the annotations.
    """

    def __init__(
        self, archive: Archive, vocabulary: Path, config: Mapping[str, Any], kind: Kind, device: str, precision: str
    ) -> None:
        from tokenizers import BertWordPieceTokenizer
        from transformers import BertConfig, BertModel

        self.model = kind
        self.weights_id = f"{kind}:{archive.sha256[:16]}-{sha256_of(vocabulary)[:8]}-{precision}"
        self.forwards, self.warnings = 0, list[str]()
        self._archive, self._device = archive, torch.device(device)
        self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=bool(config.get("do_lower_case", True)))
        self._pieces: dict[str, list[int]] = {}
        self._start, self._end, self._unknown = (
            self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]")
        )
        hint = _tokenizer_hint(kind)
        # a BERT under any model_type (BiomedVLP-CXR-BERT says "cxr-bert"): no remote code is needed
        sizes = bert_sizes(config, f"config.json of {archive.base_model}", hint)
        try:
            with torch.device("meta"):
                bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
        except Exception as error:  # transformers and the hub's library raise types of their own
            raise WeightsError(f"{archive.base_model}: config.json cannot be used", hint=hint) from error
        wanted = bert.state_dict()
        missing, extra = wanted.keys() - archive.transformer.keys(), archive.transformer.keys() - wanted.keys()
        if missing or extra:
            name = min(missing or extra)
            raise WeightsError(f"RadGraph's weights do not fit {archive.base_model}: {name}", hint=hint)
        if any(value.shape != archive.transformer[name].shape for name, value in wanted.items()):
            raise WeightsError(f"RadGraph's weights and {archive.base_model} differ in size", hint=hint)
        bert.load_state_dict(archive.transformer, assign=True)
        bert.embeddings.position_ids = torch.arange(bert.config.max_position_embeddings).unsqueeze(0)
        bert.embeddings.token_type_ids = torch.zeros_like(bert.embeddings.position_ids)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._bert = with_onednn(bert.to(device=self._device, dtype=dtype).eval())
        self._heads = _Heads(archive, bert.config.hidden_size, self._device)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        model: Kind = "radgraph",
        tokenizer: str | Path | None = None,
        device: str = "cpu",
        precision: Literal["float32", "bfloat16"] = "float32",
        allow_download: bool = False,
    ) -> RadGraphModel:
        """Load an archive.

        Args:
            path: ``radgraph.tar.gz`` or the folder that it unpacks to; None looks in the hub cache.
            model: published model that it is; each splits words differently.
            tokenizer: folder with ``config.json`` and ``vocab.txt`` of the archive's base model, whose weights are not
                needed; None looks in the hub cache.
            device: device of the model.
            precision: floating-point type of BERT; the heads are always float32.
            allow_download: fetch files that are not in the hub cache.

        Raises:
            WeightsError: if a file is missing, damaged, or of another model.
        """
        given = Path(path).expanduser() if path is not None else None
        found = (
            given
            if given is not None and given.is_dir()
            else ARCHIVES[model].find(given, allow_download=allow_download)
        )
        archive = open_archive(found)
        local = Path(archive.base_model)
        folder = tokenizer if tokenizer is not None else local if local.is_absolute() and local.is_dir() else None
        files = {
            name: HubFile(archive.base_model, name, f"RadGraph's base model ({name})", f"--{model}-tokenizer DIR")
            for name in ("vocab.txt", "config.json")
        }
        paths = {name: file.find(folder, allow_download=allow_download) for name, file in files.items()}
        try:
            config = read_object(paths["config.json"])
            options = paths["vocab.txt"].with_name("tokenizer_config.json")
            config |= read_object(options) if options.is_file() else {}
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(
                f"{archive.base_model}: config.json cannot be read", hint=_tokenizer_hint(model)
            ) from error
        return cls(archive, paths["vocab.txt"], config, model, device, precision)

    def annotate(self, texts: Sequence[str], *, batch_size: int = 8) -> list[Annotation]:
        """Annotate N reports, in the form of the package; a blank report has no entities.

        Raises:
            WeightsError: if 20 or more different reports all get the same entities.
            InputError: if ``texts`` is not a list of strings.
        """
        texts = checked_texts(texts)
        found = annotate(texts, lambda some: self.portions(some, batch_size=batch_size))
        refuse_constant(texts, [pack(one) for one in found], "RadGraph")
        return found

    def portions(self, texts: Sequence[str], *, batch_size: int = 8) -> Iterator[list[Annotation]]:
        """Yield the annotations of texts in their order, in portions of sixteen batches."""
        for start in range(0, len(texts), 16 * batch_size):
            yield self._portion(texts[start : start + 16 * batch_size], batch_size)

    def _portion(self, texts: Sequence[str], batch_size: int) -> list[Annotation]:
        tokens = [words(text, self.model) for text in texts]
        pieces = [self._encode(report) for report in tokens]
        order = sorted((i for i, report in enumerate(tokens) if report), key=lambda i: sum(map(len, pieces[i])))
        packed: list[list[Any]] = [[] for _ in texts]
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            with torch.inference_mode():
                for index, states in zip(some, self._states([pieces[i] for i in some]), strict=True):
                    packed[index] = self._heads.entities(states)
            self.forwards += len(some)
        return [unpack(text, one, self.model) for text, one in zip(texts, packed, strict=True)]

    def _encode(self, report: Sequence[str]) -> list[list[int]]:
        """Return the word pieces of each word."""
        new = [word for word in dict.fromkeys(report) if word not in self._pieces]
        for word in new:
            plain = word[1:] if word in {"/.", "/?"} else word
            self._pieces[word] = self._tokenizer.encode(plain, add_special_tokens=False).ids
        pieces = [self._pieces[word] for word in report]
        unknown = sum(ids.count(self._unknown) for ids in pieces)
        if unknown > _UNKNOWN_SHARE * max(1, sum(map(len, pieces))) and not self.warnings:
            self.warnings.append(
                f"RadGraph does not know over 20 % of the tokens of some report: check --{self.model}-tokenizer"
            )
        return pieces

    def _states(self, reports: Sequence[list[list[int]]]) -> list[Tensor]:
        """Return the states of the words ``[words, D]`` of each report: means over their pieces, zero without any."""
        room = self._archive.max_pieces - 2
        rows: list[list[int]] = []
        first: list[int] = []
        for report in reports:
            flat = [piece for word in report for piece in word]
            first.append(len(rows))
            rows += [flat[start : start + room] for start in range(0, len(flat), room)] or [[]]
        longest = max(map(len, rows)) + 2
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row) + 2] = torch.tensor([self._start, *row, self._end])
            mask[number, : len(row) + 2] = 1
        hidden = self._bert(ids.to(self._device), attention_mask=mask.to(self._device)).last_hidden_state.float()
        states = []
        for number, report in enumerate(reports):
            last = first[number + 1] if number + 1 < len(reports) else len(rows)
            joined = torch.cat([hidden[row, 1 : len(rows[row]) + 1] for row in range(first[number], last)])
            lengths = torch.tensor([len(word) for word in report], device=self._device)
            owner = torch.repeat_interleave(torch.arange(len(report), device=self._device), lengths)
            sums = joined.new_zeros(len(report), joined.shape[1]).index_add_(0, owner, joined)
            states.append(sums / lengths.clamp_min(1).unsqueeze(1))
        return states


def _tokenizer_hint(kind: Kind) -> str:
    return f"--{kind}-tokenizer must be the folder of the base model that the archive names"


class _Heads:
    """The networks after BERT, for one report at a time.

    The first layer of every network is linear in the parts of its input, so it is applied once to the words (or spans)
    and summed for each span (or pair).
    """

    def __init__(self, archive: Archive, size: int, device: torch.device) -> None:
        state = {name: value.to(device=device, dtype=torch.float32) for name, value in archive.heads.items()}
        self._archive, self._size = archive, size
        try:
            self._widths = state.pop("_endpoint_span_extractor._span_width_embedding.weight")
            self._ner = _network(state, "_ner._ner_scorers.ner_labels.0._module", archive.layers)
            self._ner_out = _linear(state, "_ner._ner_scorers.ner_labels.1._module")
            pruner = "_relation._mention_pruners.relation_labels._scorer"
            self._prune = _network(state, f"{pruner}.0._module", archive.layers)
            self._prune_out = _linear(state, f"{pruner}.1._module")
            self._pair = _network(state, "_relation._relation_feedforwards.relation_labels", archive.layers)
            self._pair_out = _linear(state, "_relation._relation_scorers.relation_labels")
        except KeyError as error:
            raise WeightsError(f"RadGraph's weights.th has no {error}", hint="is the archive whole?") from error
        if state:
            raise WeightsError(f"RadGraph's weights.th has {min(state)}, which does not belong there")
        span = 2 * size + self._widths.shape[1]
        shapes = (
            self._ner[0][0].shape[1] == span == self._prune[0][0].shape[1],
            self._pair[0][0].shape[1] == 3 * span,
            len(self._widths) >= archive.max_span,
            len(self._ner_out[0]) == len(archive.ner_labels) - 1,
            len(self._pair_out[0]) == len(archive.relation_labels),
        )
        if not all(shapes):
            raise WeightsError("RadGraph's weights.th does not fit its config.json and vocabulary")

    def entities(self, states: Tensor) -> list[Any]:
        """Return the packed entities of a report from the states of its words ``[words, D]``."""
        count = len(states)
        starts = torch.arange(count, device=states.device).repeat_interleave(self._archive.max_span)
        ends = starts + torch.arange(self._archive.max_span, device=states.device).repeat(count)
        starts, ends = starts[ends < count], ends[ends < count]

        scores = self._spans(self._ner, self._ner_out, states, starts, ends)
        labels = functional.pad(scores, (1, 0)).argmax(dim=1)
        keep = int(torch.ceil(torch.tensor(float(count)) * self._archive.spans_per_word).item())
        mentions = self._spans(self._prune, self._prune_out, states, starts, ends).squeeze(1)
        best = mentions.topk(max(1, min(keep, len(mentions)))).indices.sort().values
        relations = self._relations(states, starts[best], ends[best], mentions[best])

        chosen = labels.nonzero().squeeze(1)
        spans = torch.stack([starts, ends, labels], dim=1)
        found = [tuple(row) for row in spans[chosen].tolist()]
        number = {(start, end): str(index) for index, (start, end, _) in enumerate(found, 1)}
        outgoing: dict[tuple[int, int], list[list[str]]] = {}
        tops = [tuple(row) for row in spans[best, :2].tolist()]
        for first, second, label in relations:
            source, target = tops[first], tops[second]
            if source in number and target in number:
                outgoing.setdefault(source, []).append([self._archive.relation_labels[label], number[target]])
        return [
            [start, end, self._archive.ner_labels[label], outgoing.get((start, end), [])] for start, end, label in found
        ]

    def _spans(self, network: _Network, out: _Linear, states: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        """Score spans ``[spans, L]`` by the states at both ends and the width."""
        weight, bias = network[0]
        size = self._size
        hidden = (states @ weight[:, :size].T)[starts] + (states @ weight[:, size : 2 * size].T)[ends]
        hidden += (self._widths @ weight[:, 2 * size :].T + bias)[ends - starts]
        return functional.linear(_rest(network, hidden), *out)

    def _relations(self, states: Tensor, starts: Tensor, ends: Tensor, mentions: Tensor) -> list[list[int]]:
        """Return ``[first span, second span, label]`` of each relation, from states, products and scores of n spans."""
        spans = torch.cat([states[starts], states[ends], self._widths[ends - starts]], dim=1)
        weight, bias = self._pair[0]
        size = spans.shape[1]
        as_first, as_second = spans @ weight[:, :size].T + bias, spans @ weight[:, size : 2 * size].T
        found: list[list[int]] = []
        block = max(1, _PAIRS_AT_A_TIME // (len(spans) * size))
        for start in range(0, len(spans), block):
            part = slice(start, start + block)
            products = (spans[part, None] * spans[None]) @ weight[:, 2 * size :].T
            hidden = products + as_first[part, None] + as_second[None]
            scores = functional.linear(_rest(self._pair, hidden), *self._pair_out)
            scores += mentions[part, None, None] + mentions[None, :, None]
            labels = functional.pad(scores, (1, 0)).argmax(dim=2)
            pairs = labels.nonzero()
            chosen = labels[pairs[:, 0], pairs[:, 1]] - 1
            found += torch.cat([pairs + pairs.new_tensor([start, 0]), chosen[:, None]], dim=1).tolist()
        return found


_Linear = tuple[Tensor, Tensor]
_Network = list[_Linear]


def _linear(state: dict[str, Tensor], name: str) -> _Linear:
    return state.pop(f"{name}.weight"), state.pop(f"{name}.bias")


def _network(state: dict[str, Tensor], name: str, layers: int) -> _Network:
    return [_linear(state, f"{name}._linear_layers.{number}") for number in range(layers)]


def _rest(network: _Network, hidden: Tensor) -> Tensor:
    """Apply the layers after the first."""
    hidden = functional.relu(hidden)
    for weight, bias in network[1:]:
        hidden = functional.relu(functional.linear(hidden, weight, bias))
    return hidden
