"""Interrupted and killed runs: what is finished is kept whole, and the same command again gives the unbroken result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from llava_rad import cli
from llava_rad.outputs.report import SCHEMA, Report
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run, finished, spawn

INPUTS = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of radiographs; one of them is refused, two are the same."""
    folder = tmp_path_factory.mktemp("many")
    for n in range(INPUTS):
        attributes = {"ViewPosition": "LL"} if n == 7 else {}
        small_files.dicom(folder / f"{n:03}.dcm", seed=3 if n == 11 else n, **attributes)
    return folder


def arguments(many: Path, tiny: Path, output: Path) -> list[str | Path]:
    return ["generate", many, "--model", tiny, "--format", "jsonl", "--output", output, "--batch-size", "2"]


@pytest.fixture(scope="module")
def unbroken(many: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Output of a run without interruption."""
    output = tmp_path_factory.mktemp("unbroken") / "o.jsonl"
    done = finished(spawn(*arguments(many, tiny, output)))
    assert done.code == 3, done.err
    content = output.read_bytes()
    assert content.count(b"\n") == INPUTS - 1
    return content


def stop(process: subprocess.Popen[bytes], output: Path, lines: int, how: signal.Signals) -> None:
    """Send a signal once the output has so many lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if output.exists() and output.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    process.send_signal(how)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    many: Path, tiny: Path, tmp_path: Path, unbroken: bytes
) -> None:
    output = tmp_path / "o.jsonl"
    process = spawn(*arguments(many, tiny, output))
    stop(process, output, 5, signal.SIGINT)
    done = finished(process)
    assert done.code == 130
    assert "Traceback" not in done.err
    kept = output.read_bytes()
    count = kept.count(b"\n")
    assert 5 <= count < INPUTS - 1
    assert unbroken.startswith(kept)
    said = f"llava-rad: interrupted: {count} reports written; the same command continues the run"
    assert done.err.splitlines()[-1] == said
    again = finished(spawn(*arguments(many, tiny, output)))
    assert again.code == 3
    assert output.read_bytes() == unbroken
    assert f"{count} were there already" in again.err


@pytest.mark.slow
def test_ctrl_c_while_the_model_is_loaded(many: Path, tiny: Path, tmp_path: Path) -> None:
    for delay in (0.3, None):
        process = spawn(*arguments(many, tiny, tmp_path / "o.jsonl"))
        if delay is None:
            wait_for_torch(process)
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGINT)
        done = finished(process)
        if delay is None and "29 of 30 reports written" in done.err:
            continue  # a fast machine was done by then
        if delay is not None and done.code == 1:  # Python was still importing the command line
            assert "KeyboardInterrupt" in done.err
            continue
        # before Python has set its handler up, the signal itself ends the process
        assert done.code in {130, -signal.SIGINT}
        if delay is None:
            assert "Traceback" not in done.err
            assert "llava-rad: interrupted: " in done.err


def test_ctrl_c_while_a_class_is_made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Attribute:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    # Python 3.11 makes a RuntimeError of it (3.12 no longer does)
    monkeypatch.setattr(cli, "app", lambda **_: type("Imported", (), {"attribute": Attribute()}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "llava-rad: interrupted\n"


def wait_for_torch(process: subprocess.Popen[bytes]) -> None:
    """Until the process has begun to load torch, which takes it seconds: long after its handlers are in place."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if "libtorch" in Path(f"/proc/{process.pid}/maps").read_text():
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_json(many: Path, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.json"
    command = arguments(many, tiny, output)
    command[command.index("jsonl")] = "json"
    process = spawn(*command)
    wait_for_torch(process)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    done = finished(process)
    if done.code == 130 and output.exists():
        reports = json.loads(output.read_text())
        assert all(report["schema"] == SCHEMA for report in reports)
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["o.json"])


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.nightly)])
def test_kill_9_at_random_places_then_the_same_command(
    many: Path, tiny: Path, tmp_path: Path, unbroken: bytes, kills: int
) -> None:
    random.seed(20)
    output, mark = tmp_path / "o.jsonl", f"LLAVA_RAD_TEST={tmp_path}"
    for lines in sorted(random.sample(range(1, INPUTS - 6), kills)):
        process = spawn(*arguments(many, tiny, output), env=dict([mark.split("=", 1)]))
        stop(process, output, lines, signal.SIGKILL)
        assert finished(process).code == -signal.SIGKILL
        deadline = time.monotonic() + 60
        while (left := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == [], "no reading process outlives a killed run"
        whole = output.read_bytes().split(b"\n")[:-1]
        for line in whole:
            Report.from_json(line)
        assert unbroken.startswith(b"\n".join(whole))
    # as if the machine had gone down in the middle of a line
    output.write_bytes(output.read_bytes() + unbroken[:100])
    assert finished(spawn(*arguments(many, tiny, output))).code == 3
    assert output.read_bytes() == unbroken


def test_a_finished_run_is_not_done_again(run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    command = ["generate", *chest[:3], "--model", tiny, "-f", "jsonl", "-o", tmp_path / "o.jsonl"]
    assert run(*command).code == 0
    content = (tmp_path / "o.jsonl").read_bytes()
    again = run(*command)
    assert again.code == 0
    assert "0 of 3 reports written, 3 were there already" in again.err
    assert (tmp_path / "o.jsonl").read_bytes() == content
    more = run(*command, chest[3])
    assert "1 of 4 reports written, 3 were there already" in more.err
    assert (tmp_path / "o.jsonl").read_bytes().startswith(content)


def test_other_settings_do_not_go_into_the_same_file(run: Run, tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    command = ["generate", chest[0], "--model", tiny, "-f", "jsonl", "-o", tmp_path / "o.jsonl"]
    assert run(*command).code == 0
    refused = run(*command, "--seed", "5")
    assert refused.code == 2
    assert "other settings" in refused.err
    assert run(*command, "--seed", "5", "--overwrite").code == 0
    assert (tmp_path / "o.jsonl").read_bytes().count(b"\n") == 1


def processes_with(mark: str) -> list[str]:
    """Ids of the processes whose environment has a variable of that value."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(folder.name)
            except OSError:
                continue
    return found
