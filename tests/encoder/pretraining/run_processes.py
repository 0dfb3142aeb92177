"""Real processes that train, started quickly: forked from one that has loaded torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from encoder.runs.checkpoints import Checkpoints, Tensors
from tests.forked import context, ranks

PRELOAD = (
    "encoder.pretraining.train", "accelerate", "safetensors.torch", "matplotlib.pyplot", "torch._dynamo",
    "torch.distributed.tensor", "torch.utils.tensorboard", "transformers.models.dinov2.modeling_dinov2",
)  # fmt: skip
SECONDS = 240


def _train(config: str, run: str, overrides: Sequence[str], stop_after: int, environment: dict[str, str]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    import torch

    from encoder.pretraining import train as engine
    from encoder.pretraining.config import load_config

    torch.set_num_threads(1)
    engine.plot_run = lambda *_: None
    if stop_after:
        update, calls = engine.StudentTeacher.update_teacher, []

        def stopped(self: engine.StudentTeacher, momentum: float) -> None:
            update(self, momentum)
            calls.append(momentum)
            if len(calls) == stop_after:
                signal.raise_signal(signal.SIGTERM)

        engine.StudentTeacher.update_teacher = stopped  # type: ignore[method-assign]
    try:
        engine.run(load_config(config, list(overrides)), Path(run), progress=False)
    except KeyboardInterrupt:
        sys.exit(130)


def start(config: Path, run: Path, *overrides: str, stop_after: int = 0, **environment: str) -> BaseProcess:
    """One process that trains, or goes on, with a configuration file; it may send itself SIGTERM after some steps."""
    arguments = (str(config), str(run), overrides, stop_after, environment)
    process = context(*PRELOAD).Process(target=_train, args=arguments)
    process.start()
    return process


def finish(*processes: BaseProcess, code: int = 0) -> None:
    """Wait for processes that must end with an exit code."""
    try:
        for process in processes:
            process.join(SECONDS)
        assert [process.exitcode for process in processes] == [code] * len(processes)
    finally:
        for process in processes:
            process.kill()


def start_two(
    config: Path, run: Path, *overrides: str, stop_after: int = 0, elsewhere: Path | None = None, count: int = 2
) -> list[BaseProcess]:
    """Two processes, or more, that train one model, by gloo; the second may send itself SIGTERM after some steps.

    Others than the first may have their run folder elsewhere, as on a machine that does not share the disk.
    """
    return [
        start(config, elsewhere if rank and elsewhere else run, *overrides, stop_after=stop_after * rank, **variables)
        for rank, variables in enumerate(ranks(count))
    ]


def newest(run: Path) -> Tensors:
    """The tensors of a run's newest checkpoint."""
    checkpoints = Checkpoints(run / "checkpoints", 3)
    folder = checkpoints.latest()
    assert folder is not None
    return checkpoints.load(folder)[0]
