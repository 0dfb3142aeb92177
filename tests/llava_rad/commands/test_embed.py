"""``llava-rad embed``: equal to transformers' features, order and ids, resume after a kill, unreadable images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import llava_rad
from encoder.backbones.dinov2 import RadDino
from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError, ModelError
from encoder.preprocessing import rad_dino
from encoder.reader.sandbox import Reader
from llava_rad.probes import embedding, feature_files
from tests.encoder.dinov2_models import dinov2
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run
from tests.shared_readers import _idle_readers, shared_readers

__all__ = ["_idle_readers", "shared_readers"]

NAMES = ["a.dcm", "b.png", "c.png", "d.dcm", "e.tif"]
SIZE = 56


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "small"
    RadDino(dinov2(size=SIZE), f"rad-dino-{SIZE}").save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        write = small_files.dicom if name.endswith(".dcm") else small_files.picture
        write(folder / name, seed=seed)
    return folder


@pytest.fixture
def expected(images: Path) -> torch.Tensor:
    """[5, 1 + 16, D]: transformers' own network, one image after the other."""
    model = dinov2(size=SIZE).eval()
    with Reader() as reader, torch.inference_mode():
        pixels = [reader.prepare(images / name, rad_dino(SIZE)).pixels for name in NAMES]
        return torch.cat([model(rad_dino(SIZE).normalise(one[None])).last_hidden_state for one in pixels])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["cls", "mean", "patches"])
def test_features_equal_those_of_transformers(
    kind: str, run: Run, encoder: Path, images: Path, expected: torch.Tensor, tmp_path: Path
) -> None:
    right = {"cls": expected[:, 0], "mean": expected[:, 1:].mean(1), "patches": expected[:, 1:]}[kind].numpy()
    options = ("--encoder", encoder, "--features", kind, "--batch-size", "2", "-q")
    assert run("embed", images, "-o", "f.npz", *options).code == 0
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], right, rtol=0, atol=1e-5)
        assert found["features"].dtype == np.float32 and found["readable"].all()
        assert list(found["id"]) == [sha256(images / name) for name in NAMES] and "path" not in found
        about = json.loads(str(found["about"]))
    assert about["recipe"]["name"] == f"rad-dino-{SIZE}" and about["features"] == kind
    ran = run("embed", images, "-o", "f.parquet", *options)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    np.testing.assert_allclose(np.array(table["features"].to_pylist(), np.float32), right, rtol=0, atol=1e-5)
    assert table["id"].to_pylist() == [sha256(images / name) for name in NAMES]
    assert json.loads(table.schema.metadata[b"llava-rad"]) == about
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "f.parquet", "images"], "no work is left"
    features = llava_rad.embed(images, encoder, features=kind).features  # type: ignore[arg-type]
    np.testing.assert_allclose(features, right, rtol=0, atol=1e-5)


def test_a_manifest_keeps_its_order_and_ids(
    run: Run, encoder: Path, images: Path, expected: torch.Tensor, tmp_path: Path
) -> None:
    order = [3, 0, 4, 1]
    rows = [Row(images / NAMES[n], "own", f"p{n}", image=f"image {n}") for n in order]
    write_manifest(rows, tmp_path / "m.csv")
    ran = run("embed", "m.csv", "-o", "f.npz", "--encoder", encoder, "--show-paths")
    assert ran.code == 0 and ran.out == "" and "4 of 4 images, cls 24, recipe rad-dino-56" in ran.err
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], expected[order, 0], rtol=0, atol=1e-5)
        assert list(found["id"]) == [f"image {n}" for n in order]
        assert list(found["path"]) == [str(images / NAMES[n]) for n in order]
    write_manifest([*rows, Row(images / NAMES[2], "own")], tmp_path / "m.csv")  # one without an id
    assert llava_rad.embed(tmp_path / "m.csv", encoder).ids == [sha256(images / NAMES[n]) for n in (*order, 2)]


def test_doubtful_images_are_counted_and_marked(run: Run, encoder: Path, images: Path, tmp_path: Path) -> None:
    pixels = np.array(Image.open(images / "c.png"))
    pixels[len(pixels) // 2 :] = 0
    Image.fromarray(pixels).save(images / "c.png")
    work = embedding.Embedding(encoder)
    for _ in range(2):  # computed, then continued
        rows, ids = embedding.rows_of(images)
        found = work.run(rows, ids, feature_files.work_folder(tmp_path / "f.npz"))
        assert found.doubtful == {3: "a large area has no variation"}
    ran = run("embed", images, "-o", "f.npz", "--encoder", encoder)
    assert ran.code == 0 and "c.png" not in ran.err
    text = (
        "llava-rad: warning: probably damaged or incomplete, but included: 1 images (a large area has no variation: 1)."
    )
    assert ran.err.splitlines().count(text) == 1
    with np.load(tmp_path / "f.npz") as written:
        assert list(written["warning"]) == ["", "", "a large area has no variation", "", ""]
        assert written["readable"].all()


def test_inverted_images_of_a_manifest_are_computed_anew(
    run: Run, encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the work in progress holds the file as it is; expected: the complement under another name."""
    Image.fromarray(255 - np.asarray(Image.open(images / "b.png"))).save(images / "negative.png")
    right = llava_rad.embed(images / "negative.png", encoder).features
    monkeypatch.setattr(feature_files, "write_features", lambda *_, **__: None)  # leaves the work in progress
    for inverted in (False, True):
        write_manifest([Row(images / "b.png", inverted=inverted)], tmp_path / "m.csv")
        assert run("embed", "m.csv", "-o", "f.npz", "--encoder", encoder).code == 0
    monkeypatch.undo()
    assert run("embed", tmp_path / "m.csv", "-o", tmp_path / "f.npz", "--encoder", encoder).code == 0
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"], right, rtol=0, atol=1e-4)


def test_a_killed_run_continues(
    run: Run, encoder: Path, images: Path, expected: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the last batch was half written, and an image has changed since."""
    batches: list[int] = []
    encode = embedding.Embedding._encode

    def killed(self: Any, vision: Any, pixels: Any, after: int = 2) -> Any:
        if len(batches) == after:
            raise KeyboardInterrupt
        batches.append(len(pixels))
        return encode(self, vision, pixels)

    monkeypatch.setattr(embedding.Embedding, "_encode", killed)
    arguments = ("embed", images, "-o", "f.npz", "--encoder", encoder, "--batch-size", "2")
    ran = run(*arguments)
    assert ran.code == 130 and "the same command continues" in ran.err and not (tmp_path / "f.npz").exists()
    work = tmp_path / ".f.npz.part"
    with (work / "vectors.bin").open("ab") as vectors, (work / "images.jsonl").open("ab") as lines:
        vectors.write(b"half")
        lines.write(b'["half')
    small_files.dicom(images / "a.dcm", seed=9)
    (images / "0.png").symlink_to(images / "b.png")  # a new image before the others
    monkeypatch.setattr(embedding.Embedding, "_encode", lambda *a: killed(*a, after=99))
    assert run(*arguments).code == 0
    assert batches == [2, 2, 2, 1], "the changed, the new and the last image"
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["features"][2:], expected[1:, 0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["features"][0], expected[1, 0], rtol=0, atol=1e-5)
        assert np.abs(found["features"][1] - expected[0, 0].numpy()).max() > 1e-3
    assert not work.exists()


def test_work_of_other_settings_is_not_continued(
    run: Run, encoder: Path, images: Path, expected: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "write_features", lambda *a, **k: None)
    arguments = ("embed", images, "-o", "f.npz", "--encoder", encoder)
    assert run(*arguments, "--features", "mean").code == 0 and (tmp_path / ".f.npz.part").is_dir()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "f.npz")["features"], expected[:, 0], rtol=0, atol=1e-5)


def test_work_of_an_encoder_with_another_configuration_is_not_continued(
    run: Run, encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights alone do not tell them apart; the right features are those of a run that continues nothing."""
    other = shutil.copytree(encoder, tmp_path / "small")
    arguments = ("embed", images, "--encoder", other, "--features", "mean")
    with monkeypatch.context() as patch:
        patch.setattr(feature_files, "write_features", lambda *a, **k: None)
        assert run(*arguments, "-o", "f.npz").code == 0 and (tmp_path / ".f.npz.part").is_dir()
    config = json.loads((other / "config.json").read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    assert run(*arguments, "-o", "f.npz").code == run(*arguments, "-o", "fresh.npz").code == 0
    with np.load(tmp_path / "f.npz") as found, np.load(tmp_path / "fresh.npz") as fresh:
        np.testing.assert_array_equal(found["features"], fresh["features"])


def test_unreadable_images_keep_their_place(run: Run, encoder: Path, images: Path, tmp_path: Path) -> None:
    (images / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    arguments = ("embed", images, "-o", "f.npz", "--encoder", encoder)
    ran = run(*arguments)
    assert ran.code == 3 and "image 2 of 5" in ran.err and "b.png" not in ran.err and "4 of 5 images" in ran.err
    with np.load(tmp_path / "f.npz") as found:
        assert list(found["readable"]) == [True, False, True, True, True]
        assert np.isnan(found["features"][1]).all() and np.isfinite(found["features"][[0, 2, 3, 4]]).all()
        assert found["id"][1] == sha256(images / "b.png")
    (images / "c.png").write_bytes(b"")
    ran = run(*arguments, "--overwrite")
    assert ran.code == 1 and "2 of 5 images cannot be read, 1 may be" in ran.err and "--max-unreadable" in ran.err
    assert np.load(tmp_path / "f.npz")["readable"].sum() == 4, "the earlier file stays"
    assert run(*arguments, "--overwrite", "--max-unreadable", "0.4").code == 3
    found = llava_rad.embed(images, encoder, max_unreadable=0.5)
    assert list(found.unreadable) == [2, 3] and len(found.features) == 5
    assert run("embed", images / "c.png", "-o", "one.npz", "--encoder", encoder).code == 4
    assert not (tmp_path / "one.npz").exists()


def test_a_path_that_parquet_cannot_hold_is_refused_before_the_work(
    run: Run, encoder: Path, images: Path, tmp_path: Path
) -> None:
    (images / "d.png").write_bytes((images / "b.png").read_bytes())
    (images / "d.png").rename(images / os.fsdecode(b"M\xfcller.png"))  # Latin-1
    ran = run("embed", images, "-o", "f.parquet", "--encoder", encoder, "--show-paths")
    assert ran.code == 1 and "not text in UTF-8" in ran.err and "--show-paths" in ran.err and "ller" not in ran.err
    assert not list(tmp_path.glob("*.p*t")) and not (tmp_path / ".f.parquet.part").exists()
    assert run("embed", images, "-o", "f.parquet", "--encoder", encoder).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("images", "-o", "f.csv"), 2, "ends in .npz or .parquet"),
        (("images", "-o", "nowhere/f.npz"), 2, "folder does not exist"),
        (("images", "-o", "old.npz"), 2, "exists already"),
        (("images", "-o", "f.npz", "--features", "pooled"), 2, "pooled"),
        (("images", "-o", "f.npz", "--recipe", "rad-dino-57"), 5, "cannot be cut into patches"),
        (("images", "-o", "f.npz", "--recipe", "own"), 1, "no recipe 'own'"),
        (("images", "-o", "f.npz", "--batch-size", "0"), 2, "batch-size"),
        (("images", "m.csv", "-o", "f.npz"), 2, "one manifest, or images"),
        (("empty.csv", "-o", "f.npz"), 1, "no rows"),
        (("absent.csv", "-o", "f.npz"), 1, "manifest does not exist"),
        (("absent.png", "-o", "f.npz"), 4, "no such file"),
        (("none", "-o", "f.npz"), 4, "no image"),
    ],
)
def test_wrong_use_leaves_nothing(
    arguments: tuple[str, ...], code: int, words: str, run: Run, encoder: Path, images: Path, tmp_path: Path
) -> None:
    write_manifest([Row(images / "a.dcm")], tmp_path / "m.csv")
    (tmp_path / "empty.csv").write_text("path\n")
    (tmp_path / "none").mkdir()
    (tmp_path / "old.npz").touch()
    before = {path.name for path in tmp_path.iterdir()}
    ran = run("embed", *arguments, "--encoder", encoder)
    assert (ran.code, ran.out) == (code, "") and words in ran.err and "unexpected" not in ran.err
    assert {path.name for path in tmp_path.iterdir()} - before <= {".f.npz.part"}


def test_an_encoder_without_a_recipe_is_refused(run: Run, images: Path, tmp_path: Path) -> None:
    dinov2(size=SIZE).save_pretrained(tmp_path / "e")
    (tmp_path / "e" / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    ran = run("embed", images, "-o", "f.npz", "--encoder", "e")
    assert ran.code == 5 and "do not state its preprocessing recipe" in ran.err and "--recipe" in ran.err
    with pytest.raises(ModelError):
        llava_rad.embed(images, tmp_path / "e")
    assert run("embed", images, "-o", "f.npz", "--encoder", "e", "--recipe", "rad-dino-56").code == 0
    with pytest.raises(ConfigError, match="no features 'pooled'"):
        llava_rad.embed(images, tmp_path / "e", features="pooled")  # type: ignore[arg-type]
