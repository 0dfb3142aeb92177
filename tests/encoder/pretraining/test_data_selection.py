"""Rows of a run: filters reach the manifests, exclusions hold, and mistakes are told by place, not by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.data import probe_rows, training_rows


def row(folder: Path, image: str, **values: object) -> Row:
    fields = {"dataset": "set", "subject": image[0], "image": image, "view": "PA", "split": "train"} | values
    return Row(folder / f"{image}.png", **fields)  # type: ignore[arg-type]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five images of the subjects a, b, c."""
    rows = [
        row(tmp_path, "a1"), row(tmp_path, "a2", view="lateral"), row(tmp_path, "b1"),
        row(tmp_path, "b2", split="test"), row(tmp_path, "c1", view="unknown"),
    ]  # fmt: skip
    write_manifest(rows, tmp_path / "secret-name.csv")
    return tmp_path / "secret-name.csv"


def config(probe: str | None = None, **data: object) -> PretrainingConfig:
    return PretrainingConfig.model_validate({"data": data, "probe": {"manifest": probe}})


def images(manifest: Path, **data: object) -> list[str]:
    return [row.image for row in training_rows(config(manifests=[str(manifest)], **data)).rows]


def test_filters(manifest: Path) -> None:
    assert images(manifest) == ["a1", "a2", "b1", "b2", "c1"]
    assert images(manifest, views=["frontal"]) == ["a1", "b1", "b2"]
    assert images(manifest, views=["frontal"], splits=["train"]) == ["a1", "b1"]
    assert len(images(manifest, subset=0.4)) == 2
    assert len(images(manifest, subset=3)) == 3


def test_each_manifest_has_its_own_views_and_splits(tmp_path: Path) -> None:
    """Table D.1: of MIMIC-CXR the frontal training images, of the others everything."""
    mimic = [
        row(tmp_path, "m1", dataset="mimic-cxr"), row(tmp_path, "m2", dataset="mimic-cxr", view="lateral"),
        row(tmp_path, "n1", dataset="mimic-cxr", split="test"),
        row(tmp_path, "n2", dataset="mimic-cxr", view="unknown"),
    ]  # fmt: skip
    brax = [
        row(tmp_path, "x1", dataset="brax", split=""),
        row(tmp_path, "x2", dataset="brax", view="lateral", split=""),
    ]
    write_manifest(mimic, tmp_path / "mimic.csv")
    write_manifest(brax, tmp_path / "brax.csv")
    own = {"path": str(tmp_path / "mimic.csv"), "views": ["frontal"], "splits": ["train"]}
    chosen = training_rows(config(manifests=[own, str(tmp_path / "brax.csv")]))
    assert [row.image for row in chosen.rows] == ["m1", "x1", "x2"]
    assert chosen.lines() == ["brax: 2 kept", "mimic-cxr: 1 kept, left out: view 2, split 1"]
    assert (chosen.dropped, chosen.warnings()) == ({"view": 2, "split": 1}, [])
    both = training_rows(config(manifests=[own, str(tmp_path / "brax.csv")], views=["lateral"], splits=["val"]))
    assert both.warnings() == ["data.manifests: no image of number 2 has the views and splits asked for"]
    assert [row.image for row in both.rows] == ["m1"], "filters of all manifests hold for those without their own"
    one = training_rows(config(manifests=[own | {"views": None}, str(tmp_path / "brax.csv")], subset=2, exclude=[]))
    assert sum(sum(reasons.values()) for reasons in one.left_out.values()) + len(one.rows) == 6


def test_test_images_that_no_splits_ask_for_are_warned_of(manifest: Path, tmp_path: Path) -> None:
    file = str(manifest)
    for warned in (file, {"path": file, "views": ["frontal"]}):
        (warning,) = training_rows(config(manifests=[warned])).warnings()
        assert warning.startswith("test images are trained on (set 1)")
    write_manifest([row(tmp_path, "b9")], tmp_path / "evaluation.csv")
    for quiet in (
        {"manifests": [file], "splits": ["train", "test"]},
        {"manifests": [file], "splits": ["train"]},
        {"manifests": [{"path": file, "splits": ["test"]}]},
        {"manifests": [file], "views": ["lateral"]},
        {"manifests": [file], "exclude": [str(tmp_path / "evaluation.csv")]},
    ):
        assert training_rows(config(**quiet)).warnings() == [], quiet


def test_whoever_is_in_an_excluded_manifest_is_left_out_whole(manifest: Path, tmp_path: Path) -> None:
    write_manifest([row(tmp_path, "b9"), row(tmp_path, "a7", dataset="other set")], tmp_path / "evaluation.csv")
    assert images(manifest, exclude=[str(tmp_path / "evaluation.csv")]) == ["a1", "a2", "c1"]


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.png").write_bytes(b"png")
    (tmp_path / "notes.txt").write_text("no image")
    (found,) = training_rows(config(folder=str(tmp_path))).rows
    assert found.path == tmp_path / "deep" / "x.png"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "there are no images: neither data.manifests nor data.folder is given"),
        ({"manifests": ["MANIFEST"], "folder": "x"}, "data.manifests and data.folder are both given"),
        ({"manifests": ["MANIFEST", "nowhere.csv"]}, "data.manifests, number 2 of 2: the manifest does not exist"),
        ({"manifests": ["MANIFEST"], "exclude": ["nowhere.csv"]}, "data.exclude: the manifest does not exist"),
        ({"folder": "nowhere"}, "data.folder: "),
        ({"manifests": ["MANIFEST"], "subset": 9}, "data.subset: "),
        (
            {"manifests": ["MANIFEST"], "splits": ["val"], "views": ["lateral"]},
            "none of 5 images is left to train on (view 4, split 1)",
        ),
    ],
)
def test_mistakes_name_the_key_and_no_file(manifest: Path, data: dict[str, object], message: str) -> None:
    filled = {
        key: [str(manifest) if entry == "MANIFEST" else entry for entry in value] if key == "manifests" else value
        for key, value in data.items()
        if isinstance(value, list) or key
    }
    with pytest.raises(ConfigError) as caught:
        training_rows(config(**filled))
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value) and "nowhere" not in str(caught.value)


def test_probes_need_labels_both_splits_and_disjoint_subjects(tmp_path: Path) -> None:
    def probes(*rows: Row) -> list[str]:
        write_manifest(rows, tmp_path / "probe.csv")
        return [row.image for row in probe_rows(config(probe=str(tmp_path / "probe.csv")))]

    train, val = row(tmp_path, "a1", labels={"x": 1.0}), row(tmp_path, "b1", split="val", labels={"x": 0.0})
    assert probe_rows(config()) == []
    assert probes(train, val, row(tmp_path, "c1", split="test")) == ["a1", "b1"]
    with pytest.raises(ConfigError, match="no images in the split val"):
        probes(train)
    with pytest.raises(ConfigError, match="no labelled images"):
        probes(row(tmp_path, "a1"), row(tmp_path, "b1", split="val"))
    with pytest.raises(ConfigError, match=r"probe\.manifest: subjects in more than one split"):
        probes(train, val, row(tmp_path, "a2", split="val"))


@pytest.mark.parametrize("first", [0, 1])
def test_an_image_held_out_by_one_manifest_is_not_taken_from_another(first: int, tmp_path: Path) -> None:
    write_manifest([row(tmp_path, "a1"), row(tmp_path, "b1", split="test")], tmp_path / "held.csv")
    write_manifest([row(tmp_path, "b1", dataset="other"), row(tmp_path, "c1")], tmp_path / "taken.csv")
    named = [{"path": str(tmp_path / name), "splits": ["train"]} for name in ("held.csv", "taken.csv")]
    with pytest.raises(ConfigError, match="1 images are in two manifests, one of which leaves them out") as told:
        training_rows(config(manifests=[named[first], named[1 - first]]))
    assert "(test; train in the other)" in str(told.value)
    views = [{"path": named[0]["path"], "splits": [split], "views": ["frontal"]} for split in ("train", "test")]
    assert [row.image for row in training_rows(config(manifests=views)).rows] == ["a1", "b1"], "one manifest, twice"
