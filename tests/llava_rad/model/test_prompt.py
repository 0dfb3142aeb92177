"""The prompt, byte for byte and id for id, against Vicuna's published tokenizer (golden ids)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_rad.model.prompt import INSTRUCTION, SYSTEM, Prompt, encode_answer, encode_text
from tests.llava_rad.published import vicuna_tokenizer


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, Any]:
    return json.loads((shared_dir / "golden" / "vicuna_prompt.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return vicuna_tokenizer()


def test_text_byte_for_byte() -> None:
    assert Prompt().text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nProvide a description of the findings "
        "in the radiology image. ASSISTANT:"
    )
    assert Prompt().text == Prompt().before_image + "<image>" + Prompt().after_image


def test_golden_text(golden: dict[str, Any]) -> None:
    assert golden["system"] == SYSTEM
    assert golden["before_image_text"].format(system=SYSTEM) == Prompt().before_image
    assert golden["after_image_text"] == Prompt().after_image


def test_golden_ids(golden: dict[str, Any], tokenizer: Any) -> None:
    before, after = Prompt().encode(tokenizer, bos=1)
    assert before == [1, *golden["before_image_ids_without_bos"]]
    assert after == golden["after_image_ids_as_own_chunk"]
    answer = golden["answer_example"]
    assert encode_answer(tokenizer, answer["text"], eos=2) == [*answer["ids"], 2]


def test_one_bos_one_eos(tokenizer: Any) -> None:
    before, after = Prompt().encode(tokenizer, bos=1)
    ids = before + after + encode_answer(tokenizer, "The heart is normal.", eos=2)
    assert ids.count(1) == 1 and ids[0] == 1
    assert ids.count(2) == 1 and ids[-1] == 2


def test_special_tokens_in_a_text_stay_text(tokenizer: Any) -> None:
    """A report that quotes ``</s>`` must neither end the sample nor stand for an image."""
    tokenizer.add_special_tokens(["<image>"])
    image = tokenizer.token_to_id("<image>")
    ids = encode_answer(tokenizer, "The heart </s> is <image> <s> normal", eos=2)
    assert ids.count(2) == 1 and 1 not in ids and image not in ids
    assert tokenizer.decode(ids[:-1], skip_special_tokens=True) == "The heart </s> is <image> <s> normal"


def test_other_instruction_keeps_the_conversation(tokenizer: Any) -> None:
    prompt = Prompt().with_instruction("Is the heart normal?")
    assert prompt.text.endswith("USER: <image>\nIs the heart normal? ASSISTANT:")
    assert Prompt().with_instruction(None).instruction == INSTRUCTION


def test_a_trailing_space_would_break_the_prefix(tokenizer: Any) -> None:
    whole = encode_text(tokenizer, Prompt().after_image + " The heart")
    with_space = encode_text(tokenizer, Prompt().after_image + " ")
    without = encode_text(tokenizer, Prompt().after_image)
    assert whole[: len(without)] == without
    assert whole[: len(with_space)] != with_space
