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


@pytest.mark.parametrize(
    ("status", "gated", "said"),
    [(401, True, "gives no access to microsoft/maira-2 (401): it is gated"), (403, True, "(403): it is gated"),
     (403, False, "(403): it is gated or private"), (401, False, "no such repository")],
)  # fmt: skip
def test_no_access_names_the_page_and_the_token(
    monkeypatch: pytest.MonkeyPatch, status: int, gated: bool, said: str
) -> None:
    from types import SimpleNamespace

    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def refuse(*_: object, **__: object) -> None:
        error = GatedRepoError.__new__(GatedRepoError)
        error.response = SimpleNamespace(status_code=status)
        if gated:
            raise error
        inner = OSError("no")
        inner.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        raise LocalEntryNotFoundError("not here") from inner

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError) as caught:
        fetch("microsoft/maira-2", patterns=("config.json",))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "https://huggingface.co/microsoft/maira-2" in str(caught.value.hint) and "HF_TOKEN" in str(caught.value.hint)


def test_a_download_that_breaks_off_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadTimeout(Exception):
        """As an HTTP client's: no OSError."""

    def break_off(*_: object, **__: object) -> None:
        raise ReadTimeout

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(ModelError, match=r"could not be fetched from the hub \(ReadTimeout\)") as caught:
        fetch("microsoft/maira-2", patterns=("config.json",))
    assert "what has been downloaded is kept" in str(caught.value.hint)
