"""Templates byte for byte, with and without each input; token counts; texts that must not pass for tokens."""

from __future__ import annotations

from typing import Any

import pytest

from encoder.errors import ConfigError, ModelError
from llava_rad.model.config import PromptConfig
from llava_rad.model.prompt import INSTRUCTION, SYSTEM, Prompt
from llava_rad.model.templates import MAIRA_2_INSTRUCTION, MAIRA_2_SYSTEM, Study
from tests.llava_rad.published import vicuna_tokenizer

MAIRA_2 = Prompt(MAIRA_2_SYSTEM, MAIRA_2_INSTRUCTION, "maira-2", None, "whole")
LLAVA_RAD = Prompt(template="llava-rad")
HEAD = "You are an expert radiology assistant tasked with interpreting a chest X-ray study. USER: "
ASKED = (
    " Provide a structured description of the findings in the radiology study in comparison to the prior frontal image."
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = vicuna_tokenizer()
    found.add_special_tokens(["<image>"])
    found.add_tokens(["<obj>", "</obj>", "<box>", "</box>", "<x1>", "<y1>"])
    return found


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        (
            Study(),
            f"{HEAD}Given the current frontal image only<image>{ASKED} "
            "INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A ASSISTANT: ",
        ),
        (
            Study(lateral=True, indication="Cough."),
            f"{HEAD}Given the current frontal image<image> and the current lateral image<image>{ASKED} "
            "INDICATION: Cough. TECHNIQUE: N/A COMPARISON: N/A ASSISTANT: ",
        ),
        (
            Study(prior=True, technique="PA.", comparison="Yesterday."),
            f"{HEAD}Given the current frontal image<image> and the prior frontal image<image> PRIOR_REPORT: N/A{ASKED} "
            "INDICATION: N/A TECHNIQUE: PA. COMPARISON: Yesterday. ASSISTANT: ",
        ),
        (
            Study(lateral=True, prior=True, prior_report="Clear."),
            f"{HEAD}Given the current frontal image<image> the current lateral image<image> and the prior frontal "
            f"image<image> PRIOR_REPORT: Clear.{ASKED} INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A ASSISTANT: ",
        ),
        (
            Study(grounded=True),
            f"{HEAD}Given the current frontal image only<image>{ASKED} Each finding should be described as a "
            "self-contained plain-text sentence. If the finding is groundable, locate the finding in the current "
            "frontal chest X-ray image, with bounding boxes indicating all locations where it can be seen in the "
            "current frontal image. Otherwise, generate just the ungrounded finding without bounding boxes. "
            "INDICATION: N/A TECHNIQUE: N/A COMPARISON: N/A ASSISTANT: ",
        ),
    ],
    ids=["frontal", "lateral", "prior", "three images", "grounded"],
)
def test_maira_2_byte_for_byte(study: Study, expected: str, tokenizer: Any) -> None:
    prompt = MAIRA_2.with_study(study)
    assert prompt.text == expected
    pieces = prompt.pieces(tokenizer, bos=1)
    assert len(pieces) == expected.count("<image>") + 1 == study.images + 1
    # the same text by the tokenizer itself, split where it put its image token
    image = tokenizer.token_to_id("<image>")
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(expected, add_special_tokens=False).ids
    assert [token for piece in pieces for token in piece] == [1, *(token for token in ids if token != image)]


def test_maira_2_counts_tokens_of_three_images() -> None:
    """1369 an image at 518 pixels: (518 / 14) squared, without CLS."""
    assert 3 * (518 // 14) ** 2 == 4107
    found = vicuna_tokenizer()
    found.add_special_tokens(["<image>"])
    pieces = MAIRA_2.with_study(Study(lateral=True, prior=True)).pieces(found, bos=1)
    assert [len(piece) > 0 for piece in pieces] == [True] * 4 and pieces[0].count(1) == 1


def test_llava_rad_byte_for_byte(tokenizer: Any) -> None:
    whole = f"{SYSTEM} USER: <image>\nProvide a description of the findings in the radiology image"
    assert LLAVA_RAD.text == f"{whole}. ASSISTANT:" == Prompt().text
    assert LLAVA_RAD.encode(tokenizer, bos=1) == Prompt().encode(tokenizer, bos=1)
    assert tuple(map(len, LLAVA_RAD.encode(tokenizer, bos=1))) == (35, 22)
    indicated = LLAVA_RAD.with_study(Study(indication="Fever\nand cough."))
    assert indicated.text == f"{whole} given the following indication: Fever and cough. ASSISTANT:"


@pytest.mark.parametrize(
    ("prompt", "study"),
    [
        (Prompt(), Study(indication="Cough.")),
        (Prompt(), Study(lateral=True)),
        (LLAVA_RAD, Study(prior=True)),
        (LLAVA_RAD, Study(grounded=True)),
        (MAIRA_2, Study(prior_report="Clear.")),
    ],
)
def test_what_has_no_place_is_refused(prompt: Prompt, study: Study, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="--"):
        prompt.with_study(study).pieces(tokenizer, bos=1)


@pytest.mark.parametrize("text", ["<image>", "a </s> b", "<obj>", "<x1>"])
def test_a_text_with_a_token_of_the_model_is_refused(text: str, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="token of the model"):
        MAIRA_2.with_study(Study(indication=text)).pieces(tokenizer, bos=1)


def test_an_image_token_in_an_instruction_is_no_image(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="stands for an image"):
        MAIRA_2.with_instruction("See <image>.").pieces(tokenizer, bos=1)
    before, after = Prompt().with_instruction("See <image>.").encode(tokenizer, bos=1)
    assert tokenizer.token_to_id("<image>") not in before + after
    indicated = LLAVA_RAD.with_study(Study(indication="<image>"))
    assert len(indicated.pieces(tokenizer, bos=1)) == 2


def test_a_tokenizer_without_an_image_token_is_refused() -> None:
    with pytest.raises(ModelError, match="<image>"):
        MAIRA_2.pieces(vicuna_tokenizer(), bos=1)


def test_a_turn_of_its_own() -> None:
    prompt = Prompt(MAIRA_2_SYSTEM, "Ask.", "maira-2", "  USER:  {}  ASSISTANT: ", "whole")
    assert prompt.text.startswith(f"{MAIRA_2_SYSTEM}  USER:  Given") and prompt.text.endswith("N/A  ASSISTANT: ")


def test_the_file_says_a_template_only_where_it_is_not_the_usual_one() -> None:
    assert set(PromptConfig().model_dump()) == {"system", "instruction", "chunks"}
    other = PromptConfig(template="maira-2", chunks="whole", instruction=INSTRUCTION)
    assert other.model_dump()["template"] == "maira-2"
    assert PromptConfig.model_validate_json(other.model_dump_json()) == other
