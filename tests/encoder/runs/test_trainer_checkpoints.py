"""Checkpoints of transformers' Trainer: those of a diverged run, which earlier versions kept, are passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from encoder.errors import ConfigError, LlavaRadError
from encoder.runs.trainer_checkpoints import TrainerCheckpoints

FACTS = {"processes": 1}
NAN, INF = float("nan"), float("inf")


def old(folder: Path, step: int, value: float, *, val_loss: float | None = None) -> Path:
    """A checkpoint as version 0.2.0 wrote it, with one weight of the given value."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    save_file({"whole": torch.ones(3), "weight": torch.tensor([1.0, value])}, made / "trained.safetensors")
    history = [{"step": step, "val_loss": val_loss}] if val_loss is not None else []
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    (made / "llava-rad.json").write_text(json.dumps(FACTS))
    return made


def test_the_newest_checkpoint_with_finite_weights_is_taken(tmp_path: Path) -> None:
    for step, value in ((9, 1.0), (10, 2.0), (11, NAN), (12, INF)):
        old(tmp_path, step, value)
    checkpoints = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert checkpoints.latest() == tmp_path / "checkpoint-10"
    reason = "its weights are not finite (first weight)"
    assert checkpoints.ignored == {"checkpoint-12": reason, "checkpoint-11": reason}
    assert len(list(tmp_path.iterdir())) == 4  # looking removes nothing


@pytest.mark.parametrize("value", [NAN, INF])
def test_finite_weights_with_a_loss_that_is_not_are_passed_over_too(tmp_path: Path, value: float) -> None:
    old(tmp_path, 1, 1.0, val_loss=2.5)
    old(tmp_path, 2, 1e30, val_loss=value)
    checkpoints = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert checkpoints.latest() == tmp_path / "checkpoint-1"
    assert checkpoints.ignored == {"checkpoint-2": "its val_loss is not finite"}


def test_a_run_without_any_finite_checkpoint_begins_anew(tmp_path: Path) -> None:
    old(tmp_path, 1, NAN)
    old(tmp_path, 2, NAN)
    checkpoints = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert checkpoints.latest() is None and len(checkpoints.ignored) == 2


def test_the_next_checkpoint_replaces_those_that_were_passed_over_and_keeps_the_good_one(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (2, NAN), (3, NAN), (4, NAN)):
        old(tmp_path, step, value)
    checkpoints = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert checkpoints.latest() == tmp_path / "checkpoint-1"
    old(checkpoints.partial, 2, 5.0)
    checkpoints.publish("checkpoint-2")
    assert [path.name for path in checkpoints.all()] == ["checkpoint-1", "checkpoint-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    again = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert again.latest() == tmp_path / "checkpoint-2" and not again.ignored


def test_other_facts_and_damage_are_errors_and_nothing_is_passed_over(tmp_path: Path) -> None:
    old(tmp_path, 1, 1.0)
    with pytest.raises(ConfigError, match="was written with processes = 1, this run has 2"):
        TrainerCheckpoints(tmp_path, 2, {"processes": 2}).latest()
    old(tmp_path, 2, 1.0).joinpath("llava-rad.json").write_text("{")
    with pytest.raises(LlavaRadError, match="checkpoint-2 in the run folder is damaged"):
        TrainerCheckpoints(tmp_path, 2, FACTS).latest()


@pytest.mark.deepspeed
def test_the_parts_of_deepspeed_are_looked_at(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (2, NAN)):
        made = old(tmp_path, step, 1.0)
        (made / "trained.safetensors").unlink()
        (made / f"global_step{step}").mkdir()
        state = {"optimizer_state_dict": {"fp32_flat_groups": [torch.tensor([1.0, value])]}}
        torch.save(state, made / f"global_step{step}" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    checkpoints = TrainerCheckpoints(tmp_path, 2, FACTS)
    assert checkpoints.latest() == tmp_path / "checkpoint-1"
    assert "fp32_flat_groups" in checkpoints.ignored["checkpoint-2"]
