"""Removal of statements about findings that cannot be judged, from texts and in generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from encoder.errors import ConfigError, LlavaRadError
from llava_rad.generation.abstention import withhold
from llava_rad.generation.decoding import generate, stream
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding, GenerationOptions
from llava_rad.generation.pieces import Pieces
from llava_rad.model.checkpoint import FINDINGS
from llava_rad.model.findings import Findings
from llava_rad.model.llava_rad import LlavaRad
from tests.llava_rad import small_files, tiny_model
from tests.llava_rad.conftest import Run

PHRASES = {
    "Cardiomegaly": ["heart size", "heart", "cardiomegaly"],
    "Consolidation": ["consolidation"],
    "Infiltration": ["infiltrate"],
    "Pneumonia": ["pneumonia"],
    "Nodule": ["nodule"],
    "Mass": ["mass"],
    "Effusion": ["pleural effusion", "effusion"],
    "Pneumothorax": ["pneumothorax"],
    "Atelectasis": ["atelectasis"],
}


@pytest.mark.parametrize(
    ("text", "unsure", "expected"),
    [
        ("The heart is enlarged. No mass.", {"Cardiomegaly"}, "No mass."),
        ("Heart size is increased, indicating cardiomegaly.", {"Cardiomegaly"}, "Heart size cannot be judged."),
        ("The lungs are clear.", {"Pneumonia"}, "The lungs are clear."),
        ("There is no consolidation, infiltrate or pneumonia.", {"Infiltration"},
         "There is no consolidation or pneumonia."),
        ("There is no consolidation, infiltrate or pneumonia.", {"Consolidation"},
         "There is no infiltrate or pneumonia."),
        ("Lungs free of consolidation, infiltrate and pneumonia.", {"Pneumonia"},
         "Lungs free of consolidation and infiltrate."),
        ("Lungs free of consolidation, infiltrate and pneumonia.", {"Pneumonia", "Infiltration"},
         "Lungs free of consolidation."),
        ("There is at least one nodule on the left and at least one mass.", {"Nodule"},
         "There is at least one mass."),
        ("There is at least one nodule on the left and at least one mass.", {"Mass"},
         "There is at least one nodule on the left."),
        ("There is no pleural effusion and no pneumothorax.", {"Pneumothorax"}, "There is no pleural effusion."),
        ("There is no pleural effusion and no pneumothorax.", {"Effusion"}, "There is no pneumothorax."),
        ("There is pleural effusion without pneumothorax.", {"Pneumothorax"}, "There is pleural effusion."),
        ("There is pleural effusion without pneumothorax.", {"Effusion"}, "No pneumothorax."),
        ("Pleural spaces without effusion or pneumothorax.", {"Effusion"}, "Pleural spaces without pneumothorax."),
        ("No nodules or masses. Atelectasis: none.", {"Mass", "Atelectasis"}, "No nodules."),
        ("Findings:\nNo mass. No nodule.\n\nImpression: pneumonia.", {"Nodule"},
         "Findings:\nNo mass.\n\nImpression: pneumonia."),
    ],
)  # fmt: skip
def test_a_statement_is_removed_and_the_rest_stays_correct(text: str, unsure: set[str], expected: str) -> None:
    assert withhold(text, unsure, PHRASES, say=False) == (expected, ())


def test_what_cannot_be_removed_stays_and_is_named() -> None:
    text = "The nodule near the effusion is unchanged. No pneumothorax."
    assert withhold(text, {"Nodule", "Pneumothorax"}, PHRASES, say=True) == (
        "The nodule near the effusion is unchanged. Pneumothorax cannot be judged.",
        ("Nodule",),
    )


def test_removed_findings_are_stated_by_their_first_words() -> None:
    found = withhold("No mass. No effusion. The heart is normal.", {"Effusion", "Cardiomegaly"}, PHRASES, say=True)
    assert found.text == "No mass. Heart size and pleural effusion cannot be judged."


def levels(low: float) -> Findings:
    """Probability 0.5 of one finding, whatever the image; not judged if the lower level is at most that."""
    width = 2 * 24
    return Findings(
        {"Anything": ["x"]}, torch.zeros(1, width), torch.zeros(1), torch.tensor([low]), torch.tensor([1.0])
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model without probabilities of findings, unsure about everything, sure about everything."""
    folder = tmp_path_factory.mktemp("findings")
    found = {"unknown": tiny_model.make(folder / "unknown")}
    for name, low in (("unsure", 0.2), ("sure", 0.9)):
        model = LlavaRad.from_pretrained(found["unknown"], offline=True)
        model.findings = levels(low)
        model.save_pretrained(folder / name)
        found[name] = folder / name
    return found


def test_generation_leaves_uncertain_findings_out_on_request_only(run: Run, checkpoints: dict[str, Path]) -> None:
    engine = {name: Engine.from_pretrained(folder, offline=True, device="cpu") for name, folder in checkpoints.items()}
    size = engine["unsure"].recipe.size
    image = torch.randint(0, 255, (size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    (plain,) = generate(engine["unsure"], [image], Decoding(max_new_tokens=8))
    assert plain == generate(engine["unknown"], [image], Decoding(max_new_tokens=8))[0] and not plain.notes
    stated = Decoding(max_new_tokens=8, unsure="stated")
    (draft,) = generate(engine["unsure"], [image], stated)
    assert draft.ids == plain.ids and draft.notes[0] == "findings that cannot be judged: x"
    assert draft.text == withhold(plain.text, {"Anything"}, {"Anything": ["x"]}, say=True).text
    pieces = Pieces(stream(engine["unsure"], image, stated))
    assert "".join(pieces) == draft.text and pieces.draft == draft
    assert generate(engine["sure"], [image], stated) == [plain]
    with pytest.raises(LlavaRadError, match="no probabilities of findings"):
        generate(engine["unknown"], [image], stated)


def test_the_command_names_them_in_the_warnings(run: Run, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    image = small_files.picture(tmp_path / "image.png")
    model = ("--model", str(checkpoints["unsure"]), "--offline", "--max-new-tokens", "8")
    found = json.loads(run("generate", str(image), *model, "--format", "json", "--unsure", "unsaid").out)
    assert "findings that cannot be judged: x" in found["warnings"]
    assert (found["generation"]["dtype"], found["generation"]["unsure"]) == ("float32", "unsaid")
    assert (checkpoints["unsure"] / FINDINGS).is_file()


def test_other_models_refuse_it() -> None:
    with pytest.raises(ConfigError, match="probabilities of findings"):
        GenerationOptions(unsure="unsaid").check_certain()
    with pytest.raises(ConfigError, match="no unsure 'maybe'"):
        GenerationOptions(unsure="maybe")  # type: ignore[arg-type]
