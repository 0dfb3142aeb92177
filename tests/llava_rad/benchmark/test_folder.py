"""File names of systems, shared folders, and the processes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.errors import LlavaRadError
from llava_rad.benchmark.folder import Folder, slugs
from llava_rad.benchmark.writing import Processes


def test_slugs_are_file_names_and_all_different() -> None:
    names = ["RAD-DINO + vicuna-7b", "RAD-DINO / vicuna-7b", "../../etc", "ü", "ö", "a.b", "x" * 300]
    found = slugs(names)
    assert (
        found["RAD-DINO + vicuna-7b"] == "RAD-DINO-vicuna-7b"
        and found["RAD-DINO / vicuna-7b"] == "RAD-DINO-vicuna-7b_2"
    )
    assert found["../../etc"] == "etc" and found["a.b"] == "a.b" and {found["ü"], found["ö"]} == {"system", "system_2"}
    assert len(set(found.values())) == len(names) and all(
        len(slug) < 100 and "/" not in slug for slug in found.values()
    )


def test_a_process_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    first = Folder(tmp_path / "a")
    first.open({"sha256": "1"}, {}, overwrite=False)
    first.shared({"sha256": "1"}, {})
    for folder, task in ((tmp_path / "b", "1"), (tmp_path / "a", "2")):
        with pytest.raises(LlavaRadError, match="does not see the results folder"):
            Folder(folder).shared({"sha256": task}, {})


def test_a_process_that_sees_other_images_or_another_model_says_so(tmp_path: Path) -> None:
    first, facts = Folder(tmp_path), {"sha256": "1"}
    first.open(facts, {"m": {"sha256": "a", "images": "b"}}, overwrite=False)
    first.shared(facts, {"m": {"sha256": "a", "images": "b"}})
    for other in ({"sha256": "a", "images": "c"}, {"sha256": "b", "images": "b"}):
        with pytest.raises(LlavaRadError, match="other data, models or images"):
            first.shared(facts, {"m": other})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Processes(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Processes(5, 8, 1)),
        ({"RANK": "8", "WORLD_SIZE": "8"}, None),
        ({"RANK": "x"}, None),
    ],
)
def test_the_launcher_is_asked_who_this_process_is(
    variables: dict[str, str], expected: Processes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(LlavaRadError):
            Processes.from_environment()
    else:
        assert Processes.from_environment() == expected


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Processes(rank, 4, rank).device("auto") for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Processes(1, 4, 1).device("cpu") == "cpu" and Processes().device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Processes(1, 4, 1).device("auto") == "auto"
