"""DeepSpeed on the CPU: the same losses as without it, resumed or not, and a result that loads (P22-P25, P29)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from encoder.errors import ConfigError
from llava_rad.training.config import DEEPSPEED, TrainingConfig, load_config
from llava_rad.training.deepspeed_config import checkpoint_bytes, offloads, read_deepspeed, stage
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs

EACH = "engine.checkpoint_every=1"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, pairs: Path, tiny: Path) -> Path:
    """A run without DeepSpeed."""
    folder = tmp_path_factory.mktemp("deepspeed") / "plain"
    runs.train(folder, small_pairs.overrides(pairs, tiny, EACH))
    return folder


def test_p25_the_shipped_configurations(tmp_path: Path) -> None:
    for name in DEEPSPEED:
        found = read_deepspeed(name)
        assert found is not None and found["gradient_clipping"] == "auto"
        zero = found["zero_optimization"]
        assert zero["stage"] == int(name[4])
        assert zero["stage"] == 3 or not any(key.startswith("stage3") for key in zero)
        run = load_config("paper", [f"engine.deepspeed={name}"])
        assert stage(run) == zero["stage"]
        assert offloads(run) == ("offload" in name, name == "zero3-offload")
    # LLaVA's zero3.json
    zero3 = read_deepspeed("zero3")
    assert zero3 is not None
    expected = {"sub_group_size": 1e9, "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9}
    assert expected.items() <= zero3["zero_optimization"].items()
    assert read_deepspeed("none") is None and stage(TrainingConfig()) == 0
    (tmp_path / "bad.json").write_text("[1]")
    for wrong in ("zero4", str(tmp_path / "bad.json")):
        with pytest.raises(ConfigError, match="neither a DeepSpeed JSON file nor one of none, zero2"):
            read_deepspeed(wrong)


@pytest.mark.deepspeed
@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("zero2", 1),
        ("zero3", 2),
        pytest.param("zero2", 2, marks=pytest.mark.nightly),
        pytest.param("zero3", 1, marks=pytest.mark.nightly),
    ],
)
def test_p22_p29_losses_equal_those_without_it_and_those_of_a_killed_run(
    plain: Path, tmp_path: Path, pairs: Path, tiny: Path, run: Run, chest: list[Path], name: str, processes: int
) -> None:
    overrides = small_pairs.overrides(
        pairs, tiny, EACH, f"engine.deepspeed={name}", f"data.cache={plain / 'cache'}", "engine.keep_checkpoints=4"
    )
    whole = tmp_path / "whole"
    runs.train(whole, overrides, processes=processes)
    assert runs.close(runs.losses(whole), runs.losses(plain), 1e-6)

    newest = max((whole / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    written = sum(path.stat().st_size for path in newest.rglob("*") if path.suffix == ".pt")
    parts = [load_file(tiny / part) for part in ("projector.safetensors", "language_model/model.safetensors")]
    trained = sum(value.numel() for part in parts for value in part.values())
    config = load_config("tiny", [f"engine.deepspeed={name}", "engine.precision=fp32"])
    assert 1 < written / checkpoint_bytes(config, trained) < 1.2  # small files and names

    killed = tmp_path / "killed"
    runs.kill_after(killed, "checkpoint-1", overrides, processes=processes)
    done = runs.train(killed, overrides, processes=processes)
    assert "going on from step" in done.err
    assert runs.close(runs.losses(killed), runs.losses(whole), 1e-6)

    # P23: nothing is missing from the result, and it is that of the run without DeepSpeed
    for part in ("projector.safetensors", "language_model/model.safetensors"):
        ours, expected, again = (load_file(at / "model" / part) for at in (whole, plain, killed))
        assert ours.keys() == expected.keys()
        for key, value in ours.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value, again[key], rtol=1e-4, atol=1e-5)
    # P24: reports are written while weights are spread over processes, of unequal length
    reports = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert [line["report"] for line in reports] == [
        json.loads(line)["report"] for line in (plain / "samples.jsonl").read_text().splitlines()
    ]
    assert run("generate", chest[0], "--model", whole / "model").code == 0

    other = 3 - processes
    if processes == 1:
        refused = runs.finished(runs.start([*overrides, "-o", whole], processes=other), timeout=runs.LIMIT)
        assert "was written with processes = 1, this run has 2" in refused.err


@pytest.mark.deepspeed
def test_adapters_in_bfloat16_with_zero_3_on_two_processes(
    tmp_path: Path, pairs: Path, tiny: Path, run: Run, chest: list[Path]
) -> None:
    overrides = small_pairs.overrides(
        pairs, tiny, EACH, "engine.deepspeed=zero3", "engine.precision=bf16", "lora={r: 4, alpha: 8}",
        "engine.activation_checkpointing=true", "data.keep_features=false",
    )  # fmt: skip
    runs.train(tmp_path / "run", overrides, processes=2)
    assert all(5 < loss < 10 for loss in runs.losses(tmp_path / "run").values())
    model = tmp_path / "run" / "model"
    stored = load_file(model / "language_model" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert (model / "encoder/model.safetensors").read_bytes() == (tiny / "encoder/model.safetensors").read_bytes()
    assert run("generate", chest[0], "--model", model).code == 0
