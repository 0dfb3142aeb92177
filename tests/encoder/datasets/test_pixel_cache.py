"""The pixel cache: right pixels from all encodings, bad files tolerated and named by number, no work lost or redone."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import pickle  # hands our own rows to a child process
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.datasets import cache_building as module
from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache, stage
from encoder.errors import ConfigError, LlavaRadError
from encoder.locks import locked
from encoder.reader.sandbox import Reader
from tests.encoder import dicom_files
from tests.forked import context

SIZE = 56


def png(path: Path, seed: int = 0, shape: tuple[int, int] = (72, 90)) -> Row:
    """A smooth 8-bit picture as a row."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BILINEAR).save(path)
    return Row(path, "set", f"subject {seed}", "", path.name, number=seed + 1)


def pictures(folder: Path, number: int) -> list[Row]:
    return [png(folder / f"JANE-{i}.png", i, (64 + i, 96 - i)) for i in range(number)]


def dicom(path: Path, values: np.ndarray | None = None, **attributes: object) -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_files.chest(values, **attributes))
    return Row(path, image=path.name)


def builder(rows: list[Row], folder: Path, **options: object) -> Builder:
    return Builder(rows, folder, **({"size": SIZE, "workers": 2} | options))  # type: ignore[arg-type]


def make(rows: list[Row], folder: Path, **options: object) -> Cache:
    return builder(rows, folder, **options).cache()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".lock")}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir() if path.name != ".lock"
    }


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two images."""
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * SIZE * SIZE * 5 // 4 + 8)


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


@pytest.mark.usefixtures("small_shards")
def test_files_that_come_back_are_read_by_the_next_run(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 6)
    away = tmp_path / "away.png"
    rows[1].path.rename(away)
    rows[5].path.write_bytes(b"broken")
    with pytest.raises(LlavaRadError, match="2 of 6"):
        make(rows, tmp_path / "cache", max_unreadable=0.2)
    away.rename(rows[1].path)
    assert len(make(rows, tmp_path / "cache", max_unreadable=0.2)) == 5


@pytest.mark.usefixtures("small_shards")
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 7)
    one = make(rows, tmp_path / "one", workers=1)
    three = make(rows, tmp_path / "three", workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert one.fingerprint == three.fingerprint
    assert len([name for name in contents(tmp_path / "one") if name.endswith(".bin")]) == 4
    assert make(rows, tmp_path / "other", size=70).fingerprint != one.fingerprint
    assert make(rows[::-1], tmp_path / "reversed").fingerprint != one.fingerprint


@pytest.mark.usefixtures("small_shards")
def test_a_second_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pictures(tmp_path / "in", 5)
    make(rows, tmp_path / "cache")
    before = stamps(tmp_path / "cache")
    monkeypatch.setattr(module, "Reader", None)
    assert len(make(rows, tmp_path / "cache")) == 5
    assert stamps(tmp_path / "cache") == before


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 12)
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps(rows))
    code = (
        "import pickle, sys, time; from pathlib import Path\n"  # the rows of this test
        "from encoder.datasets import cache_building as cache\n"
        f"cache.SHARD_BYTES = 2 * {SIZE} * {SIZE} * 5 // 4 + 8\n"
        "rows = pickle.loads(Path(sys.argv[1]).read_bytes())\n"  # written by this test
        f"cache.Builder(rows, Path(sys.argv[2]), size={SIZE}, workers=2, progress=lambda *_: time.sleep(0.1)).cache()\n"
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, "-c", code, str(tmp_path / "rows.pickle")]
    child = subprocess.Popen([*command, str(broken)])
    deadline = time.monotonic() + 60
    while True:  # until it is stopped while it writes the third shard
        assert time.monotonic() < deadline and child.poll() is None
        child.send_signal(signal.SIGSTOP)
        if (broken / "shard-00001.json").exists() and list(broken.glob(".*.tmp")):
            break
        child.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    child.kill()
    child.wait()
    with pytest.raises(LlavaRadError, match="no complete pixel cache"):
        Cache.open(broken)
    before = stamps(broken)
    subprocess.run([*command, str(broken)], check=True)
    subprocess.run([*command, str(whole)], check=True)
    assert contents(broken) == contents(whole)
    after = stamps(broken)
    assert {name: after[name] for name in before if name.startswith("shard")} == {
        name: stamp for name, stamp in before.items() if name.startswith("shard")
    }, "finished shards were not written again"


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


def _pixels(cache: Cache) -> list[bytes]:
    return [cache.image(i).tobytes() for i in range(len(cache))]


def test_a_cache_goes_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = make(pictures(tmp_path / "in", 3), Path("cache"))
    expected = _pixels(cache)  # shards are open now
    data = pickle.dumps(cache)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_pixels, (cache,)) == expected


def _opened(queue: Any, rows: list[Row], folder: Path) -> None:
    try:
        queue.put([image.hex() for image in _pixels(make(rows, folder, workers=1))])
    except BaseException as error:  # the test compares what comes
        queue.put(repr(error))


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(4, 20, marks=pytest.mark.nightly),
        pytest.param(8, 20, marks=pytest.mark.nightly),
        pytest.param(16, 20, marks=pytest.mark.nightly),
    ],
)
def test_many_processes_build_and_open_a_cache_at_once(tmp_path: Path, processes: int, rounds: int) -> None:
    rows = pictures(tmp_path / "in", 3)
    expected = [image.hex() for image in _pixels(make(rows, tmp_path / "expected"))]
    forked = context("encoder.datasets.cache_building", "filelock")
    for turn in range(rounds):
        folder, queue = tmp_path / str(turn), forked.Queue()
        started = [forked.Process(target=_opened, args=(queue, rows, folder)) for _ in range(processes)]
        for process in started:
            process.start()
        found = [queue.get(timeout=120) for _ in started]
        for process in started:
            process.join()
        assert found == [expected] * processes
        assert _pixels(Cache.open(folder)) == _pixels(Cache.open(tmp_path / "expected"))


def test_a_build_waits_for_another_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.locks._PATIENCE", 0.05)
    rows, lines = pictures(tmp_path / "in", 2), list[str]()
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Cache]] = []

        def progress(done: int, total: int) -> None:
            if not waiting:
                waiting.append(pool.submit(make, rows, tmp_path / "cache", notify=lines.append))
                while len(lines) < 2:
                    time.sleep(0.01)

        cache = make(rows, tmp_path / "cache", progress=progress)
        assert waiting[0].result(30).fingerprint == cache.fingerprint
    assert lines[0] == "another process builds the pixel cache; waiting (0 of 1 shards are ready)"


def test_a_complete_cache_is_opened_without_a_lock(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 2)
    make(rows, tmp_path / "cache")
    with locked(tmp_path / "cache" / ".lock"):
        assert len(make(rows, tmp_path / "cache")) == 2
        assert builder(rows, tmp_path / "cache").part(1, 2)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_parts_in_any_order_make_the_same_cache(tmp_path: Path, parts: int) -> None:
    rows = pictures(tmp_path / "in", 9)
    rows[4].path.write_bytes(b"broken")
    make(rows, tmp_path / "whole", max_unreadable=0.2)
    order = np.random.default_rng(parts).permutation(parts) + 1
    counted: list[tuple[int, int]] = []
    for number in order:
        if number != order[0]:
            with pytest.raises(LlavaRadError, match="no complete pixel cache"):
                Cache.open(tmp_path / "parts")
        done = builder(
            rows, tmp_path / "parts", max_unreadable=0.2, progress=lambda *count: counted.append(count)
        ).part(int(number), parts)
        assert done == (number == order[-1])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert len(counted) == 9 and sum(done == total for done, total in counted) == min(parts, 5)


def _build_part(rows: list[Row], folder: Path, part: tuple[int, int]) -> None:
    module.SHARD_BYTES = 2 * SIZE * SIZE * 5 // 4 + 8
    builder(rows, folder, workers=1, progress=lambda *_: time.sleep(0.05)).part(*part)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_parts_built_at_once_and_killed_at_random_make_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rows = pictures(tmp_path / "in", 24)
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * SIZE * SIZE * 5 // 4 + 8)
    make(rows, tmp_path / "whole")
    rng, forked = np.random.default_rng(seed), context("encoder.datasets.cache_building", "filelock")
    parts = {number: rng.integers(1, 4) for number in (1, 2, 3)}  # times that it is killed
    running: dict[int, Any] = {}
    deadline = time.monotonic() + 240
    while parts or running:
        assert time.monotonic() < deadline
        for number in [number for number in parts if number not in running]:
            running[number] = forked.Process(target=_build_part, args=(rows, tmp_path / "parts", (number, 3)))
            running[number].start()
        time.sleep(rng.uniform(0, 2))
        for number, process in list(running.items()):
            if parts[number] and rng.random() < 0.5:
                process.kill()
                parts[number] -= 1
            process.join(0.1)
            if process.exitcode is not None:
                del running[number]
                if process.exitcode == 0:
                    del parts[number]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards")
def test_a_part_is_continued_and_a_whole_build_takes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pictures(tmp_path / "in", 8)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder(rows, tmp_path / "cache", progress=stop).part(1, 2)
    assert sorted(name for name in contents(tmp_path / "cache") if name.endswith("json")) == [
        "cache.json", "shard-00000.json"
    ]  # fmt: skip
    counted: list[int] = []
    assert not builder(rows, tmp_path / "cache", progress=lambda done, total: counted.append(done)).part(1, 2)
    assert counted == [3, 4]
    make(rows, tmp_path / "cache", progress=lambda done, total: counted.append(done))
    assert counted == [3, 4, 5, 6, 7, 8]
    assert builder(rows, tmp_path / "cache").part(2, 2)


@pytest.mark.usefixtures("small_shards")
def test_a_part_is_built_once_at_a_time_and_a_whole_build_waits_for_it(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 6)
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Cache]] = []

        def progress(done: int, total: int) -> None:
            if not waiting:
                with pytest.raises(LlavaRadError, match="another process is building part 2/2"):
                    builder(rows, tmp_path / "cache").part(2, 2)
                waiting.append(pool.submit(make, rows, tmp_path / "cache"))
                time.sleep(0.2)
                assert not (tmp_path / "cache" / "index.npy").exists()

        assert builder(rows, tmp_path / "cache", progress=progress).part(2, 2)
        assert len(waiting[0].result(60)) == 6


@pytest.mark.usefixtures("small_shards")
def test_parts_together_may_not_have_more_unreadable_images_than_allowed(tmp_path: Path) -> None:
    rows = pictures(tmp_path / "in", 8)
    for broken in (1, 3):  # one in each part
        rows[broken].path.write_bytes(b"broken")
    assert not builder(rows, tmp_path / "cache", max_unreadable=0.125).part(1, 2)
    with pytest.raises(LlavaRadError, match="2 of 8 images cannot be read, 1 may be"):
        builder(rows, tmp_path / "cache", max_unreadable=0.125).part(2, 2)
    assert (tmp_path / "cache" / "unreadable.csv").read_text().count("not_an_image") == 2
    assert len(make(rows, tmp_path / "cache", max_unreadable=0.25)) == 6


@pytest.mark.usefixtures("small_shards")
def test_a_staged_cache_has_the_same_pixels_and_is_copied_once(tmp_path: Path) -> None:
    cache = make(pictures(tmp_path / "in", 7), tmp_path / "cache")
    counted: list[tuple[int, int]] = []
    copy = stage(cache, tmp_path / "disk", progress=lambda *count: counted.append(count), waiting=lambda: None)
    assert copy.folder.parent == tmp_path / "disk" and copy.fingerprint == cache.fingerprint
    assert _pixels(copy) == _pixels(cache)
    copy.verify()
    assert counted[-1][0] == counted[-1][1] == sum(map(len, _pixels(cache)))
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
    assert _pixels(copy) == _pixels(cache)
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
    expected = _pixels(cache)
    assert [cache.image(i).tobytes() for i in (8, 0, 4, 4, 2, 8)] == [expected[i] for i in (8, 0, 4, 4, 2, 8)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(LlavaRadError, match=r"needs at least 0\.0 GB"):
        make(pictures(tmp_path / "in", 2), tmp_path / "cache")


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
