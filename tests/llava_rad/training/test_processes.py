"""One process or many: what a process without a launcher uses, and when processes ask one another to stop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from llava_rad.training.callbacks import Watcher
from llava_rad.training.run import one_device


@pytest.mark.parametrize("gpus", [1, 8])
def test_a_process_without_a_launcher_uses_one_gpu_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    """transformers would wrap the model in DataParallel, and make batches of 8 x 16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=16, report_to="none")
    assert (arguments.n_gpu, arguments.train_batch_size) == (gpus, 16 * gpus)
    said = one_device(arguments)
    assert (arguments.n_gpu, arguments.train_batch_size, arguments.world_size) == (1, 16, 1)
    assert said == (
        None if gpus == 1 else "one process trains on one of 8 GPUs; torchrun --nproc-per-node 8 --no-python uses all"
    )


@pytest.mark.parametrize(("world", "asked"), [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [3, 6])])
def test_processes_ask_one_another_every_log_every_steps(world: int, asked: list[int]) -> None:
    watcher = Watcher(None, None, SimpleNamespace(update=lambda steps: None), [], notes=False)
    steps: list[int] = []
    state = SimpleNamespace(global_step=0, max_steps=8)
    watcher.trainer = SimpleNamespace(any_process=lambda flag: steps.append(state.global_step) or False)  # type: ignore[assignment]
    for step in range(1, 8):
        state.global_step = step
        watcher.on_step_begin(None, state, None)
        watcher.on_step_end(SimpleNamespace(world_size=world, logging_steps=3), state, SimpleNamespace())
    assert steps == asked
