"""Golden values with their sixteen pairs, and small models that all tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from metrics.radgraph.archive import Kind
from scripts.random_models import reports, write_bert, write_chexbert, write_radgraph


class Lexical(NamedTuple):
    """The 16 pairs of the specification's table."""

    ids: list[str]
    candidates: list[str]
    references: list[str]


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> dict[str, Any]:
    """Values of reference implementations: lexical, radgraph, chexbert, bootstrap."""
    names = ("lexical", "radgraph", "chexbert", "bootstrap")
    return {name: json.loads((shared_dir / "golden" / f"golden_{name}.json").read_text()) for name in names}


@pytest.fixture(scope="session")
def lexical(shared_dir: Path, golden: dict[str, Any]) -> Lexical:
    """Ids, candidates and references, in the golden file's order."""
    ids = [row["id"] for row in golden["lexical"]["rows"]]
    texts: dict[str, tuple[str, str]] = {}
    for line in (shared_dir / "spec" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[0] in ids:
            first, second = ("" if cell == "(empty)" else cell.replace("\\n", "\n") for cell in cells[1:3])
            texts[cells[0]] = first, second
    assert list(texts) == ids
    return Lexical(ids, [texts[key][0] for key in ids], [texts[key][1] for key in ids])


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocabulary and sizes of a small BERT."""
    return write_bert(tmp_path_factory.mktemp("bert"), size=32, layers=2, heads=2)


@pytest.fixture(scope="session")
def chexbert(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    """A small ``chexbert.pth`` in the published form."""
    return write_chexbert(tmp_path_factory.mktemp("weights") / "chexbert.pth", bert)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> dict[Kind, Path]:
    """A small archive of each published RadGraph; the unpacked folder is in the same place, ``NAME-folder``."""
    folder, kinds = tmp_path_factory.mktemp("archives"), get_args(Kind)
    return {
        kind: write_radgraph(folder / f"{kind}.tar.gz", bert, model=kind, hidden=40, max_length=64) for kind in kinds
    }


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa with the files of the hub's: vocab.json, merges.txt, config.json, model.safetensors."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        reports(200), vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    tokenizer.save_model(str(folder))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=600, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.2,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    return folder
