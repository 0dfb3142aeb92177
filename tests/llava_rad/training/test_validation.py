"""``llava-rad train --validate``: counts, steps, memory and time without training, and every problem at once."""

from __future__ import annotations

from pathlib import Path

from llava_rad.model.llava_rad import LlavaRad
from llava_rad.training.config import load_config
from llava_rad.training.deepspeed_config import checkpoint_bytes
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import small_pairs
from tests.llava_rad.training.test_cost import RAD_DINO, VICUNA


def test_a_run_in_words(run: Run, pairs: Path, tiny: Path) -> None:
    done = run("train", "--config", "tiny", "--validate", *small_pairs.overrides(pairs, tiny))
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "train 8 8 146,909 images" in lines and "val 4 4 7,250 images" in lines
    assert "batch 4 samples: 2 at a time, 2 times, on 1 process" in lines
    assert any(line.startswith("schedule 4 steps, 2.0 passes; learning rate 0.001 after 1 steps") for line in lines)
    whole = LlavaRad.from_pretrained(tiny)
    counts = [sum(value.numel() for value in part.parameters()) for part in whole.children()]
    expected = "encoder {:,}, projector {:,}, language model {:,}".format(*counts)
    assert any(expected in line for line in lines), expected
    assert any(line.startswith("time about") and "TFLOP/s measured here" in line for line in lines)
    assert not Path("runs").exists()


def test_a_table_that_cannot_be_read_is_one_error(run: Run, pairs: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("image,findings,split\n0.png,Lungs, clear,train\n")
    changes = [text for text in small_pairs.overrides(pairs, tiny) if not text.startswith(("data.pairs", "model."))]
    done = run("train", "--config", "tiny", "--validate", *changes, f"data.pairs=[{tmp_path / 'cells.csv'}]")
    assert done.code == 2 and done.err.count("error:") == 1 and "row 1 has 4 of 3 cells" in done.err


def test_published_parts_are_sized_by_their_configuration_files_alone(run: Run, pairs: Path, tmp_path: Path) -> None:
    import json

    for name, config in (
        ("rad-dino", {"model_type": "dinov2", **RAD_DINO}),
        ("vicuna", {"model_type": "llama", **VICUNA}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "bos_token_id": 1, "eos_token_id": 2}))
    from llava_rad.training.initial import train_tokenizer

    train_tokenizer([*small_pairs.REPORTS] * 5, 600).save(str(tmp_path / "vicuna" / "tokenizer.json"))
    (tmp_path / "vicuna" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    done = run(
        "train", "--config", "paper", "--validate", "--processes", "4", f"data.pairs=[{pairs}]",
        f"model.encoder={tmp_path / 'rad-dino'}", f"model.language_model={tmp_path / 'vicuna'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "encoder 86,580,480, projector 19,931,136, language model 6,738,415,616" in done.out
    assert "trained 6,758,346,752" in done.out and "on 4 like this one" in done.out
    assert "128 samples: 16 at a time, 2 times, on 4 processes" in done.out
    assert "checkpoints 81.1 GB each, up to 3 at a time" in done.out  # 12 bytes for each trained parameter


def test_checkpoints_of_7b() -> None:
    """Counted by hand; the files of small runs have these sizes (``test_deepspeed.py``)."""
    parameters = 6_738_415_616
    for changes, size in (
        (["engine.deepspeed=zero3"], 80.9),
        (["engine.deepspeed=zero2"], 94.3),
        (["engine.deepspeed=zero2", "engine.precision=fp32"], 107.8),
        (["engine.deepspeed=none"], 80.9),
    ):
        assert round(checkpoint_bytes(load_config("paper", changes), parameters) / 1e9, 1) == size
    lora = load_config("paper-lora", ["engine.deepspeed=zero3"])
    assert checkpoint_bytes(lora, 1000, parameters) == 12 * 1000 + 2 * parameters


def test_problems_are_listed_together_and_say_what_to_do(run: Run, tmp_path: Path) -> None:
    done = run(
        "train", "--config", "paper", "--validate", "--processes", "3", "--offline", "data.pairs=[none.jsonl]",
        "engine.deepspeed=zero9", "model.encoder=not/there",
    )  # fmt: skip
    assert done.code == 2
    assert "engine.deepspeed = 'zero9' is neither" in done.err
    assert "data.pairs: the table of pairs does not exist" in done.err
    assert "not/there is not in" in done.err and "or give a local folder instead of not/there" in done.err


def test_missing_images_are_seen_before_the_run(run: Run, tmp_path: Path, tiny: Path) -> None:
    table = small_pairs.make(tmp_path, 4, 1)
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").unlink()
    done = run("train", "--config", "tiny", "--validate", *small_pairs.overrides(table, tiny))
    assert done.code == 2 and "3 of 5 image files that were decoded cannot be read: missing 3" in done.err


def test_show_prints_all_of_the_configuration(run: Run) -> None:
    done = run("train", "--config", "paper", "--show", "seed=7")
    assert done.code == 0 and "seed: 7" in done.out and "micro_batch_size: 16" in done.out


def test_processes_are_only_for_validate(run: Run) -> None:
    assert run("train", "--processes", "2").code == 2


def test_weights_that_cannot_be_had_end_with_5(run: Run, pairs: Path, tmp_path: Path) -> None:
    done = run(
        "train",
        "--config",
        "paper",
        "--offline",
        f"data.pairs=[{pairs}]",
        "engine.deepspeed=none",
        "-o",
        tmp_path / "r",
    )
    assert done.code == 5 and "microsoft/rad-dino is not in" in done.err
    done = run("train", "--config", "paper", f"data.pairs=[{pairs}]", "engine.deepspeed=none", "engine.liger=true",
               f"model.checkpoint={tmp_path}", "-o", tmp_path / "r2")  # fmt: skip
    assert done.code == 5 and "config.json" in done.err
