"""Samples: prompt, labels, limits, images and order (checks of report-generation.md section 6, by their numbers)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row
from encoder.errors import ConfigError
from encoder.preprocessing import RECIPES, recipe_named
from llava_rad.model.config import LlavaRadConfig, TokenIds
from llava_rad.model.prompt import Prompt
from llava_rad.model.tokenizer import Tokens
from llava_rad.reports.pairs import Pair
from llava_rad.training.config import DataConfig
from llava_rad.training.data import (
    IGNORED,
    LengthGrouped,
    Pixels,
    Prompted,
    Samples,
    cache_builder,
    collate,
    select_pairs,
    tokenise,
)
from llava_rad.training.initial import train_tokenizer
from tests.llava_rad.training import small_pairs

TEXTS = (
    "The heart is normal. The lungs are clear.",
    "There is a <image> left </s> pleural effusion; <unk> <s>.",
    "No pneumothorax.",
)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """A tokenizer with Llama's special tokens and an ``<image>`` of its own."""
    from tokenizers import AddedToken

    prompt = Prompt()
    learnt = train_tokenizer([*small_pairs.REPORTS, prompt.before_image, prompt.after_image] * 20, 600)
    learnt.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    return Tokens(learnt, TokenIds())


@pytest.fixture(scope="module")
def prompt(tokens: Tokens) -> Prompted:
    """The prompt around 1369 image tokens."""
    config = LlavaRadConfig(name="t", image_tokens=1369, recipe=RECIPES["rad-dino"].to_dict())
    return Prompted.of(config, tokens)


def made(texts: tuple[str, ...], tokens: Tokens, prompt: Prompted, **data: object) -> dict[str, Samples]:
    listed = [Pair(Row(Path(f"/{n}.png"), image=str(n), split="train"), text) for n, text in enumerate(texts)]
    return tokenise(listed, range(len(listed)), tokens, prompt, DataConfig.model_validate(data))[0]


def test_p1_an_image_of_518_pixels_is_1369_tokens_of_a_sample(tokens: Tokens, prompt: Prompted) -> None:
    samples = made(TEXTS, tokens, prompt)["train"]
    assert prompt.image == 1369 == 37 * 37
    for ids, length in zip(samples.answers, samples.lengths, strict=True):
        assert length == len(prompt.before) + 1369 + len(prompt.after) + len(ids)


def test_p5_training_ids_begin_with_the_generation_prompt(tokens: Tokens, prompt: Prompted) -> None:
    before, after = Prompt().encode(tokens.tokenizer, tokens.ids.bos)
    assert (list(prompt.before), list(prompt.after)) == (before, after)


def test_p6_one_bos_in_front_and_one_supervised_eos_at_the_end(tokens: Tokens, prompt: Prompted) -> None:
    for ids in made(TEXTS, tokens, prompt)["train"].answers:
        whole = [*prompt.before, *prompt.after, *ids.tolist()]
        assert whole.count(tokens.ids.bos) == 1 and whole[0] == tokens.ids.bos
        assert whole.count(tokens.ids.eos) == 1 and whole[-1] == tokens.ids.eos


def test_p7_what_is_supervised_is_the_report_and_nothing_else(tokens: Tokens, prompt: Prompted) -> None:
    samples = made(TEXTS, tokens, prompt)["train"]
    samples.source = _Zeros()
    batch = collate([samples[n] for n in range(3)])
    for text, row in zip(TEXTS, batch["labels"], strict=True):
        kept = row[row != IGNORED].tolist()
        assert kept[-1] == tokens.ids.eos
        assert tokens.tokenizer.decode(kept[:-1], skip_special_tokens=False).strip() == text
        assert (row[len(kept) :] == IGNORED).all()
    assert samples.supervised() == int((batch["labels"] != IGNORED).sum())


def test_p7_an_empty_report_still_teaches_its_end(tokens: Tokens, prompt: Prompted) -> None:
    (ids,) = made((" ",), tokens, prompt)["train"].answers
    assert ids[-1] == tokens.ids.eos


def test_p10_special_tokens_in_a_report_are_ordinary_text(tokens: Tokens, prompt: Prompted) -> None:
    ids = made(TEXTS, tokens, prompt)["train"].answers[1].tolist()
    image = tokens.tokenizer.token_to_id("<image>")
    assert image is not None and image not in ids
    assert ids.count(tokens.ids.eos) == 1 and tokens.ids.bos not in ids


def test_p11_what_is_too_long_is_left_out_whole_and_counted(tokens: Tokens, prompt: Prompted) -> None:
    listed = [Pair(Row(Path(f"/{n}.png"), image=str(n), split="train"), "No pneumothorax.") for n in range(3)]
    listed.append(Pair(Row(Path("/l.png"), image="l", split="train"), "The lungs are clear. " * 90))
    short = len(prompt.before) + 1369 + len(prompt.after) + 40
    samples, dropped = tokenise(listed, range(4), tokens, prompt, DataConfig(max_length=short, max_too_long=0.25))
    assert len(samples["train"]) == 3 and dropped == {f"longer than {short} tokens": 1}
    with pytest.raises(ConfigError, match=r"1 of 4 samples are longer than data.max_length = \d+: the longest has \d+"):
        tokenise(listed, range(4), tokens, prompt, DataConfig(max_length=short))


@pytest.mark.parametrize(
    "name",
    [
        "rad-dino-224",
        "biovil-t",
        "chexzero",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("clip-224", "biomedclip", "mrm-224")),
    ],
)
def test_p14_training_sees_the_very_pixels_that_generation_sees(name: str, tmp_path: Path) -> None:
    from encoder.reader.sandbox import Reader

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140)).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (130, 80)).astype(np.uint8)).save(tmp_path / "b.png")
    recipe = recipe_named(name)
    listed = [Pair(Row(tmp_path / name, image=name, split="train"), "x") for name in ("a.png", "b.png")]
    pixels = Pixels(
        cache_builder(DataConfig(workers=1), [pair.row for pair in listed], recipe, tmp_path / "cache").cache(), recipe
    )
    with Reader() as reader:
        for number, name in enumerate(("a.png", "b.png")):
            expected = reader.prepare(tmp_path / name, recipe).pixels
            assert expected.shape == (recipe.size, recipe.size)
            np.testing.assert_array_equal(pixels[number], expected)


def test_the_pixel_cache_of_pre_training_is_opened_by_training(tmp_path: Path) -> None:
    table = small_pairs.make(tmp_path, 3, 1)
    selected = select_pairs(DataConfig(pairs=(str(table),)))
    built = Builder([pair.row for pair in selected.pairs], tmp_path / "cache", size=224, workers=1).cache()
    again = cache_builder(DataConfig(), selected.images.rows, RECIPES["rad-dino-224"], tmp_path / "cache").cache()
    assert again.fingerprint == built.fingerprint
    with pytest.raises(ConfigError, match=r"recipe|of 224 pixels"):
        cache_builder(DataConfig(), selected.images.rows, RECIPES["mimic-cxr-jpg"], tmp_path / "cache").cache()


def test_p31_grouping_by_length_opens_no_image(tokens: Tokens, prompt: Prompted) -> None:
    samples = made(TEXTS * 4, tokens, prompt)["train"]
    assert list(LengthGrouped(samples.lengths, 4, 0)) != []
    assert samples.source is None  # __getitem__ would have failed


@pytest.mark.parametrize("number", [1, 7, 64, 1000])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_sample_comes_once_in_an_order_of_seed_and_epoch(number: int, grouped: bool) -> None:
    lengths = np.random.default_rng(3).integers(1400, 1900, number)
    order = LengthGrouped(lengths, 8, seed=5, grouped=grouped)
    first = list(order)
    assert sorted(first) == list(range(number)) and list(order) == first
    order.set_epoch(1)
    second = list(order)
    assert sorted(second) == list(range(number))
    if number > 7:
        assert second != first and list(LengthGrouped(lengths, 8, seed=6, grouped=grouped)) != first


def test_batches_hold_samples_of_similar_length_and_only_the_last_is_small() -> None:
    lengths = np.random.default_rng(0).integers(1400, 1900, 1003)

    def padding(order: list[int]) -> int:
        batches = [lengths[order[at : at + 8]] for at in range(0, len(order), 8)]
        assert [len(batch) for batch in batches] == [8] * 125 + [3]
        return sum(int((batch.max() - batch).sum()) for batch in batches)

    assert padding(list(LengthGrouped(lengths, 8, 0))) < 0.1 * padding(
        list(LengthGrouped(lengths, 8, 0, grouped=False))
    )


def test_subjects_in_two_splits_and_empty_tables_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "a.jsonl"
    lines = [
        {"image": "1.png", "findings": "clear", "subject": "SECRET", "split": "train"},
        {"image": "2.png", "findings": "clear", "subject": "SECRET", "split": "val"},
    ]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="more than one split") as caught:
        select_pairs(DataConfig(pairs=(str(table),)))
    assert "SECRET" not in str(caught.value)
    table.write_text(json.dumps(lines[1]) + "\n")
    with pytest.raises(ConfigError, match="no pair of a frontal image in the split train"):
        select_pairs(DataConfig(pairs=(str(table),)))
    with pytest.raises(ConfigError, match=r"data.pairs is not given"):
        select_pairs(DataConfig())
    with pytest.raises(ConfigError, match=r"data.pairs, number 2 of 2: the table of pairs does not exist"):
        select_pairs(DataConfig(pairs=(str(table), "nowhere.jsonl")))


def test_images_that_are_not_frontal_are_not_trained_on(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    views = ("PA", "AP supine", "", "unknown", "LL", "RAO", "SWIMMERS", "AP/LAT")
    lines = [f"{number}.png,clear,{view},train" for number, view in enumerate(views)]
    table.write_text("\n".join(["image,findings,view,split", *lines]) + "\n")
    selected = select_pairs(DataConfig(pairs=(str(table),)))
    assert [pair.row.view for pair in selected.pairs] == ["PA", "AP", "unknown", "unknown"]
    assert selected.dropped == {"view": 4}


class _Zeros:
    field = "pixels"

    def __getitem__(self, number: int) -> np.ndarray:
        return np.zeros((4, 4), np.uint8)


def test_p9_padding_is_known_by_place_not_by_id(tokens: Tokens, prompt: Prompted) -> None:
    samples = made(("x", "The lungs are clear. " * 3), tokens, prompt)["train"]
    samples.answers[0] = np.array([tokens.ids.pad, 5, tokens.ids.eos], np.int32)  # <unk> within a report is its id 0
    samples.source = _Zeros()
    labels = collate([samples[0], samples[1]])["labels"]
    assert labels[0, :3].tolist() == [tokens.ids.pad, 5, tokens.ids.eos] and (labels[0, 3:] == IGNORED).all()
    assert labels.dtype == torch.long
