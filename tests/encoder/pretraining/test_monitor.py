"""Signs of collapse: closed forms, numpy, and real runs that collapse (constant images; a loss at ln K)."""

from __future__ import annotations

import json
import math
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.errors import LlavaRadError
from encoder.pretraining import train as engine
from encoder.pretraining.monitor import CollapseMonitor, FiniteSteps, cls_std, effective_rank, teacher_entropy
from encoder.reader.sandbox import Reader
from tests.encoder.pretraining.conftest import Finished
from tests.encoder.pretraining.small_run import small_config, write_images


def test_entropy_closed_forms() -> None:
    assert float(teacher_entropy(torch.full((3, 65536), 1 / 65536))) == pytest.approx(11.0904, abs=1e-4)
    assert float(teacher_entropy(torch.eye(5))) == 0  # 0 ln 0 = 0
    halves = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert float(teacher_entropy(halves)) == pytest.approx(math.log(2) / 2)
    assert float(teacher_entropy(halves.bfloat16())) == pytest.approx(math.log(2) / 2)


def test_effective_rank_closed_forms() -> None:
    corners = torch.cat([torch.eye(4), -torch.eye(4)])  # centred, four equal singular values
    assert float(effective_rank(corners)) == pytest.approx(4, rel=1e-6)
    assert float(effective_rank(5 * corners + 100)) == pytest.approx(4, rel=1e-4)  # place and scale do not matter
    line = torch.arange(6.0)[:, None] * torch.ones(1, 3)
    assert float(effective_rank(line)) == pytest.approx(1, rel=1e-5)
    simplex = torch.eye(7, 20)  # M equal distances: M - 1 equal singular values
    assert float(effective_rank(simplex)) == pytest.approx(6, rel=1e-5)


def test_effective_rank_equals_numpy() -> None:
    features = np.random.default_rng(0).normal(size=(30, 12)) * np.linspace(0.1, 3, 12) + 2
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert float(effective_rank(torch.from_numpy(features))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_rows_that_are_the_same_have_rank_one_and_no_deviation(value: float) -> None:
    features = torch.full((64, 96), value)
    assert float(effective_rank(features)) == 1 and float(cls_std(features)) < 1e-6


def test_deviation_equals_numpy_and_has_no_unit() -> None:
    features = np.random.default_rng(1).normal(size=(50, 8)) + 1
    expected = features.std(0).mean() / (np.linalg.norm(features, axis=1).mean() / 8**0.5)
    assert float(cls_std(torch.from_numpy(features))) == pytest.approx(expected, rel=1e-5)
    assert float(cls_std(torch.from_numpy(1000 * features))) == pytest.approx(expected, rel=1e-5)


GOOD = {"teacher_entropy": 6.0, "dino": 8.0, "cls_effective_rank": 20.0, "cls_std": 0.3}


@pytest.mark.parametrize(
    ("sign", "kind"),
    [
        ({"teacher_entropy": math.log(65536), "dino": math.log(65536)}, "uniform collapse"),
        ({"teacher_entropy": math.log(65536), "dino": 12.0}, "uniform collapse"),  # the student has yet to follow
        ({"dino": math.log(65536) + 0.05}, "uniform collapse"),  # the student is uniform
        ({"cls_effective_rank": 1.0, "cls_std": 0.0, "dino": 0.05}, "constant collapse"),
        ({"cls_std": 3e-6}, "constant collapse"),  # noise around one vector has a high rank
        ({"cls_effective_rank": 1.5}, "constant collapse"),  # all on one line
    ],
)
def test_a_warning_after_five_such_steps_and_once(sign: dict[str, float], kind: str) -> None:
    monitor = CollapseMonitor(65536)
    said = [monitor.update(step, {**GOOD, **sign}) for step in range(1, 20)]
    assert [len(texts) for texts in said] == [0] * 4 + [1] + [0] * 14
    assert said[4][0].startswith(kind) and "(step 5)" in said[4][0] and "\n" not in said[4][0]


def test_a_good_step_between_starts_the_count_anew() -> None:
    monitor = CollapseMonitor(65536)
    bad = {**GOOD, "cls_effective_rank": 1.0}
    assert not any(monitor.update(step, GOOD if step % 5 == 0 else bad) for step in range(50))
    said = [text for step in range(50, 55) for text in monitor.update(step, bad)]
    assert len(said) == 1
    monitor.update(55, GOOD)
    assert sum(len(monitor.update(step, bad)) for step in range(56, 70)) == 1  # it came back


def test_the_losses_weight_is_taken_off() -> None:
    values = {**GOOD, "dino": 0.5 * math.log(1024), "teacher_entropy": 1.0}
    assert not any(CollapseMonitor(1024, 1).update(1, values))
    assert len(CollapseMonitor(1024, 1, dino_weight=0.5).update(1, values)) == 1
    assert not any(CollapseMonitor(1024, 1, dino_weight=0.0).update(1, {**values, "dino": 0.0}))


def test_a_real_run_on_constant_images_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "prepare", partialmethod(Reader.prepare, force=True))  # else they are refused
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(np.full((64, 64), 20 * number, np.uint8)).save(images / f"{number:02d}.png")
    engine.run(small_config(images), tmp_path / "run")
    assert capsys.readouterr().err.count("llava-rad: warning: constant collapse") == 1


def test_a_real_run_whose_loss_stands_at_ln_k_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With temperatures of 1000 teacher and student spread evenly whatever they learn."""
    config = small_config(
        write_images(tmp_path / "images"), "loss.teacher_temperature=[1000, 1000]", "loss.student_temperature=1000"
    )
    engine.run(config, tmp_path / "run")
    losses = [json.loads(line)["dino"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert losses == pytest.approx([math.log(32)] * 6, rel=1e-4)
    errors = capsys.readouterr().err
    assert errors.count("llava-rad: warning: uniform collapse") == 1 and "of ln K = 3.47" in errors


def test_a_real_run_that_learns_does_not_warn(unbroken: Finished) -> None:
    assert "is exported" in unbroken.printed and "warning" not in unbroken.printed


@pytest.mark.parametrize(("delayed", "answered"), [(False, 1), (True, 2)])
def test_a_step_that_is_not_finite_is_named_when_it_is_known(delayed: bool, answered: int) -> None:
    steps, asked = FiniteSteps(delayed=delayed), 0
    with pytest.raises(LlavaRadError, match="finite at step 7;"):
        for step in (7, 8):
            asked += 1
            steps.ask(step, torch.tensor(float(step == 7)))
    assert asked == answered
    steps.settle()  # the answer is read once


def test_the_last_steps_answer_is_read_by_settling() -> None:
    steps = FiniteSteps(delayed=True)
    steps.ask(1, torch.tensor(0.0))
    steps.ask(2, torch.tensor(1.0))
    with pytest.raises(LlavaRadError, match="finite at step 2;"):
        steps.settle()
