"""Reports belong to the images, model and settings that they were written with, and are written once for these."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.llava_rad import small_files, tiny_model
from tests.llava_rad.benchmark.conftest import contents
from tests.llava_rad.conftest import Ran, Run

pytestmark = pytest.mark.slow

IMAGES = 4


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Folder of a model, three test images and a training image; ``results`` is empty."""
    folder = tmp_path_factory.mktemp("contents")
    shutil.copytree(tiny, folder / "model")
    rows = []
    for number in range(IMAGES):
        small_files.dicom(folder / f"{number}.dcm", seed=number)
        row = {"id": f"i{number}", "image": f"{number}.dcm", "findings": f"Text {number}.", "subject": f"p{number}"}
        rows.append(row | {"split": "test" if number < IMAGES - 1 else "train"})
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def home(start: Path, tmp_path: Path, run: Run) -> Path:
    """A copy of the folder, with the results of one run."""
    target = tmp_path / "home"
    shutil.copytree(start, target)
    if not (start / "results").exists():
        assert again(target, run).code == 0
        shutil.copytree(target / "results", start / "results")
    return target


def again(home: Path, run: Run, *more: str, output: str = "results", model: str = "model") -> Ran:
    call = ("benchmark", "--dataset", "csv", "--data", home / "t.jsonl", "-o", home / output, "--no-cache")
    quick = ("--metrics", "rouge_l", "--bootstrap", "2", "--reference-points", "nearest-neighbour", "--device", "cpu")
    return run(*call, *quick, "--model", f"m={home / model}", *more)


def written(home: Path) -> dict[Path, int]:
    """When reports and vectors were written."""
    files = [home / "results" / "predictions" / "m.jsonl", *(home / "results" / "features").rglob("*.npy")]
    return {file: file.stat().st_mtime_ns for file in files}


def texts(home: Path, output: str) -> list[str]:
    lines = (home / output / "predictions" / "m.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def other_column(home: Path) -> None:
    """The same id names another file."""
    small_files.dicom(home / "new.dcm", seed=9)
    table = home / "t.jsonl"
    table.write_text(table.read_text().replace('"1.dcm"', '"new.dcm"'))


def other_folder(home: Path) -> None:
    """The same name is in another folder, and is another image there."""
    (home / "sub").mkdir()
    small_files.dicom(home / "sub" / "1.dcm", seed=9)
    table = home / "t.jsonl"
    table.write_text(table.read_text().replace('"1.dcm"', '"sub/1.dcm"'))


def exchanged(home: Path) -> None:
    """Two images have each other's names."""
    for source, target in (("0", "x"), ("1", "0"), ("x", "1")):
        (home / f"{source}.dcm").rename(home / f"{target}.dcm")


def overwritten(home: Path) -> None:
    """Other pixels in a file of the same size and time."""
    file = home / "1.dcm"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(small_files.dicom(home / "new.dcm", seed=9).read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_ino) == (before.st_size, before.st_ino)


def unreadable(home: Path) -> None:
    """A file that held an image is no image any more."""
    (home / "1.dcm").write_bytes(b"no image")


@pytest.mark.parametrize("change", [other_column, other_folder, exchanged, overwritten, unreadable])
def test_reports_of_other_images_are_refused(change, home: Path, run: Run) -> None:  # type: ignore[no-untyped-def]
    change(home)
    kept = contents(home / "results")
    refused = again(home, run)
    assert refused.code == 2 and "image files that have changed since" in refused.err and "--overwrite" in refused.err
    assert refused.out == "" and contents(home / "results") == kept


def test_reports_of_other_images_are_written_anew_on_request(home: Path, run: Run) -> None:
    before = texts(home, "results")
    overwritten(home)
    assert again(home, run, "--overwrite").code == again(home, run, output="fresh").code == 0
    assert texts(home, "results") == texts(home, "fresh") != before


def test_what_is_touched_moved_or_described_otherwise_is_not_written_anew(home: Path, run: Run, tmp_path: Path) -> None:
    before, first = written(home), texts(home, "results")
    assert len(before) == 3
    for number in range(IMAGES):
        (home / f"{number}.dcm").touch()
    (home / "1.dcm").rename(home / "moved.dcm")
    table = home / "t.jsonl"
    table.write_text(table.read_text().replace('"1.dcm"', '"moved.dcm"'))
    shutil.copytree(home / "model", home / "copy")
    assert again(home, run, model="copy").code == 0
    assert written(home) == before and texts(home, "results") == first


def test_neighbours_are_searched_among_the_training_images_that_are_there(home: Path, run: Run) -> None:
    before = written(home)
    small_files.dicom(home / "3.dcm", seed=9)
    assert again(home, run).code == 0
    after = written(home)
    assert after.items() > before.items() and len(after) == 4, "only the training images' vectors are computed anew"


def test_a_model_whose_weights_changed_in_place_has_no_results(home: Path, run: Run) -> None:
    file = home / "model" / "projector.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    ran = again(home, run)
    assert ran.code == 5 and "projector.safetensors is damaged" in ran.err and ran.out == ""


def test_another_model_in_the_same_folder_is_refused(home: Path, run: Run) -> None:
    shutil.rmtree(home / "model")
    tiny_model.make(home / "model", seed=1)
    ran = again(home, run)
    assert ran.code == 2 and "other settings" in ran.err and ran.out == ""


def test_the_base_model_of_an_adapter_is_part_of_the_settings(start: Path, tmp_path: Path) -> None:
    from llava_rad.benchmark.plan import Options, Plan
    from llava_rad.benchmark.task import load
    from llava_rad.benchmark.writing import PAPER
    from metrics.base import Settings
    from tests.llava_rad.model.test_checkpoint import rehash

    model, base = tmp_path / "m", tmp_path / "base"
    shutil.copytree(start / "model", model)
    shutil.copytree(start / "model" / "language_model", base)
    content = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (model / "language_model" / "adapter_config.json").write_text(json.dumps(content))
    rehash(model)
    options = Options(tmp_path / "r", {"m": str(model)}, {}, PAPER, PAPER, Settings(), offline=True)

    def settings() -> dict[str, object]:
        return Plan(load("csv", start / "t.jsonl"), options, lambda name, total: lambda done: None).systems()["m"]

    first = settings()
    assert settings() == first
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"1")
    assert {key for key, value in settings().items() if value != first[key]} == {"base"}


@pytest.mark.parametrize("key", ["recipe", "generation"])
def test_another_recipe_or_number_of_tokens_in_the_config_is_refused(home: Path, run: Run, key: str) -> None:
    file = home / "model" / "config.json"
    config = json.loads(file.read_text())
    name, value = {"recipe": ("mean", 0.4), "generation": ("max_new_tokens", 5)}[key]
    assert name in config[key]
    config[key][name] = value
    file.write_text(json.dumps(config))
    ran = again(home, run)
    assert ran.code == 2 and "other settings" in ran.err and ran.out == ""


def as_before(home: Path) -> dict[str, object]:
    """Make the folder one of version 0.2.0, which recorded no contents of images."""
    file = home / "results" / "run.json"
    content: dict[str, object] = json.loads(file.read_text())
    del content["systems"]["m"]["images"]  # type: ignore[index]
    file.write_text(json.dumps(content))
    (home / "results" / "digests.json").unlink(missing_ok=True)
    return content


def test_reports_of_earlier_versions_are_kept_and_said_to_be_unverified(home: Path, run: Run) -> None:
    content = as_before(home)
    before = texts(home, "results")
    overwritten(home)
    for _ in range(2):
        ran = again(home, run)
        assert ran.code == 0 and "m: its reports may be of other images" in ran.out
        assert texts(home, "results") == before and json.loads((home / "results" / "run.json").read_text()) == content
    assert "may be of other images" in (home / "results" / "summary.md").read_text()
    assert "may be of other images" not in again(home, run, "--overwrite").out


def test_unfinished_reports_of_earlier_versions_are_written_anew(home: Path, run: Run) -> None:
    as_before(home)
    merged, shards = (home / "results" / "predictions" / name for name in ("m.jsonl", "shards"))
    lines = merged.read_text().splitlines(keepends=True)
    (shards / "m").mkdir(parents=True)
    (shards / "m" / "shard-00000-of-00001.jsonl").write_text("".join(lines[:2]))
    merged.unlink()
    overwritten(home)
    ran = again(home, run)
    assert ran.code == 0 and "may be of other images" not in ran.out
    assert again(home, run, output="fresh").code == 0
    assert texts(home, "results") == texts(home, "fresh")
