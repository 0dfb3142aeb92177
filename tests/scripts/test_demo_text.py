"""Grammar, labeler and tokenizer of the demonstration model."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llava_rad.generation.abstention import withhold
from llava_rad.model.prompt import Prompt, encode_answer
from llava_rad.training.initial import train_tokenizer
from scripts.demo import grammar
from scripts.demo.evaluate import ROW_NAMES, as_row, label_text
from scripts.demo.nih import LABELS, NO_FINDING


def write(labels: frozenset[str], sides: dict[str, str] | None = None, seed: int = 0, author: int | None = None) -> str:
    return grammar.text_of(grammar.write(labels, sides or {}, np.random.default_rng(seed), author))


@settings(deadline=None, max_examples=60)
@given(labels=st.frozensets(st.sampled_from(LABELS)), seed=st.integers(0, 999), data=st.data())
def test_labeler_reads_back_what_the_grammar_wrote(labels: frozenset[str], seed: int, data: st.DataObject) -> None:
    of_labels = st.dictionaries(st.sampled_from(sorted(labels) or [""]), st.sampled_from(sorted(grammar.SIDES)))
    assert label_text(write(labels, data.draw(of_labels), seed)) == labels


@settings(deadline=None, max_examples=60)
@given(
    labels=st.frozensets(st.sampled_from(LABELS)),
    unsure=st.frozensets(st.sampled_from(LABELS)),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_findings_that_cannot_be_judged_leave_the_text_and_no_other(
    labels: frozenset[str], unsure: frozenset[str], seed: int, data: st.DataObject
) -> None:
    sides = st.dictionaries(st.sampled_from(sorted(labels) or [""]), st.sampled_from(sorted(grammar.SIDES)))
    text = write(labels, data.draw(sides), seed)
    found = withhold(text, unsure, grammar.PHRASES, say=False)
    assert not found.left and label_text(found.text) == labels - unsure
    if "." in found.text and "cannot be judged" not in found.text:
        assert not unsure & {label for label in LABELS if mentions(found.text, label)}


def mentions(text: str, label: str) -> bool:
    return any(phrase in text.lower() for phrase in grammar.PHRASES[label])


def test_every_pair_by_every_author() -> None:
    for author in range(len(grammar.AUTHORS)):
        for pair in combinations(LABELS, 2):
            assert label_text(write(frozenset(pair), author=author)) == frozenset(pair)


def test_side_is_given_only_where_known_and_never_for_the_heart() -> None:
    labels = frozenset({"Cardiomegaly", "Effusion", "Consolidation"})
    for seed in range(40):
        assert not {"left", "right", "both"} & set(write(labels, seed=seed).replace(".", "").split())
        text = write(labels, {"Effusion": "left", "Cardiomegaly": "left"}, seed=seed)
        assert text.count("left") == 1 and "effusion on the left" in text


def test_nothing_that_labels_cannot_support() -> None:
    text = (
        "small large mild moderate severe possible probable likely PA AP lateral view year old man woman male female "
        "catheter tube pacemaker new unchanged worsened improved acute chronic two three multiple"
    )
    unsupported = set(text.split())
    for author in range(len(grammar.AUTHORS)):
        words = set(write(frozenset(LABELS), author=author).replace(".", "").replace(",", "").split())
        assert not words & unsupported


def test_wording_varies_and_seed_repeats_it() -> None:
    assert len({write(frozenset(), seed=seed) for seed in range(60)}) >= 6
    assert write(frozenset(LABELS), seed=5) == write(frozenset(LABELS), seed=5)


def test_pieces_mark_the_words_that_affirm() -> None:
    pieces = grammar.write({"Effusion"}, {}, np.random.default_rng(0), author=0)
    marked = [(piece.text, piece.finding) for piece in pieces if piece.finding]
    assert marked == [(" pleural effusion", "Effusion")]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("The lungs are clear. Heart size normal.", set()),
        ("No focal consolidation, pleural effusion, or pneumothorax.", set()),
        ("There is no evidence of pneumonia but a small left effusion is present.", {"Effusion"}),
        ("Cardiac enlargement with interstitial edema.", {"Cardiomegaly", "Edema"}),
        ("The heart is not enlarged.", set()),
        ("Bibasilar atelectasis without pneumothorax.", {"Atelectasis"}),
        ("Pneumothorax has resolved.", set()),
        ("Calcified nodules in the right upper lobe; no mass.", {"Nodule"}),
        ("Blunting of the left costophrenic angle.", {"Effusion"}),
        ("Large hiatal hernia. Pleural thickening at the apex.", {"Hernia", "Pleural_Thickening"}),
        ("Emphysematous change, fibrosis. Infiltrates are seen.", {"Emphysema", "Fibrosis", "Infiltration"}),
        ("Consolidation is not seen.", set()),
    ],
)
def test_labeler_on_general_sentences(text: str, labels: set[str]) -> None:
    assert label_text(text) == labels


def test_rows() -> None:
    assert len(ROW_NAMES) == 15 and as_row(frozenset())[-1] == 1 and sum(as_row(frozenset())) == 1
    assert as_row(frozenset({"Mass"}))[ROW_NAMES.index("Mass")] == 1


def test_labeler_against_the_open_i_gold_labels(shared_dir: Path) -> None:
    """NegBio's gold standard on real reports (Peng et al. 2018); bounds slightly below the measured values."""
    reports = shared_dir / "data" / "iu_xray_reports" / "reports.jsonl"
    if not reports.is_file():
        pytest.skip("needs the Open-i reports with gold labels")
    rows = [json.loads(line) for line in reports.read_text().splitlines()]
    rows = [row for row in rows if row.get("cxr14_gold")]
    found = [label_text(f"{row['findings'] or ''}\n{row['impression'] or ''}") for row in rows]
    for label, least in {"Cardiomegaly": 0.9, "Atelectasis": 0.85, "Effusion": 0.8, "Emphysema": 0.8}.items():
        gold = [bool(row["cxr14_gold"][label]) for row in rows]
        said = [label in labels for labels in found]
        hits = sum(a and b for a, b in zip(gold, said, strict=True))
        assert 2 * hits / (sum(gold) + sum(said)) >= least, label


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(1)
    paragraphs = [write(frozenset(rng.choice(LABELS, size=3)), seed=seed) for seed in range(300)]
    prompt = Prompt()
    return [*paragraphs, *[f"{prompt.before_image} {prompt.instruction} ASSISTANT:"] * 20]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Tokenizer:
    return train_tokenizer(texts)


def test_tokenizer_is_of_llamas_form(texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from llava_rad.model.config import TokenIds
    from llava_rad.model.tokenizer import Tokens

    assert [tokenizer.token_to_id(t) for t in ("<unk>", "<s>", "</s>", "<0x00>", "<0xFF>")] == [0, 1, 2, 3, 258]
    assert 300 < tokenizer.get_vocab_size() <= 800
    assert tokenizer.encode("The heart").ids[0] == 1
    for text in [*texts[:50], "Größe: 3 µm, <s> no token", "two  spaces"]:
        ids = encode_answer(tokenizer, text, 2)
        assert ids[-1] == 2 and 2 not in ids[:-1] and tokenizer.decode(ids) == text

    tokens = Tokens(tokenizer, TokenIds())
    tokens.save(tmp_path)
    transformers_own = AutoTokenizer.from_pretrained(tmp_path)
    assert transformers_own(texts[0]).input_ids == tokenizer.encode(texts[0]).ids
    assert (transformers_own.bos_token_id, transformers_own.eos_token_id) == (1, 2)


def test_tokenizer_separates_findings_from_punctuation(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("There is pleural effusion.").tokens
    assert tokens[-2:] == ["▁effusion", "."]


@settings(deadline=None, max_examples=60)
@given(
    labels=st.frozensets(st.sampled_from(LABELS)),
    others=st.frozensets(st.sampled_from(LABELS)),
    seed=st.integers(0, 999),
)
@example(frozenset({"Mass"}), frozenset(LABELS), 0)  # the first sentence is empty
def test_nothing_is_said_of_unknown_labels(labels: frozenset[str], others: frozenset[str], seed: int) -> None:
    unknown = others - labels
    pieces = grammar.write(labels, {}, np.random.default_rng(seed), unknown=unknown)
    text = grammar.text_of(pieces)
    assert label_text(text) == labels and not [label for label in unknown if mentions(text, label)]
    assert text == text.strip() and "cannot be judged" not in text
    normal = {NO_FINDING} if not labels | unknown else set()
    assert {piece.finding for piece in pieces if piece.finding} <= labels | normal
