"""Every command under the conditions of other machines: one line on standard error and a documented exit code."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import LlavaRadError
from encoder.locks import locked_folder
from llava_rad import cli
from metrics.cache import default_path
from tests.llava_rad.commands.calls import CALLS, World, commands, inputs
from tests.llava_rad.conftest import Run, spawn

pytestmark = pytest.mark.acceptance(row=32)
CODES = {0, 1, 2, 3, 4, 5, 130}
LONG = "x" * 300


def test_every_command_has_a_call() -> None:
    assert {call.command for call in CALLS.values()} == set(commands())


def bad_name(folder: Path) -> str:
    return os.fsdecode(os.fsencode(folder) + b"/no\xffsuch\x1b\n.dcm")


def read_only(folder: Path) -> str:
    return "/proc/self/out"  # of a file system that takes no files, from root neither


OUTPUTS: dict[str, Callable[[Path], str]] = {
    "no folder": lambda folder: str(folder / "none" / "out"),
    "below a file": lambda folder: str(folder / "file" / "out"),
    "too long": lambda folder: str(folder / LONG),
    "read-only": read_only,
    "no UTF-8": bad_name,
}


def check(code: int, err: str) -> None:
    assert code in CODES, err
    assert "Traceback" not in err and "unexpected" not in err, err
    assert all(one.isprintable() or one == "\n" for one in err), err
    boxed = "Usage:" in err  # typer's box
    lines = [line for line in err.splitlines() if re.match("llava-rad: error", line)]
    assert boxed or len(lines) <= 1, err
    assert boxed or code in (0, 1, 3) or lines, err


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.writes])
def test_outputs_that_cannot_be_written(
    name: str, run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before the work begins: nothing is computed for an output that is not there."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("torch.nn.Module.__call__", lambda *_, **__: pytest.fail("a network was used"))
    monkeypatch.setattr("encoder.reader.sandbox.Reader.prepare", lambda *_, **__: pytest.fail("an image was read"))
    (tmp_path / "file").write_text("")
    before, call = inputs(world), CALLS[name]
    for kind in ("below a file", "too long", "read-only"):
        output = OUTPUTS[kind](tmp_path) + ("" if kind == "too long" else call.ending)
        done = run(*call.arguments(world, output))
        check(done.code, done.err)
        assert done.code in (1, 2), (kind, done.code, done.err)
        assert len(done.err.splitlines()) <= 12 and done.out == "", (kind, done.err)
    assert inputs(world) == before and sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if not call.server])
def test_inputs_of_odd_names_that_are_not_there(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    odd = Path(bad_name(tmp_path))
    arguments = CALLS[name].arguments(World(*[odd] * 10), "out" + CALLS[name].ending)  # type: ignore[arg-type]
    done = run(*arguments)
    check(done.code, done.err)
    assert done.code != 0 or not any(str(odd) in one for one in arguments), done.err


def test_an_unusable_output_is_refused_before_the_model_is_loaded(run: Run, chest: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for kind, make in OUTPUTS.items():
        for form in ("json", "fhir"):
            if kind == "no UTF-8":
                continue  # a name like any other
            done = run("generate", chest[0], "-f", form, "-o", make(tmp_path), "--model", tmp_path / "none")
            assert done.code == 2 and done.err.count("\n") == 1 and "output" in done.err, (kind, form, done.err)


def test_a_name_that_is_no_utf8_is_shown_with_escapes(run: Run, chest: list[Path], tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.dcm"))
    path.write_bytes(chest[0].read_bytes())
    done = run("inspect", path, "--show-paths", "-f", "json", stdin=b"")
    assert done.code == 0 and r"a\\xff.dcm" in done.out, done.err


def test_a_second_run_on_one_output_folder_is_refused(run: Run, chest: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as another process
    try:
        done = run("generate", chest[0], "-f", "fhir", "-o", folder)
        assert (done.code, done.err) == (2, "llava-rad: error: another process is writing to the output folder\n")
        with pytest.raises(LlavaRadError, match="busy"), locked_folder(folder, busy="busy", patience=0.3):
            pass
    finally:
        os.close(handle)
    with locked_folder(folder, busy="busy"):
        assert not list(folder.iterdir())
    with locked_folder(folder, busy="busy"):  # it was released
        pass


def _shell(text: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    program = 'LR() { "$PYTHON" -c "from llava_rad.cli import main; main()" "$@"; }\n'
    env = os.environ | {"PYTHON": sys.executable, "LANG": "C"}
    return subprocess.run(
        ["bash", "-c", program + text, "bash", *arguments], env=env, capture_output=True, check=False, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        ('LR inspect "$1" <&- >/dev/null', 0, ""),
        ("LR inspect - <&-", 4, "the file is empty"),
        ('LR inspect "$1" >&-', 1, "standard output cannot be written (Bad file descriptor)"),
        ('LR inspect "$1" >/dev/full', 1, "standard output cannot be written (No space left on device)"),
        ("LR --help >/dev/full", 1, "standard output cannot be written (No space left on device)"),
        ("LR --version >&-", 1, "standard output cannot be written (Bad file descriptor)"),
        ('LR inspect "$1" <&- >&- 2>&-', 1, ""),
        ('LR inspect "$1" | true; exit ${PIPESTATUS[0]}', 1, ""),
    ],
)
def test_closed_streams(call: str, code: int, says: str, chest: list[Path]) -> None:
    done = _shell(call, str(chest[0]))
    err = done.stderr.decode()
    assert done.returncode == code, err
    assert says in err and err.count("\n") == bool(says), err


def nobody(number: int) -> None:
    raise KeyError(number)


def test_an_unknown_user_without_home_is_told_which_variable_to_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    done = run("doctor")
    assert done.code in (0, 1) and "set HOME, or HF_HOME" in done.out and not done.err, done.err
    monkeypatch.setattr(cli, "app", lambda **call: default_path())
    done = run()
    assert (done.code, done.err.count("\n")) == (1, 2) and "set HOME, or XDG_CACHE_HOME" in done.err


def test_without_a_temporary_folder_the_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(tempfile, "tempdir", None)
        changed.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
        changed.setattr(cli, "app", lambda **call: tempfile.gettempdir())
        done = run()
    assert done.code == 1
    assert done.err == "llava-rad: error: there is no writable temporary folder\n  hint: set TMPDIR to one\n"


def raised(error: Exception) -> None:
    raise error


def much_memory() -> None:
    import torch

    torch.empty(1 << 50, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("failing", "says"),
    [
        (lambda: bytearray(1 << 62), "there is not enough memory"),
        (much_memory, "there is not enough memory"),
        (
            lambda: raised(ImportError("libx.so: failed to map segment from shared object")),
            "a library cannot be loaded: libx.so: failed to map segment",
        ),
        (lambda: raised(RuntimeError("Failed to initialize cpuinfo!")), "PyTorch cannot read /proc/cpuinfo"),
        (lambda: raised(RuntimeError("can't start new thread")), "no further thread can be started"),
    ],
)
def test_limits_of_the_machine_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, failing: Callable[[], object], says: str
) -> None:
    monkeypatch.setattr(cli, "app", lambda **call: failing())
    done = run()
    assert (done.code, done.err.count("\n")) == (1, 2) and done.err.startswith(f"llava-rad: error: {says}"), done.err


def test_an_output_that_the_system_does_not_take_is_no_wrong_usage(
    run: Run, chest: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava_rad.outputs.files.write", full)
    done = run("inspect", chest[0], "--save-image", tmp_path / "a.png")
    assert (done.code, done.err) == (1, "llava-rad: error: the output cannot be written (No space left on device)\n")


@contextlib.contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_sigterm_ends_a_watch_as_an_interrupt(tmp_path: Path) -> None:
    process = spawn("pacs", "watch", "--url", "http://127.0.0.1:9", "-o", tmp_path / "out", "--every", "60")
    with stopped(process):
        assert process.stderr is not None
        while not (tmp_path / "out").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_a_full_disk_is_one_line(chest: list[Path], tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    done = _shell('LR inspect "$1" --save-image "$2"', str(chest[0]), str(tmp_path / "a.png"), preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done.stderr
    assert b"cannot be written (File too large)" in done.stderr
    assert not list(tmp_path.iterdir())
