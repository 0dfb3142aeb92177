"""The command as a process of its own: what it loads, what it prints, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance(row=22)

HEAVY = {"torch", "transformers", "gradio", "pydicom", "numpy", "PIL"}
ANSWERED_AT_ONCE = [
    (["--help"], 0), (["--version"], 0), (["generate", "-h"], 0), (["convert", "--help"], 0),
    (["generate", "x", "--batch-size", "0"], 2), (["nothing"], 2), (["--show-completion", "bash"], 0),
]  # fmt: skip


EMPTY = "import typer; app = typer.Typer(); app.command()(lambda: None); app.command('other')(lambda: None); app()"
"""An application of typer's with nothing in it: help takes a third of ours, which has 0.5 s on an idle machine."""


def answer(script: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process and its processor time in seconds: other processes may share the machine."""
    # --show-completion names its shell here: under make the shell that typer would find is sh, which has no completion.
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    before = os.times()
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment)
    after = os.times()
    return done, after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize(
    ("arguments", "code"), ANSWERED_AT_ONCE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_help_version_and_usage_errors_load_nothing_heavy_and_answer_at_once(arguments: list[str], code: int) -> None:
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write('LOADED' + repr(sorted({HEAVY!r} & set(sys.modules)))))\n"
        "from llava_rad.cli import main\nmain()"
    )
    shares = []
    while len(shares) < 5 and min(shares, default=1.0) >= 1:
        done, seconds = answer(script, *arguments)
        assert done.returncode == code, done.stderr
        assert done.stderr.endswith("LOADED[]")
        empty, of_typer = answer(EMPTY, "--help") if seconds >= 0.5 else (None, 0.0)
        assert empty is None or empty.returncode == 0
        shares.append(seconds / max(0.5, 3.5 * of_typer))  # a slow or busy machine slows typer alike
    assert min(shares) < 1


@pytest.mark.slow
def test_a_thread_that_is_still_in_torch_does_not_turn_done_into_aborted() -> None:
    script = (
        "import atexit, threading, torch\n"
        "side = torch.rand(600, 600)\n"
        "def work():\n"
        "    while True:\n"
        "        side @ side\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "atexit.register(lambda: print('cleaned up'))\n"
        "from llava_rad.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"llava-rad {version('llava-rad')}\ncleaned up\n"


def test_what_deepspeed_logs_does_not_get_between_results() -> None:
    script = (
        "import atexit, logging, sys\n"
        "log = logging.getLogger('DeepSpeed')\n"
        "log.propagate = False\n"
        "log.addHandler(logging.StreamHandler(sys.stdout))\n"  # as deepspeed/utils/logging.py does
        "atexit.register(lambda: log.warning('the loss scale overflows'))\n"
        "atexit.register(lambda: log.warning('Setting accelerator to CPU. If you have GPU or other accelerator'))\n"
        "from llava_rad.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"llava-rad {version('llava-rad')}\n"
    assert done.stderr == "llava-rad: the loss scale overflows\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_buffer_that_cannot_be_written_at_the_end_is_a_failure() -> None:
    script = (
        "import atexit, sys\n"
        "def late():\n"
        "    sys.stdout = open('/dev/full', 'w')\n"
        "    sys.stdout.write('kept in the buffer')\n"
        "atexit.register(late)\n"
        "from llava_rad.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, f"llava-rad {version('llava-rad')}\n")
