"""Schedules against closed forms, DINOv2's arrays and lightly's cosine; the ends exact to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lightly.utils.scheduler import cosine_schedule

from encoder.errors import ConfigError
from encoder.pretraining.config import InitConfig, OptimizationConfig, PretrainingConfig
from encoder.pretraining.optimization import Schedules, constant_then, cosine_with_warmup, linear, peak_lr, total_steps

PAPER = PretrainingConfig()


def short(**changes: object) -> PretrainingConfig:
    """A run of 1000 steps with a warm-up of 100."""
    values = {"steps": 1000, "warmup_steps": 100, "freeze_last_layer_steps": 10} | changes
    return PretrainingConfig.model_validate({"optimization": values})


def test_the_papers_peak_is_that_of_the_square_root_rule() -> None:
    assert peak_lr(PAPER.optimization) == pytest.approx(7.90569e-4, rel=1e-6)
    assert peak_lr(OptimizationConfig(lr_rule="constant")) == 1e-3
    assert peak_lr(OptimizationConfig(base_lr=4e-3, batch_size=1024)) == 4e-3


def test_the_last_step_and_all_after_it_have_the_end_values_exactly() -> None:
    schedules = Schedules.from_config(PAPER)
    for step in (59_999, 60_000, 10**9):
        values = schedules.at(step)
        assert (values.lr, values.last_layer_lr, values.backbone_lr) == (1e-6, 1e-6, 1e-6)
        assert (values.weight_decay, values.momentum, values.teacher_temperature) == (0.4, 1.0, 0.07)
    before = schedules.at(59_998)
    assert before.lr > 1e-6 and before.momentum < 1.0 and before.weight_decay < 0.4


def test_the_first_step() -> None:
    values = Schedules.from_config(PAPER).at(0)
    assert (values.lr, values.last_layer_lr, values.backbone_lr) == (0.0, 0.0, 0.0)
    assert (values.weight_decay, values.momentum, values.teacher_temperature) == (0.04, 0.992, 0.04)


def test_the_teachers_temperature_is_linear_and_then_constant() -> None:
    at = Schedules.from_config(PAPER).at
    found = [at(step).teacher_temperature for step in (0, 9_000, 18_000, 30_000)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07], abs=1e-15)
    assert at(18_000).teacher_temperature == 0.07


def test_the_warm_up_is_linear_and_meets_the_cosine_at_its_peak() -> None:
    at = Schedules.from_config(PAPER).at
    peak = 1e-3 * math.sqrt(640 / 1024)
    assert [at(step).lr for step in (1, 3000, 6000)] == pytest.approx([peak / 6000, peak / 2, peak], rel=1e-12)
    assert max(at(step).lr for step in range(5900, 6100)) == at(6000).lr == peak_lr(PAPER.optimization)


def test_a_third_of_the_way_down_the_cosine_stands_at_three_quarters() -> None:
    assert cosine_with_warmup(100 + 300, 2.0, 1.0, warmup=100, steps=1001) == pytest.approx(1.75, rel=1e-12)


def test_lightly_draws_the_same_cosines() -> None:
    schedules = Schedules.from_config(short())
    for step in range(1000):
        values = schedules.at(step)
        assert values.momentum == pytest.approx(cosine_schedule(step, 1000, 0.992, 1.0), abs=1e-12)
        assert values.weight_decay == pytest.approx(cosine_schedule(step, 1000, 0.04, 0.4), abs=1e-12)


def test_dinov2s_arrays_differ_by_one_step_at_most() -> None:
    """Its warm-up ends, and its cosine would end, one step away from ours: nowhere more than one step's change."""
    peak, low, warmup, steps = 0.1, 0.001, 100, 1000
    falling = np.arange(steps - warmup)
    theirs = np.concatenate(
        [
            np.linspace(0, peak, warmup),
            low + 0.5 * (peak - low) * (1 + np.cos(np.pi * falling / len(falling))),
        ]
    )
    ours = np.array([cosine_with_warmup(step, peak, low, warmup, steps) for step in range(steps)])
    largest_change = max(np.abs(np.diff(theirs)).max(), peak / warmup)
    assert np.abs(ours - theirs).max() <= largest_change
    assert np.abs(ours - theirs)[200:].max() < 2e-4


def test_prototypes_and_backbone_stand_still_at_first_and_only_they() -> None:
    config = short(freeze_last_layer_steps=10).model_copy(update={"init": InitConfig(freeze_backbone_steps=20)})
    at = Schedules.from_config(config).at
    assert [at(step).last_layer_lr for step in (0, 9)] == [0.0, 0.0]
    assert [at(step).backbone_lr for step in (0, 19)] == [0.0, 0.0]
    assert at(9).lr > 0
    assert at(10).last_layer_lr == at(10).lr > 0
    assert at(20).backbone_lr == at(20).lr > 0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_end_as_all_do(steps: int) -> None:
    for warmup in range(steps + 1):
        config = short(steps=steps, warmup_steps=warmup, freeze_last_layer_steps=0)
        values = Schedules.from_config(config).at(steps - 1)
        assert (values.lr, values.momentum, values.weight_decay) == (1e-6, 1.0, 0.4)


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    assert Schedules.from_config(short(warmup_steps=0)).at(0).lr == peak_lr(PAPER.optimization)


def test_steps_of_passes() -> None:
    """The paper's 838,336 images: 60,000 steps are 45.8 passes; 100 passes would be 130,990 steps."""
    assert total_steps(PAPER.optimization, 838_336) == 60_000
    assert total_steps(OptimizationConfig(passes=100), 838_336) == 130_990
    assert total_steps(OptimizationConfig(passes=0.001), 5) == 1


def test_a_run_of_passes_that_is_shorter_than_its_warm_up_is_refused() -> None:
    config = PretrainingConfig.model_validate({"optimization": {"passes": 1, "batch_size": 10}})
    assert Schedules.from_config(config, 6000).at(5999).lr == 1e-6
    with pytest.raises(ConfigError, match="warmup_steps=20, or make the run longer"):
        Schedules.from_config(config, 200)


def test_the_pieces() -> None:
    assert [linear(step, 2.0, 4.0, 4) for step in (-1, 0, 1, 3, 4, 5)] == [2.0, 2.0, 2.5, 3.5, 4.0, 4.0]
    assert linear(0, 2.0, 4.0, 0) == 4.0
    assert [constant_then(step, 0.0, 2, 7.0) for step in (0, 1, 2)] == [0.0, 0.0, 7.0]
