"""`llava-rad inspect`: what the reader saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.acceptance(row=22)


def test_inspect_text_and_json(run: Run, chest: list[Path]) -> None:
    text = run("inspect", chest[0])
    assert text.code == 0
    assert "PA (from ViewPosition)" in text.out
    seen = json.loads(run("inspect", chest[0], "-f", "json", "--recipe", "rad-dino").out)
    assert seen["schema"] == "llava-rad.inspection/1"
    assert seen["input"]["recipe"]["name"] == "rad-dino"
    assert seen["refused"] is None


def test_inspect_shows_a_refused_image_and_ends_with_4(run: Run, lateral: Path) -> None:
    done = run("inspect", lateral, "-f", "json")
    assert done.code == 4
    assert json.loads(done.out)["refused"]["reason"] == "lateral"
    assert run("inspect", lateral, "--force").code == 0
    assert run("inspect", "missing.dcm").code == 4


def test_inspect_saves_the_picture_that_the_model_gets(run: Run, chest: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    assert run("inspect", chest[0], "--recipe", "rad-dino-224", "--save-image", "a.png").code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.size, picture.mode) == ((224, 224), "L")
    assert run("inspect", chest[0], "--save-image", "a.png").code == 2
    assert run("inspect", chest[0], "--save-image", "a.png", "--overwrite").code == 0
