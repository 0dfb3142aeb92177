"""Runs on studies: the model that they leave, kills, kept features, several processes, counted inputs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.config import FurtherImages
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.templates import Study
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import runs, small_pairs
from tests.llava_rad.training.test_studies import Drawn, table

pytestmark = pytest.mark.acceptance(row=34)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run on studies of every kind."""
    folder = tmp_path_factory.mktemp("studies")
    runs.train(folder / "run", overrides(table(folder, 13), tiny))  # 8 to train on: two processes fill no batch twice
    return folder / "run"


def overrides(file: Path, tiny: Path, *more: str) -> list[str]:
    inputs = "study.inputs=[lateral, prior, prior_report, indication]"
    own = [inputs, "study.pool=2", "study.leave_out=0.3", "study.rope_factor=1.5", "engine.checkpoint_every=1"]
    return small_pairs.overrides(file, tiny, *own, *more)


@pytest.mark.slow
def test_a_run_on_studies_leaves_a_model_that_takes_them(
    trained: Path, tiny: Path, run: Run, chest: list[Path], lateral: Path
) -> None:
    config = load_checked(trained / "model")
    assert config.prompt.template == "study"
    assert config.further_images == FurtherImages(pool=2, markers=True)
    settings = json.loads((trained / "model" / "language_model" / "config.json").read_text())
    assert settings["rope_parameters"]["factor"] == 1.5
    written = [line for line in runs.lines(trained) if "val_loss" in line]
    names = {"prior", "prior_report", "indication"}
    for name in names:
        assert {f"val_loss_{name}", f"val_loss_other_{name}", f"val_loss_without_{name}"} <= written[-1].keys()
    card = (trained / "model" / "README.md").read_text()
    assert "one frontal chest radiograph, lateral, prior, prior report, indication" in card
    assert "| prior | " in card and "template\n`study`" in card
    study = ["--lateral", lateral, "--prior", chest[1], "--indication", "cough"]
    for more in ([], study):
        done = run("generate", chest[0], "--model", trained / "model", "--format", "json", *more)
        assert done.code == 0, done.err


@pytest.mark.slow
def test_the_engine_writes_what_transformers_writes_for_studies(trained: Path) -> None:
    engine, whole = Engine.from_pretrained(trained / "model"), LlavaRad.from_pretrained(trained / "model")
    study = Study(lateral=True, prior=True, prior_report="Clear.", indication="cough")
    images = [Drawn()[number] for number in range(3)]
    (draft,) = generate(engine, images, Decoding(study=study, max_new_tokens=12))
    pieces = whole.config.conversation.with_study(study).pieces(whole.tokens.tokenizer, whole.tokens.ids.bos)
    with torch.inference_mode():
        embeds, mask = whole.embed(whole.config.preprocessing.normalise(np.stack(images)), [pieces], study.kinds)
        found = whole.language_model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=12, do_sample=False,
            suppress_tokens=list(whole.tokens.suppressed) or None,
        )[0]  # fmt: skip
    ids = found.tolist()
    eos = whole.tokens.ids.eos
    assert list(draft.ids) == (ids[: ids.index(eos)] if eos in ids else ids)


@pytest.mark.slow
def test_a_killed_run_on_studies_goes_on_as_if_it_had_not_been(trained: Path, tmp_path: Path, tiny: Path) -> None:
    changes = overrides(trained.parent / "studies.jsonl", tiny, f"data.cache={trained / 'cache'}")
    runs.kill_after(tmp_path / "run", "checkpoint-3", changes)
    runs.train(tmp_path / "run", changes)
    assert runs.losses(tmp_path / "run") == runs.losses(trained)
    ours, expected = (load_file(at / "model" / "projector.safetensors") for at in (tmp_path / "run", trained))
    assert all(torch.equal(value, expected[name]) for name, value in ours.items())


@pytest.mark.slow
def test_kept_features_and_workers_change_nothing(trained: Path, tmp_path: Path, tiny: Path) -> None:
    cache = f"data.cache={trained / 'cache'}"
    changes = overrides(trained.parent / "studies.jsonl", tiny, cache, "data.keep_features=false", "data.workers=1")
    runs.train(tmp_path / "run", changes)
    assert list(runs.losses(tmp_path / "run").values()) == pytest.approx(list(runs.losses(trained).values()), rel=1e-5)


@pytest.mark.deepspeed
def test_zero_3_on_two_processes_is_the_same_run(trained: Path, tmp_path: Path, tiny: Path) -> None:
    cache = f"data.cache={trained / 'cache'}"
    changes = overrides(trained.parent / "studies.jsonl", tiny, cache, "engine.deepspeed=zero3")
    runs.train(tmp_path / "run", changes, processes=2)
    assert list(runs.losses(tmp_path / "run").values()) == pytest.approx(list(runs.losses(trained).values()), rel=1e-3)
    written = [[line for line in runs.lines(at) if "val_loss" in line][-1] for at in (tmp_path / "run", trained)]
    losses = [{name: value for name, value in line.items() if name.startswith("val_loss")} for line in written]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_validate_counts_inputs(tmp_path: Path, tiny: Path, run: Run) -> None:
    file = table(tmp_path)
    done = run("train", "--config", "tiny", *overrides(file, tiny), "--validate", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "lateral 4, prior 6, prior_report 6, indication 11; images in all 22" in done.out
    rows = [line.split() for line in done.out.splitlines() if line[:6].strip().isdigit()]
    assert [int(row[0]) for row in rows] == [1, 2, 3]
    assert {int(after[1]) - int(before[1]) for before, after in pairwise(rows)} == {4}  # 4 x 4 patches, pooled by 2 x 2
    long = run("train", "--config", "tiny", *overrides(file, tiny, "data.max_length=100000"), "--validate")
    assert long.code == 2 and "fewer than data.max_length" in long.out + long.err
