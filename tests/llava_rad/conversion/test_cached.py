"""A model named by its repository is converted once, after its licence has been shown; nothing half done counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.errors import ModelError
from llava_rad.conversion import llava
from llava_rad.conversion import published as registry
from llava_rad.conversion.published import open_checkpoint
from llava_rad.model.checkpoint import load_checked
from tests.llava_rad.conftest import Run, finished, spawn


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llava-rad" / "converted"


@pytest.fixture
def hub(published: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub has microsoft/maira-2; every time that it is asked is listed."""
    asked: list[str] = []

    def fetch(source: object, **_: object) -> Path:
        asked.append(str(source))
        return published["maira-2"]

    monkeypatch.setattr(registry, "fetch", fetch)
    return asked


def test_once_and_with_its_licence(
    run: Run, hub: list[str], cache: Path, chest: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["generate", chest[0], "--model", "microsoft/maira-2", "--max-new-tokens", "4", "-f", "json"]
    first = run(*arguments)
    assert first.code == 0, first.err
    (said,) = [record.getMessage() for record in caplog.records if record.name == "llava_rad"]
    assert "MSRLA" in said and "https://huggingface.co/microsoft/maira-2" in said and "once" in said
    caplog.clear()
    assert run(*arguments).out == first.out
    assert hub == ["microsoft/maira-2"] and not caplog.records
    assert load_checked(cache / "microsoft--maira-2").name == "microsoft/maira-2"
    assert open_checkpoint("microsoft/maira-2", revision="abc") != open_checkpoint("microsoft/maira-2")


def test_what_a_kill_left_is_cleared_away(hub: list[str], cache: Path) -> None:
    half = cache / ".microsoft--maira-2.x1y2"
    half.mkdir(parents=True)
    (half / "projector.safetensors").write_bytes(b"half")
    (cache / "microsoft--maira-2").mkdir()  # without a config.json it is no checkpoint
    load_checked(open_checkpoint("microsoft/maira-2"))
    assert not half.exists()


def test_a_failure_leaves_nothing_and_the_next_try_goes_on(
    hub: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(llava, "maira_2", lambda *_: (_ for _ in ()).throw(ModelError("broken")))
        with pytest.raises(ModelError, match="broken"):
            open_checkpoint("microsoft/maira-2")
    assert [path.name for path in cache.iterdir()] == ["microsoft--maira-2.lock"]
    load_checked(open_checkpoint("microsoft/maira-2"))


def test_offline_without_the_weights_ends_with_5(run: Run, chest: list[Path], cache: Path) -> None:
    done = run("generate", chest[0], "--model", "microsoft/maira-2", "--offline")
    assert done.code == 5 and "microsoft/maira-2 is not in" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_the_licence_is_shown_on_standard_error(chest: list[Path], cache: Path) -> None:
    """In a process of its own, where no test catches what is logged."""
    done = finished(spawn("generate", chest[0], "--model", "microsoft/llava-rad", "--offline"))
    assert done.code == 5 and "Llama 2" in done.err.splitlines()[0]


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "microsoft" / "maira-2").mkdir(parents=True)
    assert open_checkpoint("microsoft/maira-2") == Path("microsoft/maira-2")
