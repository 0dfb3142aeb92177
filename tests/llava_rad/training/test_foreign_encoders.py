"""Training on features of the paper's other encoders: looked at without weights, trained, and written with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from encoder.backbones.loading import load_encoder
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.llava_rad import LlavaRad
from tests.encoder.backbones import published
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import small_pairs


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("parts")
    return {"clip": published.clip_folder(top / "clip", size=56), "mrm": published.mrm_file(top / "MRM.pth")}


def test_validate_needs_no_weights(parts: dict[str, Path], pairs: Path, run: Run, tmp_path: Path) -> None:
    """CLIP by its config.json; the number of parameters is that of the vision tower."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_bytes((parts["clip"] / "config.json").read_bytes())
    changes = small_pairs.overrides(pairs, None, f"model.encoder={tmp_path / 'clip'}", "model.recipe=null")
    done = run("train", "--config", "tiny", "--validate", *changes)
    assert done.code == 0, done.err
    parameters = sum(parameter.numel() for parameter in load_encoder(parts["clip"]).parameters())
    assert f"encoder {parameters:,}" in done.out


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("clip", ["model.recipe=null"]),
        pytest.param(
            "mrm",
            ["model.recipe=mrm-48", "model.encoder_kind=mrm", "data.keep_features=false"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_by_a_foreign_encoder(
    name: str, more: list[str], parts: dict[str, Path], pairs: Path, run: Run, chest: list[Path], tmp_path: Path
) -> None:
    changes = small_pairs.overrides(pairs, None, f"model.encoder={parts[name]}", "optimization.steps=2", *more)
    trained = run("train", "--config", "tiny", *changes, "-o", tmp_path / "run")
    assert trained.code == 0 and trained.out == "", trained.err
    model = tmp_path / "run" / "model"
    config = load_checked(model)
    assert config.image_tokens == (16 if name == "clip" else 9)
    whole = LlavaRad.from_pretrained(model)
    for one, other in zip(whole.encoder.parameters(), load_encoder(parts[name]).parameters(), strict=True):
        assert torch.equal(one, other)
    assert config.features in (model / "README.md").read_text().replace("\n", " ")
    start = LlavaRad.from_pretrained(tmp_path / "run" / "initial")
    assert not torch.equal(whole.projector.linear_1.weight, start.projector.linear_1.weight)
    done = run("generate", chest[0], "--model", model, "--format", "json", "--max-new-tokens", "5")
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"]["id"] == "tiny"
