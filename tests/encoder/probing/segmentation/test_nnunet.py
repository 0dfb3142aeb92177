"""nnU-Net's data set and its predictions, in the layout that its documentation describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.errors import LlavaRadError
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.evaluate import score
from encoder.probing.segmentation.nnunet import read_predictions, write_dataset
from tests.encoder.probing import toy
from tests.encoder.probing.toy import SIZE
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "shared_readers"]

STRUCTURES = ("disc", "rest")
Sets = tuple[SegmentationSet, SegmentationSet, SegmentationSet]


def discs(number: int, seed: int = 0) -> SegmentationSet:
    return replace(toy.discs(number, seed), structures=STRUCTURES)


def picture(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def sets() -> Sets:
    return discs(6), discs(3, 1), discs(4, 2)


@pytest.fixture
def dataset(sets: Sets, tmp_path: Path) -> Path:
    folder = tmp_path / "nnUNet_raw" / "Dataset501_Discs"
    assert write_dataset(*sets, folder) == {"train": 6, "val": 3, "test": 4, "left out": 0}
    return folder


def perfect(dataset: Path, sets: Sets, folder: Path) -> Path:
    """Predictions of a model that is always right, in the labels of the data set."""
    folder.mkdir()
    shutil.copy(dataset / "dataset.json", folder)
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    known = {picture(file).tobytes(): file.name.removesuffix("_0000.png") for file in dataset.glob("imagesTs/*.png")}
    test = sets[2]
    for image, masks in zip(test.images, test.masks(range(len(test))), strict=True):
        label = sum(
            mask.astype(np.uint8) * np.uint8(labels[name]) for name, mask in zip(STRUCTURES, masks, strict=True)
        )
        Image.fromarray(label).save(folder / f"{known[image.tobytes()]}.png")
    return folder


def test_a_data_set_has_the_documented_layout(dataset: Path, sets: Sets) -> None:
    facts = json.loads((dataset / "dataset.json").read_text())
    assert facts["channel_names"] == {"0": "X-ray"} and facts["file_ending"] == ".png" and facts["numTraining"] == 9
    assert sorted(facts["labels"].values()) == [0, 1, 2] and facts["labels"]["background"] == 0
    assert "regions_class_order" not in facts
    (fold,) = json.loads((dataset / "splits_final.json").read_text())
    cases = {file.name.removesuffix("_0000.png") for file in (dataset / "imagesTr").iterdir()}
    assert len(fold["train"]) == 6 and len(fold["val"]) == 3 and cases == {*fold["train"], *fold["val"]}
    assert {file.stem for file in (dataset / "labelsTr").iterdir()} == cases
    assert len(list((dataset / "imagesTs").iterdir())) == 4
    masks = sets[1].masks([1])[0]
    np.testing.assert_array_equal(picture(dataset / "imagesTr" / f"{fold['val'][1]}_0000.png"), sets[1].images[1])
    label = picture(dataset / "labelsTr" / f"{fold['val'][1]}.png")
    for name, mask in zip(STRUCTURES, masks, strict=True):
        np.testing.assert_array_equal(label == facts["labels"][name], mask)


def test_predictions_are_scored_by_the_same_code(dataset: Path, sets: Sets, tmp_path: Path) -> None:
    folder = perfect(dataset, sets, tmp_path / "predictions")
    names, masks = read_predictions(folder, *sets)
    data = sets[2].select(names)
    result = score(data, lambda numbers: masks[numbers], attributes=("sex",))
    assert result.together.mean == 1.0 and result.together.images == 4 and result.parameters is None
    wrong = next(iter(sorted(folder.glob("*.png"))))
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(wrong)
    names, masks = read_predictions(folder, *sets)
    assert score(data, lambda numbers: masks[numbers]).together.mean == pytest.approx(0.75)


def less(folder: Path) -> None:
    next(folder.glob("*.png")).unlink()


def more(folder: Path) -> None:
    shutil.copy(next(folder.glob("*.png")), folder / "another.png")


def larger(folder: Path) -> None:
    Image.fromarray(np.zeros((SIZE + 1, SIZE), np.uint8)).save(next(folder.glob("*.png")))


def unknown(folder: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 3, np.uint8)).save(next(folder.glob("*.png")))


def nameless(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def foreign(folder: Path) -> None:
    facts = json.loads((folder / "dataset.json").read_text())
    del facts["llava_rad"]
    (folder / "dataset.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (less, "1 of nnU-Net's 4 predictions are missing"),
        (more, "1 of nnU-Net's 5 predictions are of none"),
        (larger, "another size"),
        (unknown, "a label that is unknown"),
        (nameless, r"have no dataset\.json"),
        (foreign, "not of 'llava-rad probe nnunet'"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(
    spoil: Callable[[Path], None], message: str, dataset: Path, sets: Sets, tmp_path: Path
) -> None:
    folder = perfect(dataset, sets, tmp_path / "predictions")
    spoil(folder)
    with pytest.raises(LlavaRadError, match=message):
        read_predictions(folder, *sets)


def test_a_model_of_other_splits_masks_or_pixels_is_refused(dataset: Path, sets: Sets, tmp_path: Path) -> None:
    folder = perfect(dataset, sets, tmp_path / "predictions")
    train, val, test = sets
    masks = train.masks(range(6)).copy()
    masks[0, 0, 0, 0] ^= True
    drawn = SegmentationSet.of(train.images, masks, STRUCTURES)
    for changed in ((val, train, test), (train.subset(range(5)), val, test), (drawn, val, test)):
        with pytest.raises(LlavaRadError, match="trained on other images, masks or splits"):
            read_predictions(folder, *changed)
    with pytest.raises(LlavaRadError, match="4 of nnU-Net's 8 predictions are missing"):
        read_predictions(folder, train, val, replace(test, images=test.images ^ 1))


def nested(number: int, seed: int, *, apart: bool = True) -> SegmentationSet:
    """Tubes inside of lungs, and a heart beside them; ``apart`` False lets the heart overlap with the lungs."""
    data = discs(number, seed)
    lungs = data.masks(range(number))[:, 0]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    tube = lungs & (np.abs(rows - 32) < 3)
    heart = np.broadcast_to((rows < 4) & (columns < 40), lungs.shape)
    if not apart:
        heart = heart | (lungs & (rows < 28))
    return SegmentationSet.of(data.images, np.stack([tube, heart, lungs], 1), ("tube", "heart", "lungs"))


def test_structures_inside_others_become_regions(tmp_path: Path) -> None:
    """Documentation: place encompassing regions first; later entries of regions_class_order overwrite earlier ones."""
    sets = nested(4, 0), nested(2, 1), nested(3, 2)
    write_dataset(*sets, tmp_path / "Dataset502_Tubes")
    facts = json.loads((tmp_path / "Dataset502_Tubes" / "dataset.json").read_text())
    assert list(facts["labels"]) == ["background", "lungs", "heart", "tube"]
    assert facts["labels"] == {"background": 0, "lungs": [1, 3], "heart": 2, "tube": 3}
    assert facts["regions_class_order"] == [1, 2, 3]
    folder = tmp_path / "predictions"
    folder.mkdir()
    shutil.copy(tmp_path / "Dataset502_Tubes" / "dataset.json", folder)
    test = sets[2]
    for image, (tube, heart, lungs) in zip(test.images, test.masks(range(3)), strict=True):
        label = np.zeros((SIZE, SIZE), np.uint8)
        for value, region in zip(facts["regions_class_order"], (lungs, heart, tube), strict=True):
            label[region] = value
        (case,) = [
            file.name.removesuffix("_0000.png")
            for file in (tmp_path / "Dataset502_Tubes" / "imagesTs").iterdir()
            if np.array_equal(picture(file), image)
        ]
        Image.fromarray(label).save(folder / f"{case}.png")
    names, masks = read_predictions(folder, *sets)
    np.testing.assert_array_equal(masks, test.select(names).masks(range(3)))


def test_what_a_label_map_cannot_hold_is_refused(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="overlap in part"):
        write_dataset(nested(4, 0, apart=False), nested(2, 1), nested(3, 2), tmp_path / "Dataset503_Hearts")
    same = SegmentationSet.of(discs(2).images, discs(2).masks([0, 1])[:, [0, 0]], STRUCTURES)
    with pytest.raises(LlavaRadError, match="overlap in part"):
        write_dataset(same, same, same, tmp_path / "Dataset504_Twice")
    train, val, test = sets
    known = np.ones((6, 2), np.bool_)
    known[2, 1] = False
    with pytest.raises(LlavaRadError, match="1 images have masks of some structures only"):
        write_dataset(replace(train, known=known), val, test, tmp_path / "Dataset505_Some")
    known[2] = False
    written = write_dataset(replace(train, known=known), val, test, tmp_path / "Dataset505_Some")
    assert written == {"train": 5, "val": 3, "test": 4, "left out": 1}
    with pytest.raises(LlavaRadError, match="called 'background'"):
        write_dataset(*(replace(one, structures=("disc", "background")) for one in sets), tmp_path / "Dataset507_B")
    with pytest.raises(LlavaRadError, match="not empty"):
        write_dataset(train, val, test, tmp_path / "Dataset505_Some")
    with pytest.raises(LlavaRadError, match="DatasetNNN_NAME"):
        write_dataset(train, val, test, tmp_path / "lungs")


def test_equal_images_are_cases_of_their_own(tmp_path: Path) -> None:
    twice = discs(3).subset([0, 1, 0])
    write_dataset(twice, discs(2, 1), discs(2, 2), tmp_path / "Dataset506_Twice")
    assert len(list((tmp_path / "Dataset506_Twice" / "imagesTr").iterdir())) == 5
