"""Training on studies: rows of ids, the loss against an independent one, what is left out, and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from encoder.datasets.manifest import Row
from encoder.errors import ConfigError
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.config import FurtherImages
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.projector import Projector, pool, pooled_tokens, project_images
from llava_rad.model.prompt import Prompt, encode_answer
from llava_rad.model.templates import Study
from llava_rad.reports.pairs import Context, Pair, write_pairs
from llava_rad.training.config import DataConfig, ScratchConfig, StudyConfig, load_config
from llava_rad.training.data import IGNORED, LengthGrouped, Prompted
from llava_rad.training.initial import load_trainable, make_tokens
from llava_rad.training.module import ReportLoss
from llava_rad.training.studies import (
    IMAGE,
    INPUTS,
    Layout,
    StudySamples,
    collate_studies,
    study_samples,
    study_settings,
    whole_prompt,
)
from llava_rad.training.study_images import StudyImages
from tests.llava_rad.training import small_pairs
from tests.llava_rad.training.small_pairs import REPORTS

pytestmark = pytest.mark.acceptance(row=34)

ALL = ("lateral", "prior", "prior_report", "indication", "technique", "comparison")
Made = tuple[ReportLoss, LlavaRad]


class Drawn:
    """Images by number, in place of a pixel cache."""

    field = "pixels"

    def __getitem__(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (56, 56), np.uint8)


def studies(folder: Path, count: int = 8) -> list[Pair]:
    """Pairs of which every second has a prior, every third a lateral, all but the first an indication."""
    pairs = []
    for number in range(count):
        row = Row(folder / f"{number}.png", "d", f"p{number}", f"s{number}", f"i{number}", "PA", "train")
        row = replace(row, split="val") if number >= count - 5 else row
        context = Context(
            lateral=folder / f"{number}-l.png" if number % 3 == 0 else None,
            prior=folder / f"{number}-p.png" if number % 2 == 0 else None,
            prior_report=f"Earlier report {number}." if number % 2 == 0 else "",
            indication=f"cough {number}" if number else "",
        )
        pairs.append(Pair(row, REPORTS[number % len(REPORTS)], context=context))
    return pairs


def table(folder: Path, count: int = 12) -> Path:
    """Write the images and the table of these pairs."""
    pairs = studies(folder, count)
    for pair in pairs:
        for path in (pair.row.path, pair.context.lateral, pair.context.prior):
            if path is not None:
                Image.fromarray(small_pairs.image(sum(path.name.encode()))).save(path)
    write_pairs(pairs, folder / "studies.jsonl")
    return folder / "studies.jsonl"


@pytest.fixture
def make(tiny: Path) -> Callable[..., Made]:
    """The module that is trained, and a whole model of the same parts; markers are not zero."""

    def call(config: StudyConfig) -> Made:
        whole = LlavaRad.from_pretrained(tiny)
        settings, projector, words, tokens = load_trainable(tiny, torch.float32, config)
        if projector.markers is not None:
            torch.nn.init.normal_(projector.markers, generator=torch.Generator().manual_seed(1))
        whole.config, whole.projector, whole.language_model = settings, projector, words
        prompt, recipe = Prompted.of(settings, tokens), settings.preprocessing
        side = settings.further_images.pool if settings.further_images else 1
        return ReportLoss(projector, words, tokens, prompt, whole.encoder, recipe, side), whole

    return call


def samples_of(whole: LlavaRad, pairs: list[Pair], config: StudyConfig, **changes: Any) -> dict[str, StudySamples]:
    images = StudyImages.of(pairs, config.inputs)
    layout = Layout.of(whole.config, whole.tokens)
    data = DataConfig(max_length=changes.pop("max_length", 512))
    made, _ = study_samples(pairs, images, range(len(images.rows)), layout, config, data, 0)
    for one in made.values():
        one.source = Drawn()
    return made


def loss_by_hand(whole: LlavaRad, study: Study, pixels: np.ndarray, text: str) -> torch.Tensor:
    """Sum of cross-entropies of one sample, from the pieces of its prompt and the full logits."""
    tokens, side = whole.tokens, whole.config.further_images.pool if whole.config.further_images else 1
    pieces = whole.config.conversation.with_study(study).pieces(tokens.tokenizer, tokens.ids.bos)
    answer = encode_answer(tokens.tokenizer, text, tokens.ids.eos)
    weight = whole.language_model.get_input_embeddings().weight
    parts = [weight[pieces[0]]]
    for kind, image, piece in zip(study.kinds, pixels, pieces[1:], strict=True):
        patches = whole.encoder(whole.config.preprocessing.normalise(image[None])).patches[0]
        if kind and side > 1:  # squares of patches, averaged one by one
            grid = int(len(patches) ** 0.5)
            plane = patches.reshape(grid, grid, -1)
            corners = [(top, left) for top in range(0, grid, side) for left in range(0, grid, side)]
            patches = torch.stack(
                [plane[top : top + side, left : left + side].flatten(0, 1).mean(0) for top, left in corners]
            )
        marker = whole.projector.markers[kind - 1] if kind and whole.projector.markers is not None else 0.0
        parts += [whole.projector(patches) + marker, weight[piece]]
    embeds = torch.cat([*parts, weight[answer]])[None]
    logits = whole.language_model(inputs_embeds=embeds).logits[0]
    return functional.cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer), reduction="sum")


@pytest.mark.parametrize("side", [1, 2])
def test_the_loss_of_mixed_studies_is_the_sum_of_each_ones_own(
    make: Callable[..., Made], tmp_path: Path, side: int
) -> None:
    config = StudyConfig(inputs=ALL, pool=side)
    module, whole = make(config)
    samples = samples_of(whole, studies(tmp_path), config)["val"]
    batch = collate_studies([samples.sample(number) for number in range(len(samples))])
    assert {study.kinds for study in samples.studies} == {(0,), (0, 1), (0, 2), (0, 1, 2)}
    found = module.eval()(**batch, num_items_in_batch=1.0)
    expected = [
        loss_by_hand(whole, study, samples.sample(number)["pixels"], samples.texts[number])
        for number, study in enumerate(samples.studies)
    ]
    torch.testing.assert_close(found["each"], torch.stack(expected), rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(
        module.train()(**batch, num_items_in_batch=1.0)["loss"], sum(expected), rtol=2e-5, atol=0
    )
    module(**batch)["loss"].backward()
    assert all(value.grad is not None for value in module.parameters())
    assert bool(module.projector.markers.grad.abs().sum(1).gt(0).all())


def test_a_study_without_further_inputs_is_the_papers_sample(make: Callable[..., Made], tmp_path: Path) -> None:
    config = StudyConfig(inputs=("indication",))
    module, whole = make(config)
    assert whole.config.further_images is None
    pairs = [replace(pair, context=Context()) for pair in studies(tmp_path)]
    samples = samples_of(whole, pairs, config)["train"]
    batch = collate_studies([samples[0], samples[1]])
    labels = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(ids).long() for ids in samples.answers[:2]], batch_first=True, padding_value=IGNORED
    )
    plain = module(labels=labels, pixels=batch["pixels"])["loss"]
    torch.testing.assert_close(module(**batch)["loss"], plain, rtol=1e-6, atol=0)


def test_rows_of_ids(make: Callable[..., Made], tmp_path: Path) -> None:
    """Labels are the answer, one position early; a feature of an image has one place; text is the template's."""
    config = StudyConfig(inputs=ALL, pool=2)
    _, whole = make(config)
    layout = Layout.of(whole.config, whole.tokens)
    assert (layout.image_tokens, layout.further_tokens) == (16, 4)
    answer = encode_answer(whole.tokens.tokenizer, "No pneumothorax.", whole.tokens.ids.eos)
    study = Study(lateral=True, prior=True, prior_report="Clear.\nStill.", indication="cough")
    ids, labels = layout.row(study, answer)
    assert len(ids) == len(labels) and labels[labels != IGNORED].tolist() == answer
    assert ids[-len(answer) + 1 :].tolist() == answer[:-1] if len(answer) > 1 else True
    assert int((ids == IMAGE).sum()) == 16 + 4 + 4
    assert layout.conversation.with_study(study).text.endswith(
        " USER: <image>\nLateral image: <image>\nEarlier frontal image: <image>\nEarlier report: Clear. Still.\n"
        "Indication: cough\nProvide a description of the findings in the radiology image. ASSISTANT:"
    )


def test_what_is_left_out_depends_on_seed_epoch_and_number_alone(make: Callable[..., Made], tmp_path: Path) -> None:
    config = StudyConfig(inputs=ALL, leave_out=0.5)
    _, whole = make(config)
    samples = samples_of(whole, studies(tmp_path, 40), config)["train"]
    count = len(samples)
    seen = [samples.left_out(number, epoch) for epoch in range(20) for number in range(count)]
    assert seen == [samples.left_out(number, epoch) for epoch in range(20) for number in range(count)]
    assert samples[count + 2]["ids"].tolist() == samples.sample(2, without=samples.left_out(2, 1))["ids"].tolist()
    having = [number for number in range(count) if samples.studies[number].indication]
    rate = np.mean([
        "indication" in samples.left_out(number, epoch) for epoch in range(20) for number in having
    ])  # fmt: skip
    assert rate == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / (20 * len(having))))
    for number in range(count):
        alone = samples.sample(number, without=("prior",))
        assert len(alone["kinds"]) == 1 + samples.studies[number].lateral
    text = samples.layout.tokens.tokenizer.decode([i for i in samples.sample(0, without=("prior",))["ids"] if i >= 0])
    assert "Earlier" not in text
    assert not any(samples_of(whole, studies(tmp_path, 40), config)["val"].left_out(0, epoch) for epoch in range(20))


def test_a_left_out_prior_takes_the_sentences_that_compare_with_it(make: Callable[..., Made], tmp_path: Path) -> None:
    """A report of such sentences alone keeps its prior; the losses on ``val`` are those of whole reports."""
    config = StudyConfig(inputs=ALL, leave_out=0.5)
    _, whole = make(config)
    reports = ("No pneumothorax. The heart is unchanged.", "The heart is unchanged.", "No pneumothorax.")
    pairs = [replace(pair, findings=reports[number % 3]) for number, pair in enumerate(studies(tmp_path, 24))]

    def said(sample: dict[str, Any]) -> str:
        return whole.tokens.decode(sample["labels"][sample["labels"] != IGNORED].tolist()[:-1])

    samples = samples_of(whole, pairs, config)["train"]
    kept = samples_of(whole, pairs, config.model_copy(update={"keep_comparisons": True}))["train"]
    found: set[tuple[str, bool]] = set()
    for index in range(8 * len(samples)):
        epoch, number = divmod(index, len(samples))
        without, text = samples.left_out(number, epoch), samples.texts[number]
        assert said(samples[index]) == ("No pneumothorax." if "prior" in without else text)
        assert said(kept[index]) == said(samples.sample(number, without=("prior",))) == text
        if samples.studies[number].prior:
            found.add((text, "prior" in without))
    assert found == {*((text, False) for text in reports), (reports[0], True), (reports[2], True)}


def test_a_new_tokenizer_knows_the_words_of_the_prompt() -> None:
    with_inputs = make_tokens(ScratchConfig(), REPORTS, whole_prompt(Prompt(), StudyConfig(inputs=ALL))).tokenizer
    for word in ("Lateral", "Earlier", "frontal", "report", "Indication", "Technique", "Comparison", "assistant"):
        assert len(with_inputs.encode(word, add_special_tokens=False).ids) == 1
    alone = make_tokens(ScratchConfig(), REPORTS, whole_prompt(Prompt(), StudyConfig())).tokenizer
    assert len(alone.encode("Indication", add_special_tokens=False).ids) > 1
    assert whole_prompt(Prompt(), StudyConfig()) == Prompt()


def test_inputs_of_other_patients(make: Callable[..., Made], tmp_path: Path) -> None:
    config = StudyConfig(inputs=ALL)
    _, whole = make(config)
    samples = samples_of(whole, studies(tmp_path, 20), config)["train"]
    for name in ("frontal", *INPUTS[:3]):
        donors = samples.donors(name, len(samples))
        assert all(samples.has(one, name) and samples.has(other, name) for one, other in donors.items())
        assert all(samples.subjects[one] != samples.subjects[other] for one, other in donors.items())
    number, donor = next(iter(samples.donors("prior", len(samples)).items()))
    own, other = samples.sample(number), samples.sample(number, others={"prior": donor})
    assert own["ids"].tolist() == other["ids"].tolist()
    place = list(samples.studies[number].kinds).index(2)
    assert not np.array_equal(own["pixels"][place], other["pixels"][place])
    assert np.array_equal(np.delete(own["pixels"], place, 0), np.delete(other["pixels"], place, 0))


def test_images_are_listed_once(tmp_path: Path) -> None:
    """The prior of one pair is the image of another: 8 frontal images, 3 laterals and 4 priors, one of them known."""
    pairs = studies(tmp_path)
    pairs[2] = replace(pairs[2], context=replace(pairs[2].context, prior=pairs[1].row.path))
    images = StudyImages.of(pairs, ALL)
    assert len(images.rows) == 8 + 3 + 3
    assert images.further[2]["prior"] == 1
    assert len(StudyImages.of(pairs, ("indication",)).rows) == 8


def test_an_unreadable_further_image_is_left_out(make: Callable[..., Made], tmp_path: Path) -> None:
    config = StudyConfig(inputs=ALL)
    _, whole = make(config)
    pairs = studies(tmp_path)
    images = StudyImages.of(pairs, ALL)
    gone = images.further[0]["prior"]
    readable = [number for number in range(len(images.rows)) if number != gone]
    layout = Layout.of(whole.config, whole.tokens)
    made, dropped = study_samples(pairs, images, readable, layout, config, DataConfig(max_length=512), 0)
    assert dropped == {"unreadable laterals and priors": 1}
    assert (made["train"].studies[0].prior, made["train"].studies[0].prior_report) == (False, None)


def test_samples_that_are_too_long_are_counted(make: Callable[..., Made], tmp_path: Path) -> None:
    config = StudyConfig(inputs=ALL)
    _, whole = make(config)
    with pytest.raises(ConfigError, match=r"longer than data\.max_length = 40"):
        samples_of(whole, studies(tmp_path), config, max_length=40)


def test_the_order_names_epochs() -> None:
    plain = LengthGrouped(np.arange(10), 2, 0)
    named = LengthGrouped(np.arange(10), 2, 0, numbered_by_epoch=True)
    for epoch in (0, 3):
        plain.set_epoch(epoch)
        named.set_epoch(epoch)
        assert list(named) == [epoch * 10 + number for number in plain]


@pytest.mark.parametrize(
    ("grid", "side", "tokens"), [(37, 2, 361), (37, 1, 1369), (4, 2, 4), (5, 2, 9), (12, 3, 16), (3, 5, 1)]
)
def test_pooling_averages_squares(grid: int, side: int, tokens: int) -> None:
    patches = torch.randn(2, grid * grid, 3, generator=torch.Generator().manual_seed(0))
    found = pool(patches, side)
    assert found.shape == (2, tokens, 3) and pooled_tokens(grid * grid, side) == tokens
    plane = patches[0].reshape(grid, grid, 3)
    rows = -(-grid // side)
    corner = plane[(rows - 1) * side :, (rows - 1) * side :].flatten(0, 1).mean(0)
    torch.testing.assert_close(found[0, -1], corner)
    torch.testing.assert_close(found[0, 0], plane[:side, :side].flatten(0, 1).mean(0))


def test_pooling_needs_squares() -> None:
    with pytest.raises(ValueError, match="no square image"):
        pool(torch.zeros(1, 6, 2), 2)


def test_markers_begin_at_zero_and_are_kept(tmp_path: Path) -> None:
    projector = Projector(3, 4)
    patches = torch.randn(3, 9, 3)
    before = project_images(projector, patches, [0, 1, 2], 1)
    projector.add_markers()
    after = project_images(projector, patches, [0, 1, 2], 1)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert projector.markers is not None
    torch.nn.init.constant_(projector.markers[1], 2.0)
    marked = project_images(projector, patches, [0, 1, 2], 1)
    torch.testing.assert_close(marked[2] - before[2], torch.full((9, 4), 2.0))
    assert torch.equal(marked[0], before[0]) and torch.equal(marked[1], before[1])
    from safetensors.torch import save_file

    save_file({name: value.detach() for name, value in projector.state_dict().items()}, tmp_path / "p.safetensors")
    again = Projector.load(tmp_path / "p.safetensors")
    assert torch.equal(again.markers, projector.markers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["study.inputs=[prior_report]"], "needs the image that it is about"),
        (["study.inputs=[lateral, lateral]"], "twice"),
        (["study.inputs=[frontal]"], "study.inputs"),
        (["study.pool=2"], "study.inputs is empty"),
        (["study.inputs=[lateral]", "study.rope_factor=0.5"], "rope_factor"),
    ],
    ids=["report alone", "twice", "unknown", "settings alone", "factor below 1"],
)
def test_settings_that_make_no_sense(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", changes)


def test_templates_of_checkpoints(tiny: Path) -> None:
    settings = load_checked(tiny)
    assert study_settings(settings, StudyConfig()) is settings
    assert study_settings(settings, StudyConfig(inputs=("indication",))).prompt.template == "study"
    rad = StudyConfig(inputs=("indication",), template="llava-rad")
    assert study_settings(settings, rad).prompt.template == "llava-rad"
    with pytest.raises(ConfigError, match="no place for lateral"):
        study_settings(settings, StudyConfig(inputs=("lateral",), template="llava-rad"))
    maira = StudyConfig(inputs=ALL, template="maira-2", pool=2, markers=False)
    assert study_settings(settings, maira).further_images == FurtherImages(pool=2, markers=False)


def test_positions_are_scaled_as_transformers_scales_them(tiny: Path) -> None:
    config = StudyConfig(inputs=("lateral",), rope_factor=2.0)
    _, _, scaled, _ = load_trainable(tiny, torch.float32, config)
    _, _, plain, _ = load_trainable(tiny, torch.float32)
    embeds = torch.randn(1, 6, plain.config.hidden_size, generator=torch.Generator().manual_seed(0))
    twice = torch.arange(6)[None] / 2  # position n of the scaled model is n / 2 of the plain one
    expected = plain(inputs_embeds=embeds, position_ids=twice).logits
    torch.testing.assert_close(scaled(inputs_embeds=embeds).logits, expected, rtol=1e-5, atol=1e-5)
