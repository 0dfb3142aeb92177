"""Synthetic reports, and random weights in the very form of the published files: what benchmarks and tests score with.

Random weights say nothing about reports. They show that two programs compute the same from the same file, and how fast.
"""

from __future__ import annotations

import json
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
    """Reports of about so many words, no two alike."""
    dice = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        length = dice.randint(words // 2, words * 3 // 2)
        sentences: list[str] = []
        while sum(len(sentence.split()) for sentence in sentences) < length:
            frame = dice.choice(_FRAMES)
            text = frame.format(
                size=dice.choice(_SIZES),
                side=dice.choice(_SIDES),
                finding=dice.choice(_FINDINGS),
                other=dice.choice(_FINDINGS),
                number=dice.randint(1, 9),
            )
            sentences.append(text[0].upper() + text[1:])
        found[" ".join(sentences)] = None
    return list(found)


def write_bert(folder: Path, *, size: int, layers: int, heads: int, vocabulary: int | None = None) -> Path:
    """A folder with ``vocab.txt``, ``config.json`` and ``tokenizer_config.json`` of a BERT.

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
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(entries),
        "hidden_size": size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * size,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    return folder


def write_chexbert(path: Path, bert: Path, *, seed: int = 0, prefix: str = "module.", positions: bool = False) -> Path:
    """A ``chexbert.pth`` as it was published: torch 1.4's file format, DataParallel's names, the optimizer beside it.

    Args:
        path: the file.
        bert: what :func:`write_bert` made.
        prefix: before every name.
        positions: add the ``position_ids`` that some versions of transformers saved.
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig.from_json_file(bert / "config.json")
    config.initializer_range = 0.1  # so that [CLS] differs from text to text
    model = BertModel(config).eval()
    state: dict[str, Any] = {f"bert.{name}": value for name, value in model.state_dict().items()}
    first = _first_states(model, bert)
    for number in range(14):
        weight = torch.randn(4 if number < 13 else 2, config.hidden_size)
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


def _first_states(model: Any, bert: Path) -> Any:
    import torch
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(bert / "vocab.txt"))
    rows = [tokenizer.encode(text).ids for text in reports(32, words=20, seed=99)]
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([row])).last_hidden_state[:, 0] for row in rows])


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
