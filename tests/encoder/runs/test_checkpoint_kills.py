"""Checkpoints: SIGKILL at every moment, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FULL = """
import resource, sys
from pathlib import Path
import torch
from encoder.errors import LlavaRadError
from encoder.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), 1)
checkpoints.save(1, {"a": {"x": torch.ones(100)}}, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
small, big = {"x": torch.ones(100)}, {"x": torch.ones(100_000)}
for tensors, state in (({"a": big}, {}), ({"a": small, "b": big}, {}), ({"a": small}, {"pad": "x" * 100_000})):
    try:
        checkpoints.save(2, tensors, state)
    except LlavaRadError as error:
        print(error)
    assert [path.name for path in Path(sys.argv[1]).iterdir()] == ["step-00000001"]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save(2, {"a": big}, {"step": 2})
assert checkpoints.steps() == [2]
"""

KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from encoder.runs.checkpoints import Checkpoints
import safetensors.torch
torch.set_num_threads(1)

def save(folder, step, keep=1):
    tensors = {name: {"w": torch.full((2000,), float(step)), "s": torch.tensor(step)} for name in ("a", "b")}
    return Checkpoints(folder, keep).save(step, tensors, {"step": step}, protect=[2])

def look(folder):  # the newest readable one's step; it must be whole
    checkpoints = Checkpoints(folder, 1)
    newest = checkpoints.latest()
    if newest is None:
        return 0
    tensors, state = checkpoints.load(newest)
    for name in ("a", "b"):
        assert bool((tensors[name]["w"] == state["step"]).all()) and tensors[name]["s"] == state["step"]
    return state["step"]

def child(work):
    number = os.fork()
    if number == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\\n")
            os._exit(1)
    return number

def wait(number):
    status = os.waitpid(number, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

root = Path(sys.argv[1])

# 1. A loop that saves, killed at random moments; the next child goes on from what is there.
folder, random_kills, generator = root / "loop", [], random.Random(0)
for trial in range(int(sys.argv[2])):
    reading, writing = os.pipe()
    before = look(folder)
    def loop():
        step = before
        while True:
            step += 1
            save(folder, step)
            os.write(writing, step.to_bytes(4, "big"))
    number = child(loop)
    os.close(writing)
    time.sleep(generator.uniform(0.0, 0.15))
    os.kill(number, signal.SIGKILL)
    ended = wait(number)
    said = b""
    while more := os.read(reading, 65536):
        said += more
    os.close(reading)
    finished = int.from_bytes(said[-4:], "big") if said else before
    random_kills.append([ended, finished, look(folder)])

# 2. Killed before each single operation on the file system, found by Python's own audit events.
os.fsync = lambda handle: None  # slow, and what has been written outlives SIGKILL without it
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def one_save(folder, step, at):
    counter = [0]
    def hook(event, arguments):
        if event in EVENTS and counter[0] is not None:
            counter[0] += 1
            if counter[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
    def work():
        sys.addaudithook(hook)
        save(folder, step)
        counter[0] = None
    return wait(child(work))

exact = {}
for what, start, step in (("next", (1, 2, 3), 4), ("same", (2, 3), 3)):
    rows, at = [], 1 - int(sys.argv[3])
    while True:
        at += int(sys.argv[3])
        folder = root / f"{what}-{at}"
        for one in start:
            save(folder, one)
        ended = one_save(folder, step, at)
        found = look(folder)
        assert 2 in Checkpoints(folder, 1).steps()
        rows.append([ended, found])
        assert wait(child(lambda: save(folder, step + 1))) == 0
        assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", f"step-{step + 1:08d}"]
        if ended == 0:
            break
    exact[what] = rows
print(json.dumps({"random": random_kills, "exact": exact}))
"""


def python(code: str, *arguments: object) -> str:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The kernel's limit on file size: safetensors and Python each report it in their own way."""
    lines = python(FULL, tmp_path / "run").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("the checkpoint of step 2 could not be written: ") for line in lines)
    assert all("File too large" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "stride"), [(4, 4), pytest.param(15, 1, marks=pytest.mark.nightly)])
def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path, kills: int, stride: int) -> None:
    """Random moments, then operations on the file system in turn: the newest finished checkpoint, or the next."""
    found = json.loads(python(KILLS, tmp_path, kills, stride))
    assert len(found["random"]) == kills
    for ended, finished, newest in found["random"]:
        assert ended == -9 and newest in (finished, finished + 1)
    assert found["random"][-1][2] > kills // 4  # it did save between kills
    following = found["exact"]["next"]
    assert len(following) > 20 // stride and [row[0] for row in following] == [-9] * (len(following) - 1) + [0]
    steps = [row[1] for row in following]
    assert set(steps) == {3, 4} and steps == sorted(steps)  # one moment at which the new one counts
    same = found["exact"]["same"]
    assert len(same) > 20 // stride and {row[1] for row in same} == {3}
