"""No command reaches for the network unless a hub model is asked for (table row 19)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llava_rad.conftest import Ran, finished, in_one_process, spawn

pytestmark = pytest.mark.acceptance(row=19)

# Loaded by every Python process of a command, the decoding process included: names who asked for which address.
RECORDER = """
import socket, sys
NETWORK_LOG = {log!r}  # the decoding process gets few variables of the environment
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        inside = event in ("socket.connect", "socket.sendto") and arguments[0].family == socket.AF_UNIX
        if not inside:
            with open(NETWORK_LOG, "a") as log:
                log.write(str((event, *arguments[1:])) + "\\n")
            raise OSError("the network is refused")
    if event == "import" and arguments[0] == "encoder.reader.sandbox_worker":
        with open(NETWORK_LOG + ".child", "a") as log:
            log.write("watched\\n")
sys.addaudithook(watch)
"""
COMMANDS: list[tuple[list[str], int | None]] = [
    (["generate", "IMAGE", "--model", "MODEL"], 0),
    (["generate", "IMAGE", "--model", "MODEL", "--stream"], 0),
    (["generate", "IMAGE", "--model", "MODEL", "--num-beams", "2"], 0),
    (["generate", "https://example.org/a.dcm", "--model", "MODEL"], 4),
    (["generate", "IMAGE", "--model", "https://example.org/model"], 5),
    (["inspect", "IMAGE"], 0),
    (["inspect", "file:///etc/passwd"], 4),
    (["doctor"], None),
    (["--version"], 0),
    (["generate", "--help"], 0),
    # last: --offline holds for the rest of the process
    (["generate", "IMAGE", "--model", "owner/name", "--offline"], 5),
    (["assemble", "--encoder", "owner/a", "--language-model", "owner/b", "out", "--offline"], 5),
]


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """Environment in which every attempt to use the network is written down and refused; the hub is allowed."""
    (tmp_path / "hook").mkdir()
    log = str(tmp_path / "network.log")
    (tmp_path / "hook" / "sitecustomize.py").write_text(RECORDER.format(log=log))
    return {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")]),
        "NETWORK_LOG": log,
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "cache"),
    }


@pytest.mark.slow
def test_no_connection(watched: dict[str, str], tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    stand_ins = {"IMAGE": str(chest[0]), "MODEL": str(tiny)}
    commands = [[stand_ins.get(word, word) for word in arguments] for arguments, _ in COMMANDS]
    codes, done = in_one_process(commands, tmp_path / "codes.json", env=watched, cwd=tmp_path)
    log = Path(watched["NETWORK_LOG"])
    assert not log.exists(), log.read_text()
    assert "unexpected" not in done.err
    found = zip(COMMANDS, codes, strict=True)
    assert [arguments for (arguments, code), seen in found if code not in (None, seen)] == []
    assert Path(watched["NETWORK_LOG"] + ".child").exists(), "the recorder sees the reading process too"


@pytest.mark.slow
def test_a_hub_model_without_network_is_explained(watched: dict[str, str], chest: list[Path], tmp_path: Path) -> None:
    done = finished(spawn("generate", chest[0], "--model", "owner/name", env=watched, cwd=tmp_path))
    assert Path(watched["NETWORK_LOG"]).exists(), "the recorder must see what it is there for"
    assert done.code == 5
    assert "owner/name" in done.err
    assert "hf download owner/name" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_missing_hub_model_offline_names_the_command_that_fetches_it(
    watched: dict[str, str], chest: list[Path], tmp_path: Path
) -> None:
    arguments = ["generate", chest[0], "--model", "owner/name", "--revision", "v2", "--offline"]
    done = finished(spawn(*arguments, env=watched, cwd=tmp_path))
    assert done.code == 5
    assert "hf download owner/name --revision v2" in done.err
    assert str(tmp_path / "cache") in done.err, "the cache that was looked into"


@pytest.mark.slow
def test_in_a_network_namespace_without_any_network(tiny: Path, chest: list[Path]) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let us make a network namespace")
    command = [unshare, "-rn", sys.executable, "-c", "from llava_rad.cli import main; main()"]
    done = subprocess.run([*command, "generate", chest[0], "--model", tiny], capture_output=True, text=True)
    assert Ran(done.returncode, done.stdout, done.stderr) == finished(spawn("generate", chest[0], "--model", tiny))
