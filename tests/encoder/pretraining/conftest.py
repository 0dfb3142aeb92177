"""One finished run, shared by the tests that look at what a run leaves."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from encoder.pretraining import train as engine
from encoder.pretraining.config import PretrainingConfig
from tests.encoder.pretraining.small_run import small_config, write_images


class Finished(NamedTuple):
    """A run of 6 steps on one process, never stopped, with dropped paths."""

    config: PretrainingConfig
    folder: Path
    export: Path
    printed: str


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    top = tmp_path_factory.mktemp("unbroken")
    config = small_config(write_images(top / "images"), "optimization.drop_path=0.3")
    torch.set_num_threads(1)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        export = engine.run(config, top / "run")
    return Finished(config, top / "run", export, printed.getvalue())
