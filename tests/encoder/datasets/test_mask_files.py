"""Drawn masks: written once and whole, taken up after an interruption, refused where a name is no name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder.datasets.masks import MaskFiles, naming
from encoder.errors import LlavaRadError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(np.arange(70 * 80, dtype=np.uint8).reshape(70, 80)).save(tmp_path / "i.png")
    return tmp_path / "i.png"


def corner(size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[0, 1] = True
    return mask


def test_masks_have_the_size_of_their_image(image: Path, tmp_path: Path) -> None:
    with MaskFiles(tmp_path / "m-masks") as masks:
        files = masks.draw(
            image, "i", {"left lung": corner, "none": lambda size: None, "empty": lambda s: corner(s) & False}
        )
        assert files == {"left lung": tmp_path / "m-masks" / "left-lung" / "i.png"}
        mask = masks.read(files["left lung"], (70, 80))
    assert [file.name for file in (tmp_path / "m-masks").rglob("*.*")] == ["i.png"], "no empty mask, no temporary file"
    assert (mask == corner((70, 80))).all()
    assert Image.open(files["left lung"]).mode == "1"


def test_what_is_there_is_kept_unless_it_is_to_be_redrawn(image: Path, tmp_path: Path) -> None:
    def fails(size: tuple[int, int]) -> NDArray[np.bool_]:
        raise AssertionError("drawn again")

    with MaskFiles(tmp_path / "m") as masks:
        first = masks.draw(image, "i", {"a": corner})
        image.write_bytes(b"an image that cannot be read any more")
        assert masks.draw(image, "i", {"a": fails}) == first
        with pytest.raises(LlavaRadError, match="image cannot be read"):
            masks.draw(image, "i", {"a": fails, "b": corner})
    with MaskFiles(tmp_path / "m", redraw=True) as masks, pytest.raises(LlavaRadError, match="image cannot be read"):
        masks.draw(image, "i", {"a": corner})


def test_nothing_is_drawn_without_a_folder_or_an_image(image: Path, tmp_path: Path) -> None:
    assert MaskFiles().draw(image, "i", {"a": corner}) == {}
    with MaskFiles(tmp_path / "m") as masks:
        assert masks.draw(tmp_path / "none.png", "i", {"a": corner}) == {}
        assert masks.draw(image, "i", {}) == {}
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["../JANE", "a/JANE", "", ".JANE", "JANE\0"])
def test_a_table_cannot_write_elsewhere(image: Path, tmp_path: Path, name: str) -> None:
    with (
        MaskFiles(tmp_path / "m") as masks,
        pytest.raises(LlavaRadError, match=r"^Set: row 7 of its table: .* name") as raised,
        naming("Set", 7),
    ):
        masks.draw(image, name, {"a": corner})
    assert "JANE" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.png"]
