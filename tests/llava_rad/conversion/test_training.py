"""Training goes on from converted checkpoints: the same loss as by hand, the model's own words, and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from encoder.errors import ConfigError
from llava_rad.conversion.published import convert
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.config import FurtherImages
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.training.config import StudyConfig
from llava_rad.training.data import Prompted
from llava_rad.training.initial import load_trainable
from llava_rad.training.module import ReportLoss
from llava_rad.training.studies import collate_studies, study_settings
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs
from tests.llava_rad.training.test_studies import ALL, loss_by_hand, samples_of, studies, table


@dataclass(frozen=True)
class Continued:
    """Settings of training from a published model: inputs, and the template of the result."""

    inputs: tuple[str, ...]
    template: str


WAYS = {
    "maira-2": Continued(ALL, "maira-2"),
    "llava-rad": Continued(("indication",), "llava-rad"),
    "llava-1.5": Continued(ALL, "study"),
}


@pytest.fixture(scope="module")
def converted(
    published: dict[str, Path], maira: Path, rad: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a converted model."""
    folder = tmp_path_factory.mktemp("llava") / "model"
    convert("llava-1.5", published["llava-1.5"], folder)
    return {"maira-2": maira, "llava-rad": rad, "llava-1.5": folder}.__getitem__


@pytest.mark.parametrize("name", WAYS)
def test_the_loss_of_studies_is_that_of_the_models_own_prompt(
    converted: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    way, folder = WAYS[name], converted(name)
    config = StudyConfig(inputs=way.inputs)  # type: ignore[arg-type]
    settings, projector, words, tokens = load_trainable(folder, torch.float32, config)
    assert settings.prompt.template == way.template
    whole = LlavaRad.from_pretrained(folder)
    before = {key: value.clone() for key, value in whole.language_model.state_dict().items()}
    assert all(torch.equal(before[key], value) for key, value in words.state_dict().items())
    assert words.config.rope_parameters == whole.language_model.config.rope_parameters
    whole.config, whole.projector, whole.language_model = settings, projector, words
    module = ReportLoss(
        projector, words, tokens, Prompted.of(settings, tokens), whole.encoder, settings.preprocessing, 1
    )
    samples = samples_of(whole, studies(tmp_path), config, max_length=900)["val"]
    numbers = range(len(samples))
    found = module.eval()(**collate_studies([samples.sample(number) for number in numbers]), num_items_in_batch=1.0)[
        "each"
    ]
    expected = [
        loss_by_hand(whole, samples.studies[number], samples.sample(number)["pixels"], samples.texts[number])
        for number in numbers
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=5e-5, atol=1e-4)


def test_maira_2_keeps_its_words_and_gets_markers_that_change_nothing_yet(converted: Callable[[str], Path]) -> None:
    folder = converted("maira-2")
    own = load_checked(folder)
    settings = study_settings(own, StudyConfig(inputs=("lateral", "prior")))
    assert settings.prompt == own.prompt and settings.further_images == FurtherImages(pool=1, markers=True)
    _, projector, _, _ = load_trainable(folder, torch.float32, StudyConfig(inputs=("lateral",)))
    assert projector.markers is not None and not projector.markers.any()


def test_what_a_template_has_no_place_for_is_refused(converted: Callable[[str], Path]) -> None:
    rad = load_checked(converted("llava-rad"))
    with pytest.raises(ConfigError, match="llava-rad has no place for lateral"):
        study_settings(rad, StudyConfig(inputs=("lateral", "indication")))
    wide = study_settings(rad, StudyConfig(inputs=("lateral", "indication"), template="study"))
    assert wide.prompt.template == "study"


def test_a_checkpoint_of_studies_keeps_the_form_of_its_images(tiny: Path) -> None:
    before = load_checked(tiny).model_copy(update={"further_images": FurtherImages(pool=2, markers=True)})
    with pytest.raises(ConfigError, match=r"study\.pool = 1, but the checkpoint was trained with 2"):
        study_settings(before, StudyConfig(inputs=("lateral",)))
    same = StudyConfig(inputs=("lateral",), pool=2, markers=False)
    assert study_settings(before, same).further_images == FurtherImages(pool=2, markers=True)
    assert study_settings(before, StudyConfig(inputs=("indication",))).further_images == before.further_images


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_run_goes_on_from_a_converted_model(
    converted: Callable[[str], Path], tmp_path: Path, run: Run, chest: list[Path], lateral: Path, name: str
) -> None:
    way = WAYS[name]
    inputs = f"study.inputs=[{', '.join(way.inputs)}]"
    longest = ["data.max_length=900"] if "lateral" in way.inputs else []
    more = [inputs, "study.leave_out=0.3", "optimization.epochs=1", *longest]
    arguments = small_pairs.overrides(table(tmp_path, 13), converted(name), *more)
    runs.train(tmp_path / "run", arguments)
    own, made = load_checked(converted(name)), load_checked(tmp_path / "run" / "model")
    assert made.prompt.template == way.template
    assert (made.prompt.turn, made.prompt.system) == (own.prompt.turn, own.prompt.system)
    assert (made.recipe, made.features, made.tokens) == (own.recipe, own.features, own.tokens)
    losses = [line for line in runs.lines(tmp_path / "run") if "val_loss" in line][-1]
    assert {"val_loss_other_indication", "val_loss_without_indication"} <= losses.keys()
    study = ["--indication", "cough", *(["--lateral", lateral, "--prior", chest[1]] if "lateral" in way.inputs else [])]
    done = run(
        "generate", chest[0], "--model", tmp_path / "run" / "model", "-f", "json", "--max-new-tokens", "4", *study
    )
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_run_without_studies_goes_on_from_maira_2(converted: Callable[[str], Path], tmp_path: Path) -> None:
    pairs = small_pairs.make(tmp_path / "pairs")
    runs.train(tmp_path / "run", small_pairs.overrides(pairs, converted("maira-2"), "optimization.epochs=1"))
    own, made = load_checked(converted("maira-2")), load_checked(tmp_path / "run" / "model")
    assert (made.prompt, made.further_images) == (own.prompt, None)
