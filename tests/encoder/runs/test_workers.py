"""Workers of data loaders with the shared memory of a container, and without any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

_LOAD = """
import sys, time
import numpy as np, torch
from encoder.pretraining.config import load_config
from encoder.pretraining.data import batches

class Images:
    def __len__(self): return 50
    def image(self, i): return np.random.default_rng(i).integers(0, 256, (520, 520), np.uint8)

if __name__ == "__main__":
    sizes = ["crops.global_size=518", "crops.local_crops=0", "data.size=520", "model.image_size=518"]
    plain = ["augmentation.jitter=0", "augmentation.blur=[0, 0, 0]", "augmentation.solarize=0"]
    config = load_config("tiny", [*sizes, *plain, "optimization.batch_size=24", f"data.workers={sys.argv[1]}"])
    stream = batches(Images(), config, step=0)
    found = [next(stream)]
    time.sleep(2 * int(sys.argv[1]))  # meanwhile the workers fill their shares
    found += [next(stream) for _ in range(int(sys.argv[2]) - 1)]
    print(*(batch.digest() for batch in found), found[0].masked.weights.dtype, found[0].global_crops.nbytes)
"""


def load(tmp_path: Path, mount: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Load batches of 13 MB in a process with a /dev/shm of its own."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mount namespaces need Linux, root and unshare")
    script = tmp_path / "load.py"
    script.write_text(_LOAD)
    command = f'mount {mount} none /dev/shm && exec "$@"'
    command_line = ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, str(script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command_line, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_64_mb_of_shared_memory_are_enough(tmp_path: Path) -> None:
    """Four workers with two batches each in advance hold 103 MB."""
    alone = load(tmp_path, "-t tmpfs -o size=64m", "0", "3")
    assert alone.returncode == 0, alone.stderr[-2000:]
    *_, kind, size = alone.stdout.split()
    assert kind == "torch.float32" and int(size) == 2 * 24 * 518 * 518
    many = load(tmp_path, "-t tmpfs -o size=64m", "4", "3")
    assert many.returncode == 0, many.stderr[-2000:]
    assert many.stdout == alone.stdout
    assert "shared memory" not in many.stderr, "a batch that found no room would be waited for without end"


@pytest.mark.slow
def test_a_machine_without_shared_memory_is_told_so(tmp_path: Path) -> None:
    ran = load(tmp_path, "-t tmpfs -o size=4k,ro", "2", "1")
    if "LlavaRadError" not in ran.stderr and "permission denied" in ran.stderr:
        pytest.skip("no mounts here")
    assert "LlavaRadError: there is no shared memory for worker processes" in ran.stderr
