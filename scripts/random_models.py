"""Synthetic reports, and random weights in the form of the published files, for benchmarks and tests of the metrics.

Random weights give no meaningful scores. They show that two programs compute the same from the same file, and how fast.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

_SIDES = ("left", "right", "bilateral", "bibasilar", "left lower lobe", "right upper lobe", "retrocardiac")
_SIZES = ("small", "mild", "moderate", "large", "trace", "stable", "new", "increased", "unchanged")
_FINDINGS = (
    "pleural effusion", "pneumothorax", "consolidation", "atelectasis", "pulmonary edema", "opacity", "nodule",
    "cardiomegaly", "pneumonia", "rib fracture", "pleural thickening", "hiatal hernia",
)  # fmt: skip
_FRAMES = (
    "There is a {size} {side} {finding}.",
    "No {finding} or {other} is seen.",
    "{size} {side} {finding}, which may represent {other}.",
    "The heart size is normal; mediastinal contours are within normal limits.",
    "Compared to ___, the {side} {finding} has improved.",
    "An endotracheal tube terminates {number} cm above the carina.",
    "The lungs are clear without {finding}.",
    "Possible {finding} versus {other} in the {side} lung (series {number}/2).",
    "Status-post CABG: median sternotomy wires are intact.",
)
_EXTRA = "the a an of and or in is no not with within was were seen are has may lungs lung heart size normal limits"


def reports(count: int, *, words: int = 50, seed: int = 0) -> list[str]:
    """Reports of about ``words`` words, all different."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        length = rng.randint(words // 2, words * 3 // 2)
        sentences: list[str] = []
        while sum(len(sentence.split()) for sentence in sentences) < length:
            frame = rng.choice(_FRAMES)
            text = frame.format(
                size=rng.choice(_SIZES), side=rng.choice(_SIDES), finding=rng.choice(_FINDINGS),
                other=rng.choice(_FINDINGS), number=rng.randint(1, 9),
            )  # fmt: skip
            sentences.append(text[0].upper() + text[1:])
        found[" ".join(sentences)] = None
    return list(found)


def write_bert(folder: Path, *, size: int, layers: int, heads: int, vocabulary: int | None = None) -> Path:
    """Write a folder with ``vocab.txt``, ``config.json`` and ``tokenizer_config.json`` of a BERT.

    Args:
        size: of the hidden states.
        vocabulary: rows of the embedding; unused entries fill it up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for part in (*_SIDES, *_SIZES, *_FINDINGS, *_FRAMES, _EXTRA) for word in _words(part)})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{one}" for one in letters),
        *".,;:()/-_!?%",
    ]
    entries = list(dict.fromkeys([*entries, *words]))
    entries += [f"[unused{number}]" for number in range((vocabulary or 0) - len(entries))]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(entries), "hidden_size": size,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * size,
        "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    return folder


def fill(model: Any, *, seed: int = 0, spread: float | None = None) -> Any:
    """Give a model weights that depend on names and seed alone, not on the versions of torch and transformers.

    Matrices are normal with a standard deviation of ``spread``, by default the inverse root of their width; of the rest
    what is neither all 0 nor all 1 becomes 0.
    """
    import numpy as np
    import torch

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim > 1 and value.is_floating_point():
                rng = np.random.default_rng([seed, *name.encode()])
                width = spread or value.shape[-1] ** -0.5
                value.copy_(torch.from_numpy(rng.standard_normal(value.shape, dtype=np.float32) * np.float32(width)))
            elif value.is_floating_point() and not (value == value.flatten()[0]).all():
                value.zero_()
    return model


def write_chexbert(
    path: Path, bert: Path, *, seed: int = 0, prefix: str = "module.", positions: bool = False, fixed: bool = False
) -> Path:
    """Write a ``chexbert.pth`` as published: torch 1.4's file format, DataParallel's names, with the optimizer.

    Args:
        path: the file.
        bert: folder of :func:`write_bert`.
        prefix: before every name.
        positions: add the ``position_ids`` that some versions of transformers saved.
        fixed: weights of :func:`fill`.
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig.from_json_file(bert / "config.json")
    config.initializer_range = _spread(config.hidden_size)
    model = BertModel(config).eval()
    heads = [torch.randn(4 if number < 13 else 2, config.hidden_size) for number in range(14)]
    if fixed:
        fill(model, seed=seed, spread=3 * config.initializer_range)  # states of [CLS] that tell texts apart
        heads = [
            fill(torch.nn.Linear(config.hidden_size, len(one)), seed=n, spread=1.0).weight.detach()
            for n, one in enumerate(heads)
        ]
    state: dict[str, Any] = {f"bert.{name}": value for name, value in model.state_dict().items()}
    first = _first_states(model, bert)
    for number, weight in enumerate(heads):
        state[f"linear_heads.{number}.weight"] = weight
        state[f"linear_heads.{number}.bias"] = -(first @ weight.T).mean(dim=0)
    if positions:
        state["bert.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
    saved = {
        "epoch": 3,
        "model_state_dict": {prefix + name: value for name, value in state.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-5}]},
    }
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    return path


def _spread(size: int) -> float:
    """BERT's 0.02 at width 768, larger for smaller widths, so that a layer changes its input equally."""
    return 0.02 * math.sqrt(768 / size)


def _first_states(model: Any, bert: Path) -> Any:
    import torch
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(bert / "vocab.txt"))
    rows = [tokenizer.encode(text).ids for text in reports(32, words=20, seed=99)]
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([row])).last_hidden_state[:, 0] for row in rows])


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def write_radgraph(
    path: Path,
    bert: Path,
    *,
    model: str = "radgraph",
    namespace: str | None = None,
    seed: int = 0,
    hidden: int = 150,
    max_length: int = 512,
    fixed: bool = False,
) -> Path:
    """Write a ``radgraph.tar.gz`` as published, with the package's own DyGIE++ classes and random weights.

    The last layers are scaled to give about 0.4 entities and relations a word, as in real output.

    Args:
        path: the archive; its folder is written next to it.
        bert: folder of :func:`write_bert`.
        model: ``radgraph`` or ``radgraph-xl``, whose labels differ.
        namespace: before the label files' names; older archives have ``None``.
        hidden: width of the feed-forward networks.
        max_length: word pieces that BERT takes at a time.
        fixed: weights of :func:`fill`.
    """
    import tarfile

    import torch
    from radgraph.allennlp.data import Vocabulary
    from radgraph.allennlp.modules import text_field_embedders, token_embedders
    from radgraph.dygie.models.dygie import DyGIE

    namespace = namespace or model
    folder = path.with_name(path.name.split(".")[0] + "-folder")
    (folder / "vocabulary").mkdir(parents=True, exist_ok=True)
    xl = [
        f"{kind}::{state}"
        for kind in ("Anatomy", "Observation")
        for state in ("definitely present", "definitely absent", "uncertain")
    ]
    labels = ["", *(xl if model == "radgraph-xl" else ["ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"])]
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*tags\n*labels\n")
    (folder / "vocabulary" / f"{namespace}__ner_labels.txt").write_text("\n".join(labels) + "\n")
    (folder / "vocabulary" / f"{namespace}__relation_labels.txt").write_text("modify\nlocated_at\nsuggestive_of\n")
    indexer = {"type": "pretrained_transformer_mismatched", "model_name": str(bert), "max_length": max_length}
    config: dict[str, Any] = {
        "dataset_reader": {"type": "dygie", "token_indexers": {"bert": indexer}, "max_span_width": 8},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": indexer}},
            "initializer": {},
            "module_initializer": {},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 1.0, "arguments": 1.0},
                },
            },
            "feature_size": 20,
            "max_span_width": 8,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": hidden, "dropout": 0.4},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))

    torch.manual_seed(seed)
    with _local_bert(bert):
        embedder = text_field_embedders.BasicTextFieldEmbedder(
            {
                "bert": token_embedders.PretrainedTransformerMismatchedEmbedder(
                    model_name=str(bert), max_length=max_length
                )
            }
        )
        parts = {key: value for key, value in config["model"].items() if key not in {"type", "embedder"}}
        del parts["initializer"], parts["module_initializer"]
        vocabulary = Vocabulary.from_files(str(folder / "vocabulary"))
        network = DyGIE(vocab=vocabulary, embedder=embedder, **json.loads(json.dumps(parts)))
    state = fill(network, seed=seed).state_dict() if fixed else network.state_dict()
    if fixed:  # spans that are entities are those that relations are sought between, as after a training
        scorers, pruner = f"_ner._ner_scorers.{namespace}__ner_labels.", "_relation._mention_pruners."
        for name in [name for name in state if name.startswith(scorers)]:
            target = name.replace(scorers, f"{pruner}{namespace}__relation_labels._scorer.")
            state[target] = state[name].clone() if state[name].shape == state[target].shape else state[name][:1].clone()
    ner, relation = f"_ner._ner_scorers.{namespace}__ner_labels.1._module", f"{namespace}__relation_labels"
    torch.save(state, folder / "weights.th")
    _balance(folder, bert, state, ner, f"_relation._relation_scorers.{relation}", model)
    torch.save(state, folder / "weights.th")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in ("config.json", "vocabulary", "weights.th"):
            archive.add(folder / name, name)
    return path


def _local_bert(bert: Path) -> Any:
    """Context in which the package takes BERT and tokenizer from this folder."""
    from contextlib import ExitStack
    from unittest import mock

    from radgraph.allennlp.common import cached_transformers
    from transformers import BertConfig, BertModel, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(bert)
    tokenizer.encode_plus = tokenizer.__call__
    tokenizer.build_inputs_with_special_tokens = lambda ids: [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    config = BertConfig.from_json_file(bert / "config.json")
    config.initializer_range = _spread(config.hidden_size)
    stack = ExitStack()
    stack.enter_context(mock.patch.object(cached_transformers, "get_tokenizer", lambda name, **options: tokenizer))
    stack.enter_context(mock.patch.object(cached_transformers, "get", lambda *options: BertModel(config)))
    return stack


def _balance(folder: Path, bert: Path, state: dict[str, Any], ner: str, relation: str, model: Any) -> None:
    """Shift the biases of both last layers so that most spans and pairs have no label and every label occurs."""
    from unittest import mock

    import torch
    from torch.nn import functional

    from metrics.radgraph.model import RadGraphModel, words

    for name in state:
        if "_mention_pruners" in name and "_scorer.1." in name:
            state[name] *= 0.01  # same choice of spans, little effect on the pairs' scores
    for name in (ner, relation):
        state[f"{name}.weight"] *= 30  # no near ties
        state[f"{name}.bias"] *= 0
    torch.save(state, folder / "weights.th")
    ours = RadGraphModel.load(folder, model=model, tokenizer=bert)
    seen: dict[str, list[Any]] = {ner: [], relation: []}

    def watch(inputs: Any, weight: Any, bias: Any = None) -> Any:
        out = linear(inputs, weight, bias)
        for name in seen:
            if weight.shape == state[f"{name}.weight"].shape and torch.equal(weight, state[f"{name}.weight"]):
                seen[name].append(out.flatten(0, -2))
        return out

    linear = functional.linear
    texts = reports(24, seed=98)
    with mock.patch.object(functional, "linear", watch):
        ours.annotate(texts)
    count = sum(len(words(text, model)) for text in texts)
    for name, outputs in seen.items():
        scores = torch.cat(outputs)
        mean = scores.mean(dim=0)
        # pairs with an end that is no entity are dropped
        wanted = (0.4 if name == ner else 3) * count / len(scores)
        best = (scores - mean).max(dim=1).values.sort().values
        state[f"{name}.bias"] = -mean - best[int((1 - min(wanted, 0.9)) * len(best))]


class F1CheXbert:
    """The package ``f1chexbert`` 0.0.2, with local weights and under transformers 5.

    Args:
        weights: a file named ``chexbert.pth``.
        bert: folder with ``vocab.txt`` and ``config.json``.
    """

    def __init__(self, weights: Path, bert: Path) -> None:
        import contextlib
        import io
        from unittest import mock

        import f1chexbert.f1chexbert as package
        import torch
        from transformers import BertConfig, BertTokenizer

        tokenizer = BertTokenizer.from_pretrained(bert)

        def encode_plus(tokens: list[str]) -> dict[str, list[int]]:
            """Do as the method of transformers 4 did with a list of tokens."""
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
        """Codes of :mod:`metrics.labels`, one report at a time, as the package does it."""
        import torch

        from metrics.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

        codes = {"": BLANK, 1: POSITIVE, 0: NEGATIVE, -1: UNCERTAIN}
        with torch.inference_mode():
            return [[codes[value] for value in self._labeler.get_label(text, mode="classification")] for text in texts]
