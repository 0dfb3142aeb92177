"""Ablations: the paper's variants and numbers, and small sweeps from training to one table that resume."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import write_manifest
from encoder.pretraining.config import load_config
from scripts import ablation
from scripts.ablation import ABLATIONS, MASKS, main, variants
from tests.encoder.dinov2_models import dinov2
from tests.encoder.pretraining.run_processes import PRELOAD
from tests.encoder.pretraining.test_probes import manifest_rows
from tests.forked import Command
from tests.llava_rad.conftest import finished

SMALL = (
    "model.hidden_size=24", "model.num_hidden_layers=2", "model.num_attention_heads=2", "optimization.steps=2",
    "optimization.batch_size=4", "optimization.warmup_steps=1", "optimization.freeze_last_layer_steps=1",
    "head.prototypes=32", "head.hidden_size=16", "head.bottleneck=8", "loss.teacher_temperature_steps=1",
    "data.workers=0", "engine.log_every=1", "engine.checkpoint_every=2",
)  # fmt: skip
SETS = ("{path: mimic.csv, splits: [train]}", "chexpert.csv", "padchest.csv")


@pytest.mark.parametrize("kind", ABLATIONS)
def test_every_variant_is_a_configuration(kind: str) -> None:
    for row in variants(kind, sizes=[112, 224, 518], shares=[0.1, 1.0], sets=SETS):
        if row.overrides is not None:
            load_config("rad-dino", ["data.manifests=[a.csv]", *row.overrides])


def test_variants_are_the_papers() -> None:
    """Variants make the same changes as the shipped configurations."""
    kinds = {"objective": ("no-mim", "rad-dino-no-mim"), "initialisation": ("random-start", "rad-dino-random-init")}
    for kind, (name, published) in kinds.items():
        (row,) = (row for row in variants(kind) if row.name == name)
        ours = load_config("rad-dino", [*(row.overrides or ()), f"name={published}"])
        assert ours == load_config(published, [])
    (row,) = variants("resolution", sizes=[224])
    assert load_config("rad-dino", [*(row.overrides or ()), "name=rad-dino-224"]) == load_config("rad-dino-224", [])
    assert [row.overrides for row in variants("size", shares=[0.1, 1.0])] == [("data.subset=0.1",), ()]


def test_what_is_not_adapted_is_dinov2() -> None:
    """Table B.1: ViT-B and ViT-G of DINOv2 itself."""
    rows = [row for row in variants("initialisation") if row.overrides is None]
    assert [(row.name, row.encoder, row.paper) for row in rows] == [
        ("dinov2-base", "dinov2-base", "DINOv2 (ViT-B)"), ("dinov2-giant", "dinov2-giant", "DINOv2 (ViT-G)"),
    ]  # fmt: skip
    (own,) = (row for row in variants("initialisation", unadapted=["dinov2-base=/a/folder"]) if row.overrides is None)
    assert (own.name, own.encoder, own.paper) == ("dinov2-base", "/a/folder", "DINOv2 (ViT-B)")


def test_the_ladder_adds_set_after_set_and_laterals_at_last() -> None:
    """B.3: frontal images up to 546 thousand, lateral ones and the last set in the final stage."""
    rows = variants("diversity", sets=SETS)
    ladder = [load_config("rad-dino", row.overrides or ()).data for row in rows]
    assert [row.paper for row in rows] == ["", "", "RAD-DINO"], "the whole set is that of table 1a"
    assert [[one.path for one in data.manifests] for data in ladder] == [
        ["mimic.csv"], ["mimic.csv", "chexpert.csv"], ["mimic.csv", "chexpert.csv", "padchest.csv"],
    ]  # fmt: skip
    assert [data.views for data in ladder] == [("frontal",), ("frontal",), None]
    assert {data.manifests[0].splits for data in ladder} == {("train",)}


def forked(*arguments: str | Path, launcher: str = "") -> None:
    """Run ``llava-rad`` without loading torch for every command."""
    done = finished(Command(arguments, 1, PRELOAD), timeout=240)
    assert (done.code, launcher) == (0, ""), done.err
    print(done.out, end="")


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Manifest of small pictures with labels, and with masks and a test split in ``masked.csv``."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)  # a run before this one may have set it
    monkeypatch.setattr(ablation, "run", forked)
    rows = manifest_rows(tmp_path / "images")
    write_manifest(rows, tmp_path / "labelled.csv")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masks = {"left lung": tmp_path / "mask.png", "left upper lung zone": tmp_path / "mask.png"}
    splits = [*["train"] * 12, *["val"] * 4, *["test"] * 4]
    masked = [replace(row, split=split, masks=masks) for row, split in zip(rows[:20], splits, strict=True)]
    write_manifest(masked, tmp_path / "masked.csv")
    return tmp_path / "labelled.csv"


def kept(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}


@pytest.mark.nightly
def test_the_objective_ends_in_dice_and_resumes(labelled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = labelled.parent / "out"
    call = [
        "objective", "--config", "tiny", "--segment", f"lungs={labelled.parent / 'masked.csv'}", "--segment-options",
        "--epochs 1 --no-augment", "--recipe", "rad-dino-56", "--output", str(out), f"data.manifests=[{labelled}]",
        *SMALL,
    ]  # fmt: skip
    assert main(call) == 0
    table = capfd.readouterr().out.split("Ablation of the objective: Dice of a linear head\n")[1]
    lines = [line.split() for line in table.splitlines()]
    assert [line[0] for line in lines[1:3]] == ["with-mim", "no-mim"]
    assert [line[-2:] for line in lines[1:3]] == [["95.9", "(1.5)"], ["91.3", "(2.5)"]], "table 3"
    files = [json.loads(file.read_bytes()) for file in (out / "segment" / "lungs" / "encoders").iterdir()]
    assert {file["encoder"] for file in files} == {"with-mim, linear", "no-mim, linear"}
    assert all(list(file["structures"]) == ["left lung"] for file in files), "the zones are another structure"
    before = kept(out)
    assert main(call) == 0
    assert capfd.readouterr().out.split("Dice of a linear head\n")[1] == table
    assert kept(out) == before


@pytest.mark.nightly
def test_the_initialisations_stand_beside_table_b_1(labelled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, unadapted = labelled.parent / "out", []
    for name, seed in (("dinov2-base", 1), ("dinov2-giant", 2)):
        dinov2(seed=seed).save_pretrained(labelled.parent / name)
        unadapted.append(f"{name}={labelled.parent / name}")
    call = [
        "initialisation", "--config", "tiny", "--unadapted", *unadapted, "--probe", str(labelled), "--stop-on",
        str(labelled), "--patience", "1", "--recipe", "rad-dino-56", "--output", str(out),
        f"init.source={labelled.parent / 'dinov2-base'}", f"data.manifests=[{labelled}]", "model.image_size=56",
        "crops.global_size=56", "crops.local_size=28", "probe.every=1", *SMALL,
    ]  # fmt: skip
    assert main(call) == 0
    table = capfd.readouterr().out.split("Ablation of the initialisation\n")[1]
    lines = [re.split(r"  +", line.strip()) for line in table.splitlines()[1:5]]
    assert [(line[0], line[-1]) for line in lines] == [
        ("continued", "52.8"), ("random-start", "45.9"), ("dinov2-base", "31.6"), ("dinov2-giant", "33.5"),
    ]  # fmt: skip
    assert [line[1] for line in lines[:2]] == ["60", "60"], "images that were trained on"
    scores = {tuple(line[-3:-1]) for line in lines}
    assert len(scores) > 1 and all(0 <= float(score) <= 100 for pair in scores for score in pair)
    for name in ("continued", "random-start"):
        config = load_config(str(out / "runs" / name / "config.yaml"))
        assert (config.probe.select, config.probe.patience) == ("loss", 1)


@pytest.mark.slow
def test_missing_weights_of_dinov2_are_told_before_the_training(
    labelled: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def real(*arguments: str | Path, launcher: str = "") -> None:
        done = finished(Command(arguments, 1, PRELOAD), timeout=240)
        print(done.err)
        if done.code:
            raise SystemExit(done.code)

    monkeypatch.setattr(ablation, "run", real)
    out = labelled.parent / "out"
    call = ["initialisation", "--config", "tiny", "--unadapted", f"b={labelled.parent / 'none'}"]
    with pytest.raises(SystemExit) as stopped:
        main([*call, "--probe", str(labelled), "--output", str(out), f"data.manifests=[{labelled}]", *SMALL])
    assert stopped.value.code == 5
    assert "none" in capfd.readouterr().out and not (out / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diversity", "--probe", "a.csv"], "diversity needs --sets"),
        (["objective", "--probe", "a.csv"], "objective ends in Dice"),
        (["initialisation"], "initialisation needs --probe"),
        (["objective", "--segment", "heart=a.csv"], "--segment heart=a.csv is not STRUCTURE=FILE with one of lungs"),
        (["resolution", "--probe", "a.csv", "--sizes", "500"], "sizes are multiples of 14"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--output", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


def test_names_of_masks_belong_to_one_structure() -> None:
    """Names that the readers of the paper's sets give."""
    names = {
        "lungs": ["left lung", "right lung"], "lung zones": ["left upper lung zone", "right mid lung zone"],
        "pneumothorax": ["pneumothorax"], "chest tubes": ["chest tube"],
    }  # fmt: skip
    for structure, own in names.items():
        for other, theirs in names.items():
            assert [bool(re.search(MASKS[structure], name)) for name in theirs] == [own == theirs] * len(theirs), other


def test_resolutions_are_probed_separately_and_share_one_table(tmp_path: Path) -> None:
    from scripts.ablation import together

    rows = variants("resolution", sizes=[112, 518])
    for row, value in zip(rows, (0.25, 0.5), strict=True):
        folder = tmp_path / "probe" / str(row.recipe) / "encoders"
        folder.mkdir(parents=True)
        macro = {"auprc": [value], "auroc": [value + 0.1, value + 0.3]}
        content = {"encoder": row.name, "macro": macro, "auroc": {"A": [value]}, "averaged": ["A"]}
        (folder / f"{row.name}.json").write_text(json.dumps(content))
    text = together(tmp_path, "resolution", rows).text()
    assert [line.split() for line in text.splitlines()[2:4]] == [
        ["112px", "25.0", "45.0"], ["518px", "50.0", "70.0", "52.8"],
    ]  # fmt: skip
    assert "Not comparable with the paper's: macro scores are of 1 labels" in text
    assert (tmp_path / "probe" / "table.md").is_file() and (tmp_path / "probe" / "figure.svg").is_file()
