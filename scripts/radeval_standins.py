"""Random weights of all published metrics, where RadEval 2.2.1 and this project look for them.

Small ones depend on a seed alone; large ones have the published sizes, for timings.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.random_models import fill, reports, write_bert, write_chexbert, write_radgraph

_LABELS = [f"{place}-{kind}" for kind in ("ABNORMALITY", "NON-ABNORMALITY", "DISEASE", "NON-DISEASE", "ANATOMY")
           for place in "BI"]  # fmt: skip
_MARKS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Standins:
    """Files of one set of weights.

    Attributes:
        folder: of all; RadEval finds them with :attr:`environment`.
        bert: vocabulary and sizes of CheXbert and RadGraph.
        chexbert: ``chexbert.pth``.
        radgraph: archive of RadGraph.
        radgraph_xl: archive of RadGraph-XL.
        distilroberta: model of RadCliQ's BERTScore.
        distilbert: model of RadEval's BERTScore.
        entities: RaTEScore's model of entities.
        encoder: RaTEScore's encoder.
    """

    folder: Path
    bert: Path
    chexbert: Path
    radgraph: Path
    radgraph_xl: Path
    distilroberta: Path
    distilbert: Path
    entities: Path
    encoder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which RadEval finds these weights and nothing else."""
        return {
            "HF_HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(self.folder / "hub"), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """Options of this project's metrics."""
        return {
            "chexbert": self.chexbert, "bert_vocab": self.bert, "radgraph": self.radgraph,
            "radgraph_tokenizer": self.bert, "radgraph_xl": self.radgraph_xl, "radgraph_xl_tokenizer": self.bert,
            "radcliq_bertscore_model": str(self.distilroberta), "ratescore_entities": str(self.entities),
            "ratescore_encoder": str(self.encoder),
        }  # fmt: skip


def write(folder: Path, *, full: bool = False) -> Standins:
    """Write all weights.

    Args:
        folder: new folder.
        full: published sizes in place of small ones.
    """
    size = {"size": 768, "layers": 12, "heads": 12} if full else {"size": 32, "layers": 2, "heads": 2}
    bert = _in_hub(folder, "bert-base-uncased")
    write_bert(bert, vocabulary=30522 if full else None, **size)
    _save_bert(bert)
    hidden = 150 if full else 40
    kinds = ("radgraph", "radgraph-xl")
    archives = {
        kind: write_radgraph(folder / f"{kind}.tar.gz", bert, model=kind, hidden=hidden, fixed=True) for kind in kinds
    }
    for kind in kinds:
        shutil.copytree(folder / f"{kind}-folder", folder / "cache" / "radgraph" / "0.1.18" / kind)
    scorers = _in_hub(folder, "StanfordAIMI/RRG_scorers", Path("cache", "chexbert"))
    return Standins(
        folder, bert, write_chexbert(scorers / "chexbert.pth", bert, fixed=True), archives["radgraph"],
        archives["radgraph-xl"], _write_distilroberta(_in_hub(folder, "distilroberta-base"), full),
        _write_distilbert(_in_hub(folder, "distilbert-base-uncased"), bert, full),
        _write_entities(_in_hub(folder, "Angelakeke/RaTE-NER-Deberta"), full),
        _write_encoder(_in_hub(folder, "FremyCompany/BioLORD-2023-C"), bert, full),
    )  # fmt: skip


def pairs(count: int, *, words: int = 50, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return N candidates and N references: half of the pairs differ in sides, the others share a sentence."""
    references = reports(count, words=words, seed=2 * seed)
    others = reports(count, words=words, seed=2 * seed + 1)
    candidates = [
        reference.replace(" left ", " right ") if row % 2 else f"{reference.split('. ')[0].rstrip('.')}. {other}"
        for row, (reference, other) in enumerate(zip(references, others, strict=True))
    ]
    return candidates, references


def _in_hub(folder: Path, repository: str, cache: Path = Path("hub")) -> Path:
    """Return the folder of a repository in a hub cache."""
    top = folder / cache / f"models--{repository.replace('/', '--')}"
    snapshot = top / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text("0" * 40)
    return snapshot


def _save_bert(folder: Path) -> None:
    """Add weights: RadEval loads those of RadGraph's base model before it replaces them."""
    from transformers import BertConfig, BertModel

    BertModel(BertConfig.from_json_file(folder / "config.json")).save_pretrained(folder)


def _write_distilroberta(folder: Path, full: bool) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaConfig, RobertaModel

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if full:
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(reports(2000), vocab_size=5000, special_tokens=marks)
        tokenizer.save_model(str(folder))
    else:
        letters = sorted(ByteLevel.alphabet())
        (folder / "vocab.json").write_text(json.dumps({one: n for n, one in enumerate([*marks, *letters])}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    config = RobertaConfig(
        vocab_size=50265 if full else 300, hidden_size=768 if full else 32, num_hidden_layers=6,
        num_attention_heads=12 if full else 2, intermediate_size=3072 if full else 64, max_position_embeddings=514,
        type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    fill(RobertaModel(config)).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    )
    return folder


def _write_distilbert(folder: Path, bert: Path, full: bool) -> Path:
    from transformers import DistilBertConfig, DistilBertModel

    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(bert / name, folder)
    config = DistilBertConfig(
        vocab_size=len((bert / "vocab.txt").read_text().splitlines()), dim=768 if full else 32, n_layers=6,
        n_heads=12 if full else 2, hidden_dim=3072 if full else 64,
    )  # fmt: skip
    fill(DistilBertModel(config)).save_pretrained(folder)
    return folder


def _write_entities(folder: Path, full: bool) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import DebertaV2Config, DebertaV2ForTokenClassification

    marks = list(_MARKS.values())
    words = sorted({word.lower() for text in reports(60, seed=97) for word in text.replace(".", " .").split()})
    letters = sorted(
        {letter for word in words for letter in word} | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ.,;:()_/-0123456789")
    )
    pieces = [*((mark, 0.0) for mark in marks), ("\u2581", -3.0), *((f"\u2581{word}", -5.0) for word in words)]
    known = {piece for piece, _ in pieces}
    pieces += [(letter, -9.0) for letter in letters if letter not in known]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **_MARKS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    labels = [*_LABELS, "O"]
    config = DebertaV2Config(
        vocab_size=128100 if full else len(pieces), hidden_size=768 if full else 32,
        num_hidden_layers=12 if full else 2,
        num_attention_heads=12 if full else 2, intermediate_size=3072 if full else 64, type_vocab_size=0,
        relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, max_relative_positions=-1, pad_token_id=0,
        id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)},
    )  # fmt: skip
    model = fill(DebertaV2ForTokenClassification(config))
    model.classifier.bias.data[-1] = 1.0  # most tokens are in no entity
    model.save_pretrained(folder)
    return folder


def _write_encoder(folder: Path, bert: Path, full: bool) -> Path:
    from transformers import MPNetConfig, MPNetModel

    shutil.copy(bert / "vocab.txt", folder)
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    settings |= {"model_input_names": ["input_ids", "attention_mask"]}  # MPNet has no types of tokens
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = MPNetConfig(
        vocab_size=len((bert / "vocab.txt").read_text().splitlines()), hidden_size=768 if full else 32,
        num_hidden_layers=12 if full else 2, num_attention_heads=12 if full else 2,
        intermediate_size=3072 if full else 64, max_position_embeddings=514, pad_token_id=0,
    )  # fmt: skip
    fill(MPNetModel(config)).save_pretrained(folder)
    return folder
