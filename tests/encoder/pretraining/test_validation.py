"""What --validate finds: the run in numbers, small batches, missing files; all problems at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError, ModelError
from encoder.pretraining.config import load_config
from encoder.pretraining.validation import Report, check_sizes, validate


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """150 images of 50 subjects: 100 of MIMIC-CXR, 50 (all lateral) of a set without published numbers."""
    rows = []
    for i in range(150):
        path = tmp_path / f"{i}.png"
        path.touch()
        dataset, view = ("mimic-cxr", "AP") if i < 100 else ("ours", "lateral")
        rows.append(Row(path, dataset=dataset, subject=str(i % 50), image=str(i), view=view, split="train"))  # type: ignore[arg-type]
    write_manifest(rows, tmp_path / "images.csv")
    return str(tmp_path / "images.csv")


def look(manifest: str, *overrides: str, processes: int = 1) -> Report:
    return validate(load_config("tiny", [f"data.manifests=[{manifest}]", *overrides]), processes=processes)


def test_a_run_in_numbers(manifest: str) -> None:
    report = look(manifest, "optimization.batch_size=75")
    text = report.to_text()
    assert report.problems == []
    assert "150 to train on" in text
    assert "200 steps of 75 images, 100.0 passes" in text
    (mimic,) = [line.split() for line in report.lines if "mimic-cxr" in line]
    assert mimic == ["mimic-cxr", "100", "50", "0", "210,491", "images,", "188,546", "subjects"]
    (ours,) = [line.split() for line in report.lines if "ours" in line]
    assert ours == ["ours", "50", "50", "50"]
    assert "838,336" in text
    assert report.warnings == []


def test_filters_are_seen(manifest: str) -> None:
    assert "  left out: view 50" in look(manifest, "data.views=[frontal]").lines


@pytest.mark.parametrize(("batch", "warned"), [(8, True), (63, True), (64, False), (640, False)])
def test_small_batches_are_warned_of(manifest: str, batch: int, warned: bool) -> None:
    report = look(manifest, f"optimization.batch_size={batch}")
    assert any("the loss often stays flat" in warning for warning in report.warnings) is warned


def test_koleo_needs_two_images_on_each_process() -> None:
    config = load_config("tiny", ["optimization.batch_size=16"])
    check_sizes(config, 8)
    with pytest.raises(ConfigError, match="nearest neighbour"):
        check_sizes(config, 16)
    check_sizes(load_config("tiny", ["optimization.batch_size=16", "loss.koleo=0"]), 16)


def test_batches_must_divide_and_masks_must_mask_something() -> None:
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        check_sizes(load_config("tiny"), 3)
    few = ["optimization.batch_size=2", "masking.probability=0.2"]
    with pytest.raises(ConfigError, match="masks none of the 4 global crops"):
        check_sizes(load_config("tiny", few), 1)
    check_sizes(load_config("tiny", [*few, "loss.ibot=0"]), 1)


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    overrides = ["data.manifests=[]", f"init.source={tmp_path}/none"]
    report = validate(load_config("tiny", overrides), processes=3)
    assert [type(problem) for problem in report.problems] == [ConfigError, ConfigError, ModelError]
    assert [problem.exit_code for problem in report.problems] == [2, 2, 5]
    assert any(line.startswith("memory") for line in report.lines), "the rest is shown all the same"


def test_files_that_are_gone(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "0.png").unlink()
    (problem,) = look(manifest).problems
    assert str(problem) == "1 of 64 image files that were looked at are missing"
    report = look(manifest, "data.max_unreadable=0.1")
    assert report.problems == []
    assert "1 of 64 image files that were looked at are missing" in report.warnings


def test_a_run_of_passes_shorter_than_its_warm_up(manifest: str) -> None:
    (problem,) = look(manifest, "optimization.passes=1").problems
    assert str(problem) == "optimization.warmup_steps = 20 is more than the run's 10 steps"


def test_probed_subjects_that_are_trained_on_are_warned_of(manifest: str, tmp_path: Path) -> None:
    def probe(dataset: str) -> Report:
        rows = [
            Row(tmp_path / f"{i}.png", dataset=dataset, subject=str(i), split=split, labels={"x": 1.0})
            for i, split in ((1, "train"), (2, "val"))
        ]
        write_manifest(rows, tmp_path / "probe.csv")
        return look(manifest, f"probe.manifest={tmp_path / 'probe.csv'}")

    warned = probe("mimic-cxr").warnings
    assert any(warning.startswith("2 subjects of probe.manifest are trained on too") for warning in warned)
    assert not any("probe.manifest" in warning for warning in probe("elsewhere").warnings)


def test_an_exclusion_that_excludes_nothing_and_enlarged_crops_are_warned_of(manifest: str, tmp_path: Path) -> None:
    write_manifest([Row(tmp_path / "other.png", dataset="x", subject="1", image="1")], tmp_path / "exclude.csv")
    changes = [f"data.exclude=[{tmp_path / 'exclude.csv'}]", "data.size=98", "crops.global_size=126"]
    warnings = "\n".join(look(manifest, *changes).warnings)
    assert "data.exclude leaves nothing out" in warnings
    assert "all global crops are enlarged" in warnings
    assert "position embeddings are resized" in warnings


def test_memory_is_compared_with_the_gpus(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.pretraining.validation.gpu_memory", lambda: 10**6)
    assert any("the GPU has 1 MB" in warning for warning in look(manifest).warnings)
    monkeypatch.setattr("encoder.pretraining.validation.gpu_memory", lambda: 10**12)
    assert not any("the GPU has" in warning for warning in look(manifest).warnings)
