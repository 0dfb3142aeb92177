"""Answers to texts against transformers' ``generate``, and GREEN on the command line with a small random Llama."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_rad.generation.compiled import CompiledDecoder
from llava_rad.generation.text_generator import TextGenerator
from metrics.base import WeightsError
from metrics.green import conversation, prompt
from tests.llava_rad.conftest import Run

PROMPTS = [
    "<|user|>\nIs the heart large?</s>\n<|assistant|>\n</s>",
    "<|user|>\nThere is a large left pleural effusion. No pneumothorax.</s>\n<|assistant|>\n</s>",
    "clear",
    "<|user|>\nThe bones.</s>\n<|assistant|>\n</s>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``LlamaForCausalLM`` folder with random weights and a tokenizer of words and characters."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("green")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    texts = [*PROMPTS, prompt("No effusion.", "Large effusion.")]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=768, initializer_range=0.4,
        )
    ).save_pretrained(path)  # fmt: skip
    return path


def answers(folder: Path, prompts: list[str], *, batch_size: int = 3, longest: int = 2048, new: int = 12) -> list[str]:
    model = TextGenerator(folder, "cpu", "auto")
    portions = model.portions(prompts, batch_size=batch_size, max_prompt_tokens=longest, max_new_tokens=new)
    return [text for portion in portions for text in portion]


def by_transformers(folder: Path, text: str, new: int, longest: int = 2048) -> str:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [1, *tokenizer.encode(text, add_special_tokens=False).ids]
    ids = ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        row = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
            max_new_tokens=new, eos_token_id=2, pad_token_id=2,
        )[0, len(ids) :].tolist()  # fmt: skip
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()


def test_answers_are_those_of_transformers_in_any_batch(folder: Path) -> None:
    expected = [by_transformers(folder, text, 12) for text in PROMPTS]
    assert len(set(expected)) > 2 and all(expected)
    for batch_size in (1, 3, 8):
        assert answers(folder, PROMPTS, batch_size=batch_size) == expected


def test_answers_in_slots_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, with a step that is not compiled."""
    made = []

    def make(*arguments: Any) -> CompiledDecoder:
        llama, suppressed, slots, length = arguments
        made.append(CompiledDecoder(llama, suppressed, slots, length, lambda step: step))
        return made[-1]

    monkeypatch.setattr("llava_rad.generation.text_generator.CompiledDecoder", make)
    model = TextGenerator(folder, "cpu", "auto")
    for texts in (
        [PROMPTS[2]],
        [*PROMPTS, PROMPTS[1] * 9],
        PROMPTS[:1],
    ):  # the second call does not fit the first one's slots
        embeds = [model._embed(model._encode(text, 2048)) for text in texts]
        rows: list[list[int]] = [[] for _ in texts]
        for row, token in chain.from_iterable(model._in_slots(embeds, 12, 2)):
            rows[row].append(token)
        found = [model._tokens.decode([token for token in row if token != 2]) for row in rows]
        assert found == answers(folder, texts)
    assert len(made) == 2


def test_a_long_prompt_is_cut_before_its_last_token(folder: Path) -> None:
    """As right truncation of a tokenizer that adds the end token."""
    assert answers(folder, PROMPTS[:2], longest=9) == [by_transformers(folder, text, 12, 9) for text in PROMPTS[:2]]


def test_a_prompt_that_leaves_no_room_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="takes 768 tokens"):
        answers(folder, ["heart " * 2000])


def test_special_tokens_are_read(folder: Path) -> None:
    model = TextGenerator(folder, "cpu", "auto")
    ids = model._encode(conversation("x"), 2048)
    assert ids[0] == 1 and ids.count(2) == 2 and ids[-1] == 2


def test_the_id_is_that_of_the_files_and_of_the_type(folder: Path) -> None:
    whole, half = (TextGenerator(folder, "cpu", dtype).weights_id for dtype in ("auto", "bfloat16"))
    assert whole.endswith(":float32") and half.endswith(":bfloat16")
    assert whole.split(":")[0] == half.split(":")[0]


def test_damaged_weights_are_an_error_of_the_metric(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = TextGenerator(tmp_path, "cpu", "auto")
    with pytest.raises(WeightsError, match="the language model"):
        list(model.portions(["x"], batch_size=1, max_prompt_tokens=9, max_new_tokens=1))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError):
        TextGenerator(tmp_path, "cpu", "auto")


def test_evaluate_computes_green(folder: Path, run: Run, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("id,text\n1,Large effusion.\n2,No effusion.\n3,\n")
    ran = run("evaluate", table, table, "--metrics", "green,rouge_l", "--green", folder, "--no-cache", "-f", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["models"][0]["scores"]["green"]["point"] == 0  # random weights list nothing
    assert found["warnings"] == ["GREEN: 2 of 2 answers lack a section, which counts as nothing in it."]
    assert "green_score-02279b8" in found["signatures"]["green"]


def test_evaluate_without_the_weights_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("id,text\n1,Large effusion.\n")
    ran = run("evaluate", table, table, "--metrics", "green,rouge_l")
    assert ran.code == 5
    assert "hub repository StanfordAIMI/GREEN-radllama2-7b" in ran.err and "--green DIR" in ran.out
