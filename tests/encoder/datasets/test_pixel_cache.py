"""The pixel cache: right pixels from all encodings, bad files tolerated and named by number, damage found, copies."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import pickle  # hands our own rows to a child process
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache, stage
from encoder.errors import ConfigError, LlavaRadError
from encoder.locks import locked
from encoder.reader.sandbox import Reader
from tests.encoder import dicom_files
from tests.encoder.datasets.small_caches import builder, contents, dicom, make, pictures, pixels_of, png, stamps


def test_pixels_are_resized_then_stretched(tmp_path: Path) -> None:
    rows = [png(tmp_path / "in" / "1.png", 1, (100, 160)), png(tmp_path / "in" / "2.png", 2, (160, 100))]
    cache = make(rows, tmp_path / "cache")
    assert len(cache) == 2
    for i, (row, shape) in enumerate(zip(rows, [(56, 89), (89, 56)], strict=True)):
        values = np.asarray(Image.open(row.path), np.float64)
        resized = np.asarray(Image.fromarray(values.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC))
        expected = (resized - resized.min()) / (resized.max() - resized.min()) * 255
        image = cache.image(i)
        assert image.shape == shape
        assert image.dtype == np.uint8
        assert np.abs(image - expected).max() < 0.51
        assert not image.flags.writeable


def test_16_bit_png_does_not_saturate(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 600 * 600).reshape(600, 600).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image = make([Row(tmp_path / "ramp.png")], tmp_path / "cache", size=112).image(0)
    # a reader that cuts values at 255 makes 99.6 % of this white
    assert (image == 255).mean() < 0.02
    assert abs(image.mean() - 127.5) < 1
    means = image.mean(axis=1)
    assert (np.diff(means) > 0).all()


def test_one_image_from_all_dicom_encodings(tmp_path: Path) -> None:
    values = dicom_files.ramp(rows=80, columns=100)
    padded = np.pad(values, ((0, 0), (20, 0)), constant_values=4095)
    padded[:, 20:] = values * 3800 // 4095  # 4095 is padding only
    rows = [
        dicom(tmp_path / "0.dcm", values),
        dicom(tmp_path / "1.dcm", 4095 - values, PhotometricInterpretation="MONOCHROME1"),
        dicom(tmp_path / "2.dcm", values, RescaleSlope=2, RescaleIntercept=-1024, RescaleType="US"),
        dicom(tmp_path / "3.dcm", values - 2048, signed=True),
        dicom(tmp_path / "4.dcm", values * 16, bits=16),
        dicom(tmp_path / "5.dcm", padded, PixelPaddingValue=4095),
    ]
    cache = make(rows, tmp_path / "cache", max_unreadable=0)
    first = cache.image(0).astype(int)
    assert (first.min(), first.max()) == (0, 255)
    assert first[-1].mean() > 200, "the ramp grows downwards: brighter is denser"
    for i in (1, 2, 3, 4):
        assert np.abs(cache.image(i) - first).max() <= 1, i
    # The padding counts as darkest, so the picture beside it keeps its full range (bicubic undershoots).
    assert cache.image(5)[:, -66:].max() == 255
    assert cache.image(5)[:, :8].max() <= 4


def test_lateral_views_are_taken_and_other_body_parts_are_not(tmp_path: Path) -> None:
    rows = [
        dicom(tmp_path / "0.dcm", ViewPosition="LL"),
        dicom(tmp_path / "1.dcm", BodyPartExamined="HAND"),
        dicom(tmp_path / "2.dcm", ViewPosition="LL", BodyPartExamined="HAND"),
        dicom(tmp_path / "3.dcm", Modality="CT"),
        dicom(tmp_path / "4.dcm", PresentationIntentType="FOR PROCESSING"),
        dicom(tmp_path / "5.dcm", PatientOrientation=["A", "F"], ViewPosition=None),
    ]
    cache = make(rows, tmp_path / "cache", max_unreadable=1)
    assert cache.rows.tolist() == [0, 5]
    with (tmp_path / "cache" / "unreadable.csv").open() as file:
        reasons = {int(line["row"]): line["reason"] for line in csv.DictReader(file)}
    assert reasons == {2: "body_part", 3: "body_part", 4: "modality", 5: "for_processing"}


def test_unreadable_files_are_listed_without_names_and_limited(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 10)
    data = rows[3].path.read_bytes()
    rows[3].path.write_bytes(data[: len(data) // 2])
    rows[7].path.write_bytes(b"JANE DOE")
    seen: list[tuple[int, int]] = []
    cache = make(rows, tmp_path / "cache", max_unreadable=0.2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 10) for n in range(1, 11)]
    assert (len(cache), cache.unreadable) == (8, 2)
    assert cache.rows.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    text = (tmp_path / "cache" / "unreadable.csv").read_text()
    lines = list(csv.DictReader(text.splitlines()))
    assert [(line["dataset"], line["row"], line["reason"]) for line in lines] == [
        ("set", "4", "truncated"),
        ("set", "8", "not_an_image"),
    ]
    assert lines[1]["sha256"] == hashlib.sha256(b"JANE DOE").hexdigest()
    assert all(b"JANE" not in data for data in contents(tmp_path / "cache").values())
    with pytest.raises(LlavaRadError, match="2 of 10 images cannot be read, 1 may be") as raised:
        make(rows, tmp_path / "cache", max_unreadable=0.1)
    assert "JANE" not in str(raised.value)
    with pytest.raises(LlavaRadError, match="of the first 4 of 10 images cannot be read, 0 may be"):
        make(rows, tmp_path / "new", max_unreadable=0)
    assert (tmp_path / "new" / "unreadable.csv").is_file(), "so that one can look what they are"


def test_a_cache_of_other_images_or_another_size_is_refused(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 4)
    make(rows, tmp_path / "cache")
    before = stamps(tmp_path / "cache")
    for other, options, says in (
        (rows, {"size": 70}, r"images of 56 pixels, not of data\.size = 70"),
        (rows[:3], {}, "4 images, not these 3"),
        (rows[::-1], {}, "other images"),
        ([*rows[:3], replace(rows[3], subject="x")], {}, "other images"),
    ):
        with pytest.raises(ConfigError, match=says) as raised:
            make(other, tmp_path / "cache", **options)
        assert "data.cache" in str(raised.value.hint)
    assert stamps(tmp_path / "cache") == before


def test_inverted_images_are_inverted_and_belong_to_another_cache(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 3)
    inverted = [rows[0], replace(rows[1], inverted=True), rows[2]]
    plain, found = make(rows, tmp_path / "plain"), make(inverted, tmp_path / "cache")
    for i in (0, 2):
        assert np.array_equal(found.image(i), plain.image(i))
    difference = found.image(1).astype(int) + plain.image(1) - 255
    assert np.abs(difference).max() <= 1, "rounding"
    assert found.fingerprint != plain.fingerprint and found.sha256(1) == plain.sha256(1)
    assert make(inverted, tmp_path / "cache").fingerprint == found.fingerprint
    for others in (rows, [replace(rows[0], inverted=True), rows[1], rows[2]]):
        with pytest.raises(ConfigError, match="other images"):
            make(others, tmp_path / "cache")


def test_squashed_images_are_stretched_and_belong_to_another_cache(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 2)
    plain = make(rows, tmp_path / "plain")
    height, width = plain.image(1).shape
    squashed = [rows[0], replace(rows[1], attributes={"aspect": f"{1.5 * width / height}"})]
    found = make(squashed, tmp_path / "cache")
    assert np.array_equal(found.image(0), plain.image(0)) and found.fingerprint != plain.fingerprint
    high, wide = found.image(1).shape
    assert wide / high == pytest.approx(1.5 * width / height, rel=0.03)
    assert make(squashed, tmp_path / "cache").fingerprint == found.fingerprint
    for others in (rows, [rows[0], replace(rows[1], attributes={"aspect": "1.1"})]):
        with pytest.raises(ConfigError, match="other images"):
            make(others, tmp_path / "cache")


def test_data_may_move_or_go_but_not_change(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 4)
    fingerprint = make(rows, tmp_path / "cache").fingerprint
    (tmp_path / "in").rename(tmp_path / "moved")
    moved = [replace(row, path=tmp_path / "moved" / row.path.name) for row in rows]
    assert make(moved, tmp_path / "cache").fingerprint == fingerprint
    assert make(rows, tmp_path / "cache").fingerprint == fingerprint, "the files are gone: the cache is enough"
    png(moved[2].path, seed=99)
    with pytest.raises(ConfigError, match="files that have changed since"):
        make(moved, tmp_path / "cache")


def test_damage_is_found(tmp_path: Path) -> None:
    cache = make(pictures(tmp_path / "in", 3), tmp_path / "cache")
    cache.verify()
    shard = tmp_path / "cache" / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LlavaRadError, match="damaged"):
        cache.verify()
    shard.write_bytes(data[:-1])
    again = Cache.open(tmp_path / "cache")
    again.image(0)
    with pytest.raises(LlavaRadError, match="damaged"):
        again.image(2)
    facts = json.loads((tmp_path / "cache" / "cache.json").read_text())
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(facts | {"format": "other"}))
    with pytest.raises(LlavaRadError, match="not that of a pixel cache"):
        Cache.open(tmp_path / "cache")
    (tmp_path / "cache" / "index.npy").write_bytes(b"x")
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(facts))
    with pytest.raises(LlavaRadError, match="damaged"):
        Cache.open(tmp_path / "cache")


def test_a_cache_goes_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = make(pictures(tmp_path / "in", 3), Path("cache"))
    expected = pixels_of(cache)  # shards are open now
    data = pickle.dumps(cache)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(pixels_of, (cache,)) == expected


def test_a_complete_cache_is_opened_without_a_lock(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 2)
    make(rows, tmp_path / "cache")
    with locked(tmp_path / "cache" / ".lock"):
        assert len(make(rows, tmp_path / "cache")) == 2
        assert builder(rows, tmp_path / "cache").part(1, 2)


@pytest.mark.usefixtures("small_shards")
def test_a_staged_cache_has_the_same_pixels_and_is_copied_once(tmp_path: Path) -> None:
    cache = make(pictures(tmp_path / "in", 7), tmp_path / "cache")
    counted: list[tuple[int, int]] = []
    copy = stage(cache, tmp_path / "disk", progress=lambda *count: counted.append(count), waiting=lambda: None)
    assert copy.folder.parent == tmp_path / "disk" and copy.fingerprint == cache.fingerprint
    assert pixels_of(copy) == pixels_of(cache)
    copy.verify()
    assert counted[-1][0] == counted[-1][1] == sum(map(len, pixels_of(cache)))
    before = stamps(copy.folder)
    with locked(copy.folder / ".lock"):
        stage(cache, tmp_path / "disk", waiting=lambda: pytest.fail("a complete copy needs no lock"))
    assert stamps(copy.folder) == before


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_copy_is_continued_and_a_damaged_shard_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder.datasets.pixel_cache._COPIES", 1)
    cache = make(pictures(tmp_path / "in", 7), tmp_path / "cache")
    shard = tmp_path / "cache" / "shard-00002.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(LlavaRadError, match="a shard of the pixel cache is damaged"):
        stage(cache, tmp_path / "disk", waiting=lambda: None)
    folder = next((tmp_path / "disk").iterdir())
    assert sorted(path.name for path in folder.glob("*.bin"))[:2] == ["shard-00000.bin", "shard-00001.bin"]
    assert not (folder / "shard-00002.bin").exists() and not (folder / "index.npy").exists()
    assert not list(folder.glob("*.tmp"))
    shard.write_bytes(whole)
    before = stamps(folder)
    copy = stage(cache, tmp_path / "disk", waiting=lambda: None)
    assert pixels_of(copy) == pixels_of(cache)
    assert before.items() <= stamps(folder).items(), "what was copied is not copied again"


def test_a_disk_without_room_for_a_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(pictures(tmp_path / "in", 2), tmp_path / "cache")
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(LlavaRadError, match="the copy of the pixel cache needs at least"):
        stage(cache, tmp_path / "disk", waiting=lambda: None)


@pytest.mark.usefixtures("small_shards")
def test_a_cache_of_more_shards_than_open_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.datasets.pixel_cache._OPEN_FILES", 2)
    cache = make(pictures(tmp_path / "in", 9), tmp_path / "cache")
    before = len(list(Path("/proc/self/fd").iterdir()))
    expected = pixels_of(cache)
    assert [cache.image(i).tobytes() for i in (8, 0, 4, 4, 2, 8)] == [expected[i] for i in (8, 0, 4, 4, 2, 8)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="no image"):
        make([], tmp_path / "cache")


def test_real_radiographs_are_prepared_as_for_inference(shared_dir: Path, tmp_path: Path, reader: Reader) -> None:
    from encoder.datasets.registry import DATASETS
    from encoder.preprocessing import RECIPES

    rows = [Row(dicom_files.sample_file(name), image=name) for name in ("RG1_UNCI.dcm", "RG1_J2KI.dcm")]
    rows += DATASETS["table"].rows(shared_dir / "data" / "covid_chestxray")[0][:3]
    cache = make(rows, tmp_path / "cache", size=518, max_unreadable=0)
    for i, row in enumerate(rows):
        image = cache.image(i)
        height, width = image.shape
        top, left = (height - 518) // 2, (width - 518) // 2
        prepared = reader.prepare(row.path, RECIPES["rad-dino"])
        assert np.array_equal(image[top : top + 518, left : left + 518], prepared.pixels)
        assert cache.sha256(i) == prepared.sha256
    hand = Row(dicom_files.sample_file("RG3_UNCI.dcm"))
    assert len(make([*rows, hand], tmp_path / "other", size=518, max_unreadable=0.5)) == len(rows)


def test_the_same_bytes_in_two_splits_are_an_error_that_lists_them(tmp_path: Path) -> None:
    rows = [replace(row, split="train") for row in pictures(tmp_path / "in", 3)]
    make(rows, tmp_path / "one")
    (tmp_path / "in" / "copy.png").write_bytes(rows[1].path.read_bytes())
    copy = Row(tmp_path / "in" / "copy.png", "set", "another", image="copy.png", split="val", number=9)
    for _ in range(2):  # also from a complete cache
        with pytest.raises(LlavaRadError, match=r"same bytes in two splits: 1; rows 2 \(train\) and 9 \(val\)"):
            make([*rows, copy], tmp_path / "two")
    make([*rows, replace(copy, split="train")], tmp_path / "three")
