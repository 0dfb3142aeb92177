"""Folder or repository is decided before any library is asked, and every refusal says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.errors import ModelError
from encoder.hub import fetch


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert fetch(tmp_path, patterns=()) == tmp_path


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./missing", "~/missing-folder", "a/b/c", "no spaces/allowed", "x"]
)
def test_what_is_neither_folder_nor_repository(name: str) -> None:
    with pytest.raises(ModelError, match="not a hub repository"):
        fetch(name, patterns=())


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match="is a file"):
        fetch(path, patterns=())


def test_offline_names_repository_revision_and_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ModelError, match=r"microsoft/rad-dino at abc123") as caught:
        fetch("microsoft/rad-dino", revision="abc123", patterns=("config.json",), offline=True)
    assert "hf download microsoft/rad-dino --revision abc123" in str(caught.value.hint)
    assert "local folder" in str(caught.value.hint)
    assert "hf_secret" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.exit_code == 5
