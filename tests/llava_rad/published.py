"""Small files in the formats in which RAD-DINO and Vicuna are published, and a tokenizer with Vicuna's own ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PIECES = {
    319: "▁A",
    13563: "▁chat",
    1546: "▁between",
    263: "▁a",
    12758: "▁curious",
    1404: "▁user",
    322: "▁and",
    385: "▁an",
    23116: "▁artificial",
    21082: "▁intelligence",
    20255: "▁assistant",
    29889: ".",
    450: "▁The",
    4076: "▁gives",
    8444: "▁helpful",
    29892: ",",
    13173: "▁detailed",
    1248: "▁pol",
    568: "ite",
    6089: "▁answers",
    304: "▁to",
    278: "▁the",
    29915: "'",
    29879: "s",
    5155: "▁questions",
    3148: "▁US",
    1001: "ER",
    29901: ":",
    29871: "▁",
    1184: "Pro",
    29894: "v",
    680: "ide",
    6139: "▁description",
    310: "▁of",
    1284: "▁find",
    886: "ings",
    297: "▁in",
    17937: "▁radi",
    3002: "ology",
    1967: "▁image",
    1799: "SS",
    9047: "IST",
    13566: "ANT",
    5192: "▁heart",
    338: "▁is",
    4226: "▁normal",
    2159: "▁size",
    301: "▁l",
    3085: "ungs",
    526: "▁are",
    2821: "▁clear",
}


def vicuna_tokenizer() -> Any:
    """A 32,000-piece BPE tokenizer in Llama-2's form; the pieces of the golden prompt have their real ids.

    The pieces are spelt left to right by merges, those that begin a word first; the other ids are fillers.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {piece: index for index, piece in PIECES.items()}
    free = iter(sorted(set(range(259, 32000)) - set(PIECES)))
    merges: list[tuple[str, str]] = []
    for piece in sorted(PIECES.values(), key=lambda piece: (not piece.startswith("▁"), piece == "ings")):
        for end in range(1, len(piece) + 1):
            for part in (piece[end - 1], piece[:end]):
                if part not in vocabulary:
                    vocabulary[part] = next(free)
            if end > 1 and (piece[: end - 1], piece[end - 1]) not in merges:
                merges.append((piece[: end - 1], piece[end - 1]))
    vocabulary |= {f"<filler {index}>": index for index in free}
    assert len(vocabulary) == 32000 and sorted(vocabulary.values()) == list(range(32000))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def sentencepiece_file(path: Path, size: int = 400) -> None:
    """Train ``tokenizer.model`` as Llama-2's was made: BPE with byte fallback, unk 0, bos 1, eos 2."""
    import sentencepiece

    text = path.with_suffix(".txt")
    words = "the heart is normal in size lungs are clear there no pleural effusion or pneumothorax USER ASSISTANT"
    text.write_text("\n".join(f"{first} {second}." for first in words.split() for second in words.split()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    text.unlink()
    path.with_suffix(".vocab").unlink()


def rad_dino_folder(folder: Path, *, width: int = 24, size: int = 56) -> Path:
    """A folder as ``microsoft/rad-dino``: config.json, model.safetensors, preprocessor_config.json."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=width, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def vicuna_folder(folder: Path, *, vocabulary: int = 448, shards: int = 2) -> Path:
    """A folder as ``lmsys/vicuna-7b-v1.5``: float16 .bin shards, tokenizer.model, its settings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).half()
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = torch.float16
    config.save_pretrained(folder)
    tensors = model.state_dict()
    # Vicuna's shards still hold the rotary buffers of the transformers version that wrote them
    tensors |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        part = names[shard::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    generation = {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation | {"temperature": 0.9, "top_p": 0.6}))
    sentencepiece_file(folder / "tokenizer.model")
    tokenizer = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": None,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "tokenizer_class": "LlamaTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder
