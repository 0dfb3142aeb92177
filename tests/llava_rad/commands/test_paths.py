"""Paths of every kind as inputs, outputs and models: nothing outside is written, fetched or shown (table row 15)."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

import llava_rad
from encoder.errors import LlavaRadError, ReadError
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.acceptance(row=15)

SECRET = "root:x:0:0:secret"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any address that is looked up or connected to fails the test."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the network was asked for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the working folder that is no image."""
    folder = tmp_path.parent / f"{tmp_path.name}-outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    return folder / "secret"


@pytest.mark.parametrize(
    "make",
    [
        lambda tmp, secret: f"../{secret.parent.name}/secret",
        lambda tmp, secret: secret,
        lambda tmp, secret: _link(tmp / "link.dcm", secret),
        lambda tmp, secret: _link(tmp / "loop", tmp / "loop"),
        lambda tmp, secret: _link(tmp / "dangling", tmp / "nothing"),
        lambda tmp, secret: _fifo(tmp / "pipe"),
        lambda tmp, secret: _socket(tmp / "socket"),
        lambda tmp, secret: "/dev/zero",
        lambda tmp, secret: "/proc/self/mem",
        lambda tmp, secret: "http://127.0.0.1:9/a.dcm",
        lambda tmp, secret: "https://example.org/a.dcm",
        lambda tmp, secret: f"file://{secret}",
        lambda tmp, secret: "s3://bucket/a.dcm",
        lambda tmp, secret: "x" * 5000,
        lambda tmp, secret: "a\nb",
        lambda tmp, secret: f"{secret}/below",
        lambda tmp, secret: _unreadable_folder(tmp / "empty"),
    ],
    ids=[
        *("up", "absolute", "link", "loop", "dangling", "fifo", "socket", "device", "proc"),
        *("http", "https", "file", "s3", "long", "newline", "below", "empty"),
    ],
)
def test_inputs_that_are_no_images(make: object, run: Run, tiny: Path, tmp_path: Path, secret: Path) -> None:
    begun = time.monotonic()
    done = run("generate", make(tmp_path, secret), "--model", tiny)  # type: ignore[operator]
    assert time.monotonic() - begun < 60
    assert (done.code, done.out) == (4, "")
    assert SECRET not in done.err
    assert "unexpected" not in done.err


def test_nul_in_a_path_of_the_python_interface(tiny: Path) -> None:
    with pytest.raises(ReadError):
        llava_rad.generate("a\0b.dcm", tiny)


def test_paths_inside_a_file_are_not_followed(run: Run, tiny: Path, tmp_path: Path) -> None:
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    evil = small_files.dicom(work / "x.dcm", StudyID="../../evil", AccessionNumber="/evil", PatientID="../evil")
    before = sorted(path for path in tmp_path.rglob("*"))
    assert run("generate", evil, "--model", tiny, "--output", work / "o.json", "--format", "json").code == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, work / "o.json"])


def test_a_folder_gives_nothing_from_outside_it(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    outside = small_files.dicom(tmp_path / "out" / "a.dcm")
    _link(tmp_path / "in" / "a.dcm", outside)
    _link(tmp_path / "in" / "more", tmp_path / "out")
    assert run("generate", "in", "--recursive", "--model", tiny).code == 4


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
@pytest.mark.parametrize(
    "make",
    [
        lambda tmp, secret, image: _link(tmp / "link", secret),
        lambda tmp, secret, image: _link(tmp / "dangling", secret.parent / "new"),
        lambda tmp, secret, image: secret,
        lambda tmp, secret, image: image,
        lambda tmp, secret, image: _hard_link(tmp / "hard", image),
        lambda tmp, secret, image: "/dev/null",
        lambda tmp, secret, image: _fifo(tmp / "pipe"),
        lambda tmp, secret, image: tmp,
        lambda tmp, secret, image: tmp / "no" / "folder.json",
        lambda tmp, secret, image: image / "below",
    ],
    ids=["link", "dangling", "existing", "input", "hard-link", "device", "fifo", "folder", "no-parent", "below-file"],
)
def test_outputs_that_would_harm_something(
    make: object, form: str, run: Run, tiny: Path, tmp_path: Path, secret: Path
) -> None:
    image = small_files.dicom(tmp_path / "image.dcm")
    content = image.read_bytes()
    target = make(tmp_path, secret, image)  # type: ignore[operator]
    before = sorted(tmp_path.rglob("*")), sorted(secret.parent.iterdir())
    done = run("generate", image, "--model", tiny, "--output", target, "--format", form)
    assert (done.code, done.out) == (2, "")
    assert (sorted(tmp_path.rglob("*")), sorted(secret.parent.iterdir())) == before
    assert image.read_bytes() == content
    assert secret.read_text() == SECRET


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_overwrite_never_goes_through_a_link_or_over_an_input(
    form: str, run: Run, tiny: Path, tmp_path: Path, secret: Path
) -> None:
    image = small_files.dicom(tmp_path / "image.dcm")
    content = image.read_bytes()
    for target in (image, _link(tmp_path / "link", secret)):
        done = run("generate", image, "--model", tiny, "--output", target, "--overwrite", "--format", form)
        assert done.code == 2
    assert image.read_bytes() == content
    assert secret.read_text() == SECRET
    victim = tmp_path / "old"
    victim.write_text("old")
    assert run("generate", image, "--model", tiny, "-o", victim, "--overwrite", "--format", form).code == 0
    assert "AI-generated" in victim.read_text()


@pytest.mark.parametrize(
    "model",
    [
        "../../../etc",
        "/etc/passwd",
        "http://127.0.0.1/x",
        "a/b/c",
        "..",
        "",
        "~no-such-user/x",
        "own er/name",
        "x" * 5000,
    ],
)
def test_models_that_are_none(model: str, run: Run, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", model)
    assert (done.code, done.out) == (5, ""), done.err
    assert "unexpected" not in done.err


def test_a_checkpoint_that_lists_files_outside_itself(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["files"]["../../../etc/passwd"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LlavaRadError) as refused:
        llava_rad.generate(chest[0], folder)
    assert refused.value.exit_code == 5


def _link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def _hard_link(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
    return path


def _unreadable_folder(path: Path) -> Path:
    path.mkdir()
    return path
