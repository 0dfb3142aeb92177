"""A tiny checkpoint, small radiographs, and the command line as a function."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked import Command
from tests.llava_rad import small_files, tiny_model, vision_language


@dataclass(frozen=True)
class Ran:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with random weights."""
    return tiny_model.make(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def study_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with random weights whose prompt takes all inputs of a study."""
    from llava_rad.model.config import FurtherImages
    from llava_rad.model.llava_rad import LlavaRad

    whole = LlavaRad.from_pretrained(tiny)
    prompt = whole.config.prompt.model_copy(update={"template": "study"})
    whole.config = whole.config.model_copy(update={"prompt": prompt, "further_images": FurtherImages(pool=2)})
    folder = tmp_path_factory.mktemp("study model") / "model"
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's replica (``vision_language``), made once; its profile is ``profile.yaml`` in it."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = vision_language.make(tmp_path_factory.mktemp("replica") / family, family)
            vision_language.profile(made[family])
        return made[family]

    return of


@pytest.fixture(scope="session")
def chest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six frontal chest radiographs as small DICOM files, all different."""
    folder = tmp_path_factory.mktemp("chest")
    return [small_files.dicom(folder / f"{n}.dcm", seed=n) for n in range(6)]


@pytest.fixture(scope="session")
def lateral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lateral chest radiograph, which is refused."""
    return small_files.dicom(tmp_path_factory.mktemp("lateral") / "lateral.dcm", ViewPosition="LL")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command line in this process, in an empty folder; ``stdin`` is what standard input holds."""
    from llava_rad.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        out, err = capfd.readouterr()
        return Ran(code if isinstance(code, int) else 0, out, err)

    return call


def spawn(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start the command line as a process of its own."""
    command = [sys.executable, "-c", "from llava_rad.cli import main; main()", *map(str, arguments)]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, which would hand that on
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},  # threads of small models wait for each other
        cwd=cwd,
    )


def finished(process: subprocess.Popen[bytes] | Command, *, timeout: float = 120) -> Ran:
    """Wait for a process."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


ONE_AFTER_THE_OTHER = """
import json, sys
from llava_rad.cli import main
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        codes.append(ended.code or 0)
with open(sys.argv[2], "w") as file:
    json.dump(codes, file)
"""


def in_one_process(
    commands: list[list[str]], codes: Path, *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[list[int], Ran]:
    """Run commands one after the other in one process, so that torch is imported once.

    Args:
        commands: arguments of each command.
        codes: file for the exit codes; it must not exist.
        env: further variables of the environment.
        cwd: working folder.

    Returns:
        The exit codes, and the output of all commands.
    """
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands), str(codes)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(codes.read_text()), Ran(0, done.stdout, done.stderr)
