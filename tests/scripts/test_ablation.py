"""Ablations: the paper's variants, and a small sweep from training to one table that resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoder.datasets.manifest import write_manifest
from encoder.pretraining.config import load_config
from scripts import ablation
from scripts.ablation import ABLATIONS, main, variants
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


@pytest.mark.parametrize("kind", ABLATIONS)
def test_every_variant_is_a_configuration(kind: str) -> None:
    for row in variants(kind, [112, 224, 518], [0.1, 1.0]):
        if row.overrides is not None:
            load_config("rad-dino", [*row.overrides, "data.manifests=[a.csv]"])


def test_variants_are_the_papers() -> None:
    """Variants make the same changes as the shipped configurations."""
    kinds = {"objective": ("no-mim", "rad-dino-no-mim"), "initialisation": ("random-start", "rad-dino-random-init")}
    for kind, (name, published) in kinds.items():
        (row,) = (row for row in variants(kind, [], []) if row.name == name)
        ours = load_config("rad-dino", [*(row.overrides or ()), f"name={published}"])
        assert ours == load_config(published, [])
    (row,) = variants("resolution", [224], [])
    assert load_config("rad-dino", [*(row.overrides or ()), "name=rad-dino-224"]) == load_config("rad-dino-224", [])
    assert [row.overrides for row in variants("size", [], [0.1, 1.0])] == [("data.subset=0.1",), ()]


def forked(*arguments: str | Path, launcher: str = "") -> None:
    """Run ``llava-rad`` without loading torch for every command."""
    done = finished(Command(arguments, 1, PRELOAD), timeout=240)
    assert (done.code, launcher) == (0, ""), done.err
    print(done.out, end="")


@pytest.mark.slow
def test_a_sweep_ends_in_one_table_and_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)  # a run before this one may have set it
    monkeypatch.setattr(ablation, "run", forked)
    write_manifest(manifest_rows(tmp_path / "images"), tmp_path / "labelled.csv")
    call = [
        "objective", "--config", "tiny", "--probe", str(tmp_path / "labelled.csv"), "--output", str(tmp_path / "out"),
        "--recipe", "rad-dino-56", f"data.manifests=[{tmp_path / 'labelled.csv'}]", *SMALL,
    ]  # fmt: skip
    assert main(call) == 0
    printed = capfd.readouterr().out
    assert "with-mim AUROC" in printed and "no-mim AUROC" in printed
    results = tmp_path / "out" / "probe" / "all"
    assert {path.name for path in (results / "encoders").iterdir()} == {"with-mim.json", "no-mim.json"}
    assert (results / "figure.svg").is_file() and (results / "table.md").is_file()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    assert main(call) == 0
    assert capfd.readouterr().out == printed
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")} == before


def test_resolutions_are_probed_separately_and_share_one_table(tmp_path: Path) -> None:
    from scripts.ablation import together

    rows = variants("resolution", [112, 518], [])
    for row, value in zip(rows, (0.25, 0.5), strict=True):
        folder = tmp_path / str(row.recipe) / "encoders"
        folder.mkdir(parents=True)
        macro = {"auprc": [value], "auroc": [value + 0.1, value + 0.3]}
        (folder / f"{row.name}.json").write_text(json.dumps({"macro": macro, "auroc": {"A": [value]}}))
    text = together(tmp_path, rows)
    assert [line.split() for line in text.splitlines()[2:]] == [["112px", "25.0", "45.0"], ["518px", "50.0", "70.0"]]
    assert (tmp_path / "table.md").is_file() and (tmp_path / "figure.svg").is_file()
