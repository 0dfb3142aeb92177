"""Masks: reading, preparing like the image, and files of drawn ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder.datasets.masks import MaskFiles, naming, prepare_mask, read_mask
from encoder.errors import LlavaRadError, ReadError
from encoder.preprocessing import RECIPES, Recipe
from encoder.reader.sandbox import Reader


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def rectangle(shape: tuple[int, int], top: float, left: float, bottom: float, right: float) -> NDArray[np.bool_]:
    """Shares of height and width."""
    mask = np.zeros(shape, np.bool_)
    mask[round(top * shape[0]) : round(bottom * shape[0]), round(left * shape[1]) : round(right * shape[1])] = True
    return mask


def test_any_value_but_zero_is_inside(tmp_path: Path, reader: Reader) -> None:
    values = np.zeros((70, 80), np.uint8)
    values[10, 20], values[69, 79], values[0, 0] = 1, 255, 128
    mask = read_mask(save(tmp_path / "m.png", values), (70, 80), reader=reader)
    assert mask.dtype == np.bool_
    assert sorted(zip(*np.nonzero(mask), strict=True)) == [(0, 0), (10, 20), (69, 79)]
    one_bit = tmp_path / "1.png"
    Image.fromarray(values != 0).save(one_bit)
    assert (read_mask(one_bit, (70, 80), reader=reader) == mask).all()


def test_a_reader_of_its_own(tmp_path: Path) -> None:
    assert read_mask(save(tmp_path / "m.png", np.ones((64, 64), np.uint8)), (64, 64)).all()


def test_another_size_of_the_same_aspect(tmp_path: Path, reader: Reader) -> None:
    small = rectangle((100, 80), 0.2, 0.1, 0.6, 0.5)
    path = save(tmp_path / "m.png", small.astype(np.uint8))
    assert (read_mask(path, (300, 240), reader=reader) == np.kron(small, np.ones((3, 3), np.bool_))).all()
    assert (read_mask(path, (50, 40), reader=reader) == rectangle((50, 40), 0.2, 0.1, 0.6, 0.5)).all()
    assert read_mask(path, (2539, 2031), reader=reader).shape == (2539, 2031), "rounded sides: 2031.2"


@pytest.mark.parametrize("size", [(80, 100), (300, 250), (100, 100), (1000, 780)])
def test_another_aspect_is_refused(tmp_path: Path, reader: Reader, size: tuple[int, int]) -> None:
    path = save(tmp_path / "JANE.png", np.ones((100, 80), np.uint8))
    with pytest.raises(LlavaRadError, match="another aspect") as raised:
        read_mask(path, size, reader=reader)
    assert "JANE" not in str(raised.value)


def test_a_damaged_mask_is_refused(tmp_path: Path, reader: Reader) -> None:
    path = save(tmp_path / "m.png", np.random.default_rng(0).integers(0, 255, (100, 80), np.uint8))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ReadError):
        read_mask(path, (100, 80), reader=reader)
    with pytest.raises(ReadError, match="no such file"):
        read_mask(tmp_path / "none.png", (100, 80), reader=reader)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("shape", [(600, 600), (701, 520), (433, 911), (300, 201)])
def test_a_mask_lies_where_its_recipe_takes_the_image(recipe: Recipe, shape: tuple[int, int]) -> None:
    """The picture of a mask, prepared as an image, is bright where the prepared mask is: at most the edges differ."""
    mask = rectangle(shape, 0.31, 0.22, 0.73, 0.49)
    picture = recipe.apply(mask.astype(np.uint8) * 255, from_dicom=False) > 127
    prepared = prepare_mask(mask, recipe)
    assert prepared.shape == picture.shape == (recipe.size, recipe.size)
    assert prepared.any()
    rows, columns = np.nonzero(prepared)
    seen_rows, seen_columns = np.nonzero(picture)
    for ours, theirs in ((rows, seen_rows), (columns, seen_columns)):
        assert abs(int(ours.min()) - int(theirs.min())) <= 1
        assert abs(int(ours.max()) - int(theirs.max())) <= 1
    for axis, ours, theirs in ((0, rows, seen_rows), (1, columns, seen_columns)):
        assert abs(ours.mean() - theirs.mean()) < 0.6, f"shifted along axis {axis}"


def test_the_crop_of_a_tall_image() -> None:
    recipe = RECIPES["rad-dino"]
    mask = np.zeros((1036, 518), np.bool_)
    mask[259 + 7, 11] = mask[258, 0] = True  # 259 rows go at the top
    rows, columns = np.nonzero(prepare_mask(mask, recipe))
    assert (rows.tolist(), columns.tolist()) == ([7], [11])


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
