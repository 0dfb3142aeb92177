"""Every command on a machine that lacks nearly everything, and on a full disk: in mount namespaces, by root."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.llava_rad.commands.calls import CALLS, OUTPUTS, Call, World, inputs
from tests.llava_rad.commands.test_robust import check
from tests.llava_rad.conftest import Ran
from tests.llava_rad.pacs.scripted import Server, serving
from tests.source_tree import ROOT

pytestmark = [pytest.mark.nightly, pytest.mark.acceptance(row=32)]
UID: Final = 65531
MAIN: Final = [sys.executable, "-c", "from llava_rad.cli import main; main()"]
ENV: Final = {
    "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
PLACES: Final = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME")
# all of the world, at its own path, below a /tmp that is read-only; no other place takes files
BARE: Final = """
mount --make-rprivate /
mount --bind "$WORLD" /mnt
mount -t tmpfs -o mode=755 none /tmp
mkdir -p "$WORLD"
mount --bind /mnt "$WORLD"
umount /mnt
mount -o remount,ro /tmp
for place in /var/tmp /dev/shm; do mount -t tmpfs -o ro,mode=755 none $place; done
cd /
"""
# the user of a number only, who can read everything (the interpreter may lie in somebody's home) and write nothing
NOBODY: Final = (
    f"setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps=-all,+dac_read_search "
    "--ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search"
)
# a disk of 1 MB without a free block: the command, then room, then the command again
FULL: Final = """
mount --make-rprivate /
mount -t tmpfs -o size=1M none "$DISK"
"$@" before
head -c 2000000 /dev/zero > "$DISK/filler" 2>/dev/null || true
"$@" first && code=0 || code=$?
echo "first: $code" >&2
find "$DISK" -name '*.tmp' -printf 'left: %f\\n' >&2
rm "$DISK/filler"
mount -o remount,size=200M "$DISK"
"$@" again && code=0 || code=$?
echo "again: $code" >&2
"""


def refusal() -> str:
    """Return why this machine allows no such processes, or ""."""
    if os.geteuid() != 0:
        return "needs root"
    script = f"mount -t tmpfs none /mnt && exec {NOBODY} true"
    try:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    except OSError:
        return "needs unshare and setpriv (Debian: util-linux)"
    return "" if done.returncode == 0 else f"namespaces are not allowed here: {done.stderr.strip()}"


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    if reason := refusal():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def archive(world: World) -> Iterator[Server]:
    with serving() as server:
        server.reset({"1.2.3.1.1.1": world.image.read_bytes()})
        yield server


def bare(words: list[str], world: World, call: Call, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command on the bare machine."""
    variables = shlex.join(f"{name}={value}" for name, value in (ENV | env).items())
    closed = "<&-" if call.stdin is None else ""
    last = f"exec {NOBODY} env -i {variables} {shlex.join(words)} {closed}"
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", f"{BARE}\n{last}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"WORLD": str(world.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(call.stdin or b"")
        process.stdin.close()
    process.stdin = None
    return process


def served(process: subprocess.Popen[bytes]) -> Ran:
    """Wait for a server, ask for its health, and stop it."""
    assert process.stderr is not None and process.stdout is not None
    text = b""
    try:
        while line := process.stderr.readline():
            text += line
            if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
                end = time.monotonic() + 900
                while True:
                    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=300)
                    try:
                        connection.request("GET", "/health/ready")
                        answer = connection.getresponse()
                        if answer.status == 200:
                            break
                        if b'"failed"' in answer.read():  # it stays, to be told to load again
                            process.terminate()
                            text += process.stderr.read()
                            return Ran(1, process.stdout.read().decode(), text.decode())
                    except OSError:
                        pass
                    finally:
                        connection.close()
                    assert time.monotonic() < end, text
                    time.sleep(0.2)
                process.send_signal(signal.SIGTERM)
        return Ran(process.wait(600), "", text.decode())
    finally:
        process.kill()


def place(folder: Path, call: Call) -> Path:
    """Make a folder of the unknown user for an output, with what has to be there already; return the output."""
    folder.mkdir(parents=True)
    output = folder / ("out" + call.ending)
    if call.before is not None:
        call.before(output)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UID, UID)
    return output


@pytest.mark.parametrize("name", CALLS)
def test_a_machine_without_user_home_and_places_for_files(
    name: str, world: World, archive: Server, request: pytest.FixtureRequest
) -> None:
    """The command works, or says in one line which variable to set, and works when that is set."""
    call = CALLS[name]
    world = replace(world, archive=archive.url)
    world.folder.chmod(0o755)
    folder = world.folder / OUTPUTS / name
    output = place(folder, call)
    (folder / "place").mkdir()
    os.chown(folder / "place", UID, UID)
    before, env = inputs(world), dict[str, str]()
    words = [*MAIN, *call.arguments(world, str(output))]
    while True:
        process = bare(words, world, call, env)
        if call.server:
            done = served(process)
        else:
            out, err = process.communicate(timeout=3000)
            done = Ran(process.returncode, out.decode(), err.decode())
        check(done.code, done.err)
        if done.code == 0:
            break
        told = done.err + (done.out if name == "doctor" else "")
        named = [variable for variable in PLACES if f"set {variable}" in told and variable not in env]
        assert named and done.code == 1, (env, done.code, told)
        env[named[0]] = str(folder / "place")
    assert not call.writes or output.exists()
    assert len(env) < 3, env
    assert inputs(world) == before
    assert not list(folder.rglob("*.tmp"))


RUNNER = """
import os, sys
from pathlib import Path
from tests.llava_rad.commands.calls import CALLS, OUTPUTS, Call, World, inputs
name, output, step, *words = sys.argv[1:]
if step == "before":
    (CALLS[name].before or (lambda path: None))(Path(output))
else:
    os.execv(words[0], words)
"""


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.writes and not call.server])
def test_a_full_disk(name: str, world: World, archive: Server, tmp_path: Path) -> None:
    """It is said in one line, what was there stays as it was, and the same command works when there is room."""
    call = CALLS[name]
    disk = tmp_path / "disk"
    disk.mkdir()
    output = disk / ("out" + call.ending)
    words = [*MAIN, *call.arguments(replace(world, archive=archive.url), str(output))]
    runner = tmp_path / "runner"
    step = shlex.join([sys.executable, "-c", RUNNER, name, str(output)])
    typed = tmp_path / "typed"
    typed.write_bytes(call.stdin or b"")
    runner.write_text(f'#!/bin/sh\nexec {step} "$1" {shlex.join(words)} < {shlex.quote(str(typed))}\n')
    runner.chmod(0o755)
    env = ENV | {"DISK": str(disk), "HOME": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", FULL, "sh", str(runner)], capture_output=True, text=True, env=env,
        timeout=3000,
    )  # fmt: skip
    first, _, rest = done.stderr.partition("first: ")
    code, left, again = int(rest.split()[0]), re.findall(r"left: (.*)", rest), int(rest.rsplit("again: ")[1])
    check(code, first)
    assert code not in (0, 4, 130) and re.search("No space left on device|disk is full|its disk has", first), (
        done.stderr
    )
    assert not left, left
    assert again == 0, rest
