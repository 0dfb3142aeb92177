"""Training on Findings and Impression: targets, settings of the checkpoint, samples, and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from encoder.errors import ConfigError
from llava_rad.benchmark.writing import findings_alone
from llava_rad.generation.pieces import Draft
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.prompt import INSTRUCTION, Prompt, encode_answer, encode_text
from llava_rad.model.sections import BOTH, FINDINGS_ALONE, divided
from llava_rad.model.tokenizer import Tokens
from llava_rad.reports.pairs import Context, Pair, read_pairs, write_pairs
from llava_rad.training.callbacks import Watcher
from llava_rad.training.config import DataConfig, StudyConfig, load_config
from llava_rad.training.data import Prompted, section_settings, select_pairs, tokenise
from llava_rad.training.initial import make_tokens
from llava_rad.training.studies import Layout, study_samples
from llava_rad.training.study_images import StudyImages
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs

TAUGHT = "data.sections=[findings, impression]"


def with_impressions(table: Path, folder: Path, impressions: tuple[str, ...] = ("No acute disease.", "")) -> Path:
    """The pairs of a table with impressions in turns, beside its images."""
    pairs = [
        replace(pair, context=Context(impression=impressions[number % len(impressions)]))
        for number, pair in enumerate(read_pairs(table))
    ]
    folder.mkdir(exist_ok=True)
    write_pairs(pairs, folder / "pairs.jsonl")
    return folder / "pairs.jsonl"


def loaded(tiny: Path) -> tuple[LlavaRadConfig, Tokens]:
    config = LlavaRadConfig.load(tiny)
    return config, Tokens.load(tiny / "language_model", config.tokens)


def test_both_kinds_of_samples_teach_the_same_targets(tiny: Path, pairs: Path, tmp_path: Path) -> None:
    listed: list[Pair] = read_pairs(with_impressions(pairs, tmp_path / "with"))
    config, tokens = loaded(tiny)
    settings = section_settings(config, BOTH)
    data = DataConfig(sections=BOTH, max_length=512)
    plain, _ = tokenise(listed, range(len(listed)), tokens, Prompted.of(settings, tokens), data)
    images = StudyImages.of(listed, ())
    layout = Layout.of(settings, tokens)
    studies, _ = study_samples(listed, images, range(len(listed)), layout, StudyConfig(inputs=()), data, 0)
    train = [pair for pair in listed if pair.row.split == "train"]
    for number, pair in enumerate(train):
        text = f"FINDINGS: {pair.findings}"
        expected = encode_text(tokens.tokenizer, text)
        if number % 2 == 0:
            text += "\nIMPRESSION: No acute disease."
            expected = encode_answer(tokens.tokenizer, text, tokens.ids.eos)
        for samples in (plain, studies):
            assert samples["train"].answers[number].tolist() == expected
            assert samples["train"].texts[number] == text
    alone, _ = tokenise(listed, range(len(listed)), tokens, Prompted.of(config, tokens), DataConfig(max_length=512))
    assert [ids.tolist() for ids in alone["train"].answers] == [
        encode_answer(tokens.tokenizer, pair.findings, tokens.ids.eos) for pair in train
    ]


def test_the_instruction_grows_and_the_longest_answer_too(tiny: Path) -> None:
    config = LlavaRadConfig.load(tiny)
    assert section_settings(config, FINDINGS_ALONE) is config
    both = section_settings(config, BOTH)
    assert both.prompt.instruction == f"{config.prompt.instruction} Then give the impression."
    assert config.prompt.instruction == INSTRUCTION and both.sections == BOTH
    assert both.generation.max_new_tokens == config.generation.max_new_tokens + 100
    assert section_settings(both, BOTH) is both, "going on with it adds nothing"
    with pytest.raises(ConfigError, match="writes findings and impression"):
        section_settings(both, FINDINGS_ALONE)


def test_impressions_are_asked_of_the_training_pairs(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pair of the split train has one"):
        select_pairs(DataConfig(pairs=(str(pairs),), sections=BOTH))
    assert select_pairs(DataConfig(pairs=(str(with_impressions(pairs, tmp_path / "w")),), sections=BOTH)).pairs


@pytest.mark.parametrize("sections", ["[impression]", "[impression, findings]", "[findings, findings]", "[]", "[x]"])
def test_other_sections_are_no_configuration(sections: str) -> None:
    with pytest.raises(ConfigError):
        load_config("paper", [f"data.sections={sections}"])
    assert load_config("paper", []).data.sections == FINDINGS_ALONE


def test_a_tokenizer_from_scratch_knows_the_headings() -> None:
    config = load_config("tiny", [])
    texts = ["The lungs are clear."] * 20
    usual, both = (make_tokens(config.model.scratch, texts, Prompt(), sections) for sections in (FINDINGS_ALONE, BOTH))
    heading = "IMPRESSION:"
    assert len(encode_text(both.tokenizer, heading)) < len(encode_text(usual.tokenizer, heading))
    assert divided(both.decode(encode_text(both.tokenizer, "FINDINGS: The lungs are clear.\nIMPRESSION: clear."))) == (
        "The lungs are clear.",
        "clear.",
    )


def test_samples_of_a_run_show_both_sections_and_score_the_findings(tmp_path: Path) -> None:
    written = [
        ("FINDINGS: No effusion.\nIMPRESSION: Normal.", "FINDINGS: No effusion.\nIMPRESSION: Pneumonia."),
        ("The heart is enlarged.", "FINDINGS: The heart is enlarged."),
    ]
    bar = SimpleNamespace(update=lambda steps: None)
    numbers: dict[str, float] = {}
    metrics = SimpleNamespace(write=lambda step, found: numbers.update(found))
    watcher = Watcher(cast(Any, metrics), tmp_path / "s.jsonl", bar, [], notes=False, with_impression=True)
    evaluation = SimpleNamespace(evaluation=SimpleNamespace(samples=2))
    watcher.trainer = cast(Any, SimpleNamespace(config=evaluation, write_reports=lambda limit: written))
    watcher.on_evaluate(None, SimpleNamespace(global_step=3), None)
    first, second = (json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines())
    assert first == {
        "step": 3, "number": 0, "report": "No effusion.", "reference": "No effusion.",
        "impression": "Normal.", "reference_impression": "Pneumonia.",
    }  # fmt: skip
    assert (second["report"], second["impression"]) == ("The heart is enlarged.", "")
    assert numbers["sample_rouge_l"] == 100.0 or numbers["sample_rouge_l"] == 1.0


def test_a_benchmark_scores_findings_of_a_draft() -> None:
    whole = findings_alone(Draft("FINDINGS: Clear.\nIMPRESSION: Nor", (), complete=False))
    assert (whole.text, whole.complete) == ("Clear.", True)
    cut = findings_alone(Draft("FINDINGS: Cle", (), complete=False))
    assert (cut.text, cut.complete) == ("Cle", False)


@pytest.mark.slow
def test_validate_counts_impressions(pairs: Path, tmp_path: Path, tiny: Path, run: Run) -> None:
    table = with_impressions(pairs, tmp_path / "with")
    done = run("train", "--config", "tiny", *small_pairs.overrides(table, tiny, TAUGHT), "--validate")
    assert done.code == 0, done.err
    assert "findings, and the impression of 6 pairs" in done.out


@pytest.mark.slow
def test_a_run_leaves_a_model_that_writes_both(pairs: Path, tmp_path: Path, tiny: Path, run: Run) -> None:
    """A small run that learns one report by heart, from its table to the report as JSON."""
    (tmp_path / "one").mkdir()
    small_pairs.make(tmp_path / "one", train=4, val=2)
    listed = [
        replace(pair, findings="No pneumothorax.", context=Context(impression="Normal chest."))
        for pair in read_pairs(tmp_path / "one" / "pairs.jsonl")
    ]
    write_pairs(listed, tmp_path / "one" / "pairs.jsonl")
    changes = small_pairs.overrides(
        tmp_path / "one" / "pairs.jsonl", None, TAUGHT, f"model.encoder={tiny / 'encoder'}",
        "model.recipe=rad-dino-56", "model.scratch.hidden_size=96", "optimization.steps=60", "optimization.lr=3e-3",
        "evaluation.max_new_tokens=40", "evaluation.max_pairs=2",
    )  # fmt: skip
    runs.train(tmp_path / "run", changes)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["sections"] == ["findings", "impression"]
    assert config["prompt"]["instruction"].endswith("Then give the impression.")
    assert "Findings and Impression sections" in (tmp_path / "run" / "model" / "README.md").read_text()
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert samples[-1]["report"] == "No pneumothorax." and samples[-1]["impression"] == "Normal chest."
    image = tmp_path / "one" / "images" / "0.png"
    done = run("generate", image, "--model", tmp_path / "run" / "model", "-f", "json", "--force")
    report = json.loads(done.out)
    assert report["report"]["text"] == "No pneumothorax."
    assert report["report"]["impression"] == {"text": "Normal chest.", "sentences": [{"text": "Normal chest."}]}
    text = run("generate", image, "--model", tmp_path / "run" / "model", "--stream", "--force").out
    assert "FINDINGS:\nNo pneumothorax.\n\nIMPRESSION:\nNormal chest.\n" in text
    assert text == run("generate", image, "--model", tmp_path / "run" / "model", "--no-stream", "--force").out
