"""Whole runs through the command line: what they leave, how they stop and go on, and that they learn to see."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava_rad.model.checkpoint import load_checked
from llava_rad.model.llava_rad import LlavaRad
from tests.llava_rad.conftest import Run, finished
from tests.llava_rad.training import runs, small_pairs

pytestmark = pytest.mark.acceptance(row=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pairs: Path, tiny: Path) -> Path:
    """A run that was never stopped: 2 epochs of 2 steps, a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = runs.train(folder, small_pairs.overrides(pairs, tiny, "engine.checkpoint_every=1"))
    (folder.parent / "stderr.txt").write_text(done.err)
    return folder


@pytest.mark.slow
def test_what_a_run_leaves(whole: Path, tiny: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "cache", "checkpoints", "config.yaml", "curves.png", "data.sha256", "metrics.jsonl", "model", "samples.jsonl",
        "tensorboard",
    }  # fmt: skip
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"checkpoint-3", "checkpoint-4"}
    written = runs.lines(whole)
    assert set(runs.losses(whole)) == {1, 2, 3, 4}
    assert sum("val_loss" in line and "val_loss_other_image" in line for line in written) == 4
    assert all(line["tokens_per_s"] > 0 for line in written if "loss" in line)
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert [line["reference"] for line in samples[:2]] == [small_pairs.REPORTS[0], small_pairs.REPORTS[1]]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine_to_zero(whole: Path) -> None:
    rates = [line["lr"] for line in runs.lines(whole) if "loss" in line]  # of 4 steps, 1 of them warm-up
    assert rates == pytest.approx([0.0, 1e-3, 1e-3 * 0.75, 1e-3 * 0.25], abs=1e-9)


def test_p23_p26_the_result_is_a_checkpoint_directory_that_loads_whole(whole: Path, tiny: Path) -> None:
    config = load_checked(whole / "model")
    assert config.name == "tiny" and config.image_tokens == 16
    trained, before = LlavaRad.from_pretrained(whole / "model"), LlavaRad.from_pretrained(tiny)
    moved = [
        name
        for name, value in trained.language_model.state_dict().items()
        if not torch.equal(value, before.language_model.state_dict()[name])
    ]
    assert len(moved) == len(trained.language_model.state_dict())


def test_p18_the_encoder_is_bitwise_what_it_was(whole: Path, tiny: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        assert (whole / "model" / "encoder" / name).read_bytes() == (tiny / "encoder" / name).read_bytes()


def test_p28_generation_is_greedy(whole: Path) -> None:
    settings = json.loads((whole / "model" / "language_model" / "generation_config.json").read_text())
    assert not settings.get("do_sample", False) and not {"temperature", "top_p", "max_length"} & settings.keys()


def test_the_model_writes_a_report(whole: Path, run: Run, chest: list[Path]) -> None:
    done = run("generate", chest[0], "--model", whole / "model", "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["model"]["id"] == "tiny"


@pytest.mark.slow
def test_p29_a_killed_run_goes_on_as_if_it_had_not_been(whole: Path, tmp_path: Path, pairs: Path, tiny: Path) -> None:
    overrides = small_pairs.overrides(pairs, tiny, "engine.checkpoint_every=1", f"data.cache={whole / 'cache'}")
    for checkpoint in ("checkpoint-1", "checkpoint-3"):  # within an epoch, and within the next
        folder = tmp_path / checkpoint
        runs.kill_after(folder, checkpoint, overrides)
        done = runs.train(folder, overrides)
        assert "going on from step" in done.err
        assert runs.losses(folder) == runs.losses(whole)
        ours, expected = (load_file(at / "model" / "projector.safetensors") for at in (folder, whole))
        assert all(torch.equal(value, expected[name]) for name, value in ours.items())


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(
    whole: Path, tmp_path: Path, pairs: Path, tiny: Path
) -> None:
    overrides = small_pairs.overrides(pairs, tiny, f"data.cache={whole / 'cache'}", "evaluation.samples=0")
    overrides.append("optimization.epochs=200")
    folder = tmp_path / "run"
    process = runs.start([*overrides, "-o", folder])
    while not (folder / "metrics.jsonl").is_file() or len(runs.losses(folder)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert ended.code == 130 and "the same command goes on from here" in ended.err
    (newest,) = sorted((folder / "checkpoints").iterdir())[-1:]
    assert int(newest.name.rpartition("-")[2]) >= 2
    assert not (folder / "model").exists() and not (folder / "checkpoints" / ".partial").exists()


def test_a_run_of_another_configuration_is_refused(whole: Path, run: Run, pairs: Path, tiny: Path) -> None:
    overrides = small_pairs.overrides(pairs, tiny, "optimization.lr=0.1")
    done = run("train", "-c", "tiny", *overrides, "-o", whole)
    assert done.code == 2 and "holds a run with another optimization.lr" in done.err


@pytest.mark.slow
def test_an_unfinished_checkpoint_is_never_read(whole: Path, tmp_path: Path, pairs: Path, tiny: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    (folder / "checkpoints" / ".partial" / "checkpoint-4").mkdir(parents=True)
    runs.train(folder, small_pairs.overrides(pairs, tiny, "engine.checkpoint_every=1"))
    assert runs.losses(folder) == runs.losses(whole)
    assert not (folder / "checkpoints" / ".partial").exists()


def test_a_damaged_checkpoint_is_said_in_one_line(
    whole: Path, tmp_path: Path, run: Run, pairs: Path, tiny: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    path = folder / "checkpoints" / "checkpoint-3" / "trained.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    done = run("train", "-c", "tiny", *small_pairs.overrides(pairs, tiny, "engine.checkpoint_every=1"), "-o", folder)
    assert done.code == 5 and "trained.safetensors is damaged" in done.err and done.out == ""


def test_nothing_that_identifies_a_patient_is_printed(whole: Path) -> None:
    printed = (whole.parent / "stderr.txt").read_text()
    assert "samples: train 8, val 4" in printed
    for name in ("patient", "study ", "image 0", ".png", *small_pairs.REPORTS):
        assert name not in printed


@pytest.mark.slow
def test_adapters_are_merged_into_the_result(
    whole: Path, tmp_path: Path, pairs: Path, tiny: Path, run: Run, chest: list[Path]
) -> None:
    folder = tmp_path / "run"
    overrides = small_pairs.overrides(
        pairs, tiny, "lora={r: 4, alpha: 8}", "engine.checkpoint_every=1", f"data.cache={whole / 'cache'}"
    )
    runs.train(folder, overrides)
    trained = LlavaRad.from_pretrained(folder / "model")
    before = LlavaRad.from_pretrained(tiny).language_model.state_dict()
    moved = {
        name for name, value in trained.language_model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert len(moved) == 2 * 7 and all("_proj" in name for name in moved)
    assert run("generate", chest[0], "--model", folder / "model").code == 0
    stored = load_file(folder / "checkpoints" / "checkpoint-4" / "trained.safetensors")
    assert all("lora_" in name or name.startswith("projector.") for name in stored)
    again = tmp_path / "again"
    runs.kill_after(again, "checkpoint-2", overrides)
    runs.train(again, overrides)
    assert runs.losses(again) == runs.losses(folder)


@pytest.mark.slow
def test_adapters_in_bfloat16_write_samples_without_deepspeed(tmp_path: Path, pairs: Path, tiny: Path) -> None:
    overrides = ("engine.precision=bf16", "lora={r: 4, alpha: 8}", "optimization.steps=1", "evaluation.samples=2")
    runs.train(tmp_path / "run", small_pairs.overrides(pairs, tiny, *overrides))
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_p27_an_adapter_names_its_base_and_loads_with_it(tmp_path: Path, pairs: Path, tiny: Path, whole: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny / "language_model", base)
    overrides = small_pairs.overrides(
        pairs, None, f"model.language_model={base}", f"model.encoder={tiny / 'encoder'}", "model.recipe=rad-dino-56",
        "lora={r: 4, alpha: 8, merge: false}",
    )  # fmt: skip
    runs.train(tmp_path / "adapter", overrides)
    runs.train(
        tmp_path / "merged", [*overrides[:-1], "lora={r: 4, alpha: 8}", f"data.cache={tmp_path / 'adapter' / 'cache'}"]
    )
    adapter, merged = (LlavaRad.from_pretrained(tmp_path / name / "model") for name in ("adapter", "merged"))
    assert hasattr(adapter.language_model, "peft_config")
    embeds = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (model.language_model(inputs_embeds=embeds).logits for model in (adapter, merged))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "train", [pytest.param(runs.train, marks=pytest.mark.slow), pytest.param(runs.torchrun, marks=pytest.mark.nightly)]
)
def test_two_processes_equal_one(
    whole: Path, tmp_path: Path, pairs: Path, tiny: Path, train: Callable[..., object]
) -> None:
    overrides = small_pairs.overrides(pairs, tiny, "engine.checkpoint_every=1", f"data.cache={whole / 'cache'}")
    train(tmp_path / "two", overrides, processes=2)
    assert runs.close(runs.losses(tmp_path / "two"), runs.losses(whole), 1e-5)
    val = [[line["val_loss"] for line in runs.lines(at) if "val_loss" in line] for at in (tmp_path / "two", whole)]
    assert val[0] == pytest.approx(val[1], rel=1e-4)


@pytest.mark.slow
def test_p38_bfloat16_and_tf32_are_no_error_without_a_gpu(whole: Path, tmp_path: Path, pairs: Path, tiny: Path) -> None:
    overrides = small_pairs.overrides(
        pairs, tiny, "engine.checkpoint_every=1", "engine.precision=bf16", "engine.tf32=true",
        "engine.activation_checkpointing=auto", "data.keep_features=false", f"data.cache={whole / 'cache'}",
    )  # fmt: skip
    ran = runs.train(tmp_path / "run", overrides)
    assert "activations of decoder blocks are kept (activation_checkpointing=auto)" in ran.err
    assert runs.close(runs.losses(tmp_path / "run"), runs.losses(whole), 0.02)
    stored = load_file(tmp_path / "run" / "model" / "language_model" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


@pytest.mark.slow
def test_p33_eight_images_are_learnt_to_the_letter_and_other_images_give_other_reports(
    tmp_path: Path, tiny: Path
) -> None:
    table = small_pairs.make(tmp_path, train=8, val=0)
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    watched = []  # the same pixels in other bytes: an image in two splits is refused
    for line in lines:
        path = Path(line["image"]).with_stem(f"{Path(line['image']).stem}-again")
        Image.open(tmp_path / line["image"]).save(tmp_path / path, compress_level=0)
        watched.append({**line, "id": f"{line['id']} again", "image": str(path), "subject": "", "split": "val"})
    table.write_text("".join(json.dumps({**line, "subject": ""}) + "\n" for line in [*lines, *watched]))
    overrides = small_pairs.overrides(
        table, None, f"model.encoder={tiny / 'encoder'}", "model.recipe=rad-dino-56", "model.scratch.hidden_size=96",
        "optimization.epochs=150", "optimization.micro_batch_size=4", "optimization.lr=3e-3", "evaluation.samples=8",
        "evaluation.max_new_tokens=150", "engine.checkpoint_every=300", "engine.log_every=50",
    )  # fmt: skip
    runs.train(tmp_path / "run", overrides)
    last = [line for line in map(json.loads, (tmp_path / "run" / "samples.jsonl").open()) if line["step"] == 300]
    assert [line["report"] for line in last] == [line["reference"] for line in last] == list(small_pairs.REPORTS)
    (val,) = [line for line in runs.lines(tmp_path / "run") if line["step"] == 300 and "val_loss" in line]
    assert val["val_loss"] < 0.05 and val["val_loss_other_image"] > 20 * val["val_loss"]
