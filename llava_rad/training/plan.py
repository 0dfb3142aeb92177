"""How many steps, in how many micro-batches: arithmetic of a run, without torch."""

from __future__ import annotations

from math import ceil

from encoder.errors import ConfigError
from llava_rad.training.config import TrainingConfig


def accumulation(config: TrainingConfig, processes: int) -> int:
    """Micro-batches of one step on each process.

    Raises:
        ConfigError: the batch cannot be divided so.
    """
    run = config.optimization
    if run.batch_size % (run.micro_batch_size * processes):
        raise ConfigError(
            f"optimization.batch_size = {run.batch_size} is no multiple of {run.micro_batch_size} samples on "
            f"{processes} processes",
            hint="change optimization.micro_batch_size, or the number of processes",
        )
    return run.batch_size // (run.micro_batch_size * processes)


def total_steps(config: TrainingConfig, samples: int, processes: int) -> int:
    """Optimiser steps of a run, counted as transformers' Trainer does: the last batch of an epoch may be smaller."""
    run = config.optimization
    if run.steps is not None:
        return run.steps
    batches = ceil(ceil(samples / run.micro_batch_size) / processes)
    return ceil(run.epochs * ceil(batches / accumulation(config, processes)))


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Steps until the peak of the learning rate."""
    return ceil(config.optimization.warmup * steps)
