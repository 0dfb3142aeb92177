"""Findings and Impression in one answer: targets are cut back, and a stream shows what the whole answer says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.prompt import encode_answer, encode_text
from llava_rad.model.sections import Answer, ShownStream, divided, encode_target, headed, joined, shown
from llava_rad.model.tokenizer import Tokens

PARTS = ["FINDINGS:", "IMPRESSION:", "impression:", "\n", " ", "I", "IM", "FIND", "No effusion.", "a", "\u2028", "\t"]
texts = st.lists(st.sampled_from(PARTS), max_size=8).map(" ".join)
pieces = st.lists(st.sampled_from(PARTS) | st.text("IMPRESOFNDG:\n ab", max_size=4), max_size=10)


@given(texts, texts)
def test_a_target_is_cut_back_whatever_words_its_sections_hold(findings: str, impression: str) -> None:
    one, other = " ".join(findings.split()), " ".join(impression.split())
    assert divided(joined(findings, impression)) == Answer(one, other or None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The heart is normal.", Answer("The heart is normal.")),
        ("", Answer("")),
        ("FINDINGS: Clear.", Answer("Clear.")),
        ("Clear.\nIMPRESSION: Normal.", Answer("Clear.", "Normal.")),
        ("Findings: Clear.\n\nImpression:\nNormal.\nFollow up.", Answer("Clear.", "Normal.\nFollow up.")),
        ("IMPRESSION: Normal.", Answer("", "Normal.")),
        ("FINDINGS: Clear.\nIMPRESSION:", Answer("Clear.", "")),
        ("Clear. IMPRESSION: Normal.", Answer("Clear. IMPRESSION: Normal.")),  # within a line it may be a word of it
        ("FINDINGS: a\nIMPRESSION: b\nIMPRESSION: c", Answer("a", "b\nIMPRESSION: c")),
    ],
)
def test_answers_are_cut_at_headings_that_begin_a_line(text: str, expected: Answer) -> None:
    assert divided(text) == expected


@given(pieces)
def test_a_stream_shows_the_whole_answer_piece_by_piece(given_pieces: list[str]) -> None:
    text, stream = "".join(given_pieces), ShownStream(with_impression=True)
    found = [more for piece in given_pieces for more in stream.add(piece)]
    assert "".join([*found, *stream.end()]) == shown(text.rstrip())


def test_a_stream_holds_headings_back() -> None:
    stream = ShownStream(with_impression=True)
    said = [stream.add(piece) for piece in ("FIND", "INGS:", " Clear.", "\nIMP", "RESSION:", " Nor", "mal.")]
    assert said == [[], [], ["Clear."], [], [], ["\n\nIMPRESSION:\nNor"], ["mal."]]
    assert stream.end() == []
    plain = ShownStream(with_impression=False)
    assert [plain.add("FIND"), plain.end()] == [["FIND"], []]


def test_what_is_shown_is_read_as_the_answer() -> None:
    answer = joined("Clear. Heart normal.", "Normal.")
    assert shown(answer) == "Clear. Heart normal.\n\nIMPRESSION:\nNormal."
    assert divided(shown(answer)) == divided(answer)
    sentences = [("findings", "Clear."), ("findings", "Heart normal."), ("impression", "Normal.")]
    assert " ".join(headed(sentences)) == "FINDINGS: Clear. Heart normal. \nIMPRESSION: Normal."


def test_only_an_impression_teaches_the_end(tiny: Path) -> None:
    tokens = Tokens.load(tiny / "language_model", LlavaRadConfig.load(tiny).tokens)
    both = encode_target(tokens.tokenizer, "Clear.", "Normal.", 2)
    assert both == encode_answer(tokens.tokenizer, "FINDINGS: Clear.\nIMPRESSION: Normal.", 2)
    alone = encode_target(tokens.tokenizer, "Clear.", " ", 2)
    assert alone == encode_text(tokens.tokenizer, "FINDINGS: Clear.") and alone[-1] != 2


def test_a_checkpoint_states_its_sections_only_if_they_are_not_the_findings(tiny: Path) -> None:
    config = LlavaRadConfig.load(tiny)
    assert "sections" not in config.model_dump(mode="json") and not config.with_impression
    data = config.model_dump(mode="json") | {"sections": ["findings", "impression"]}
    both = LlavaRadConfig.model_validate(data)
    assert both.with_impression and both.model_dump(mode="json") == data
    for wrong in (["impression"], ["impression", "findings"], [], ["findings", "history"]):
        with pytest.raises(ValidationError):
            LlavaRadConfig.model_validate(data | {"sections": wrong})
