"""``llava-rad train --validate``: counts, steps, memory and time without training, and every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llava_rad.model.llava_rad import LlavaRad
from llava_rad.training.config import load_config
from llava_rad.training.cost import (
    Sizes,
    cost_of,
    decide_recomputation,
    encoder_parameters,
    language_model_parameters,
)
from llava_rad.training.deepspeed_config import checkpoint_bytes
from tests.llava_rad.conftest import Run
from tests.llava_rad.training import small_pairs


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


VICUNA = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
RAD_DINO = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14, "image_size": 518}
PAPER = Sizes(RAD_DINO, VICUNA, 1369, 1519, 90)
GB = 1e9


def test_parameters_of_the_published_parts() -> None:
    assert language_model_parameters(VICUNA, None) == (6_738_415_616, 0)
    assert encoder_parameters(RAD_DINO) == 86_580_480


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2, "tie_word_embeddings": True}])
def test_parameters_and_operations_are_those_counted_by_hand(changes: dict[str, Any]) -> None:
    llama = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100,
        **changes,
    }  # fmt: skip
    ends = [(32, 32), (32, 32), (32, 48), (32, 48), (48, 32)]  # queries, output, gate, up, down
    ends += [(32, 8 * llama.get("num_key_value_heads", 4))] * 2
    weights = sum(one * other for one, other in ends)
    tables = 100 * 32 * (1 if changes.get("tie_word_embeddings") else 2)
    adapters = 3 * 4 * sum(one + other for one, other in ends)
    config = load_config("paper-lora", ["lora.r=4", "lora.dropout=0"])
    assert config.lora is not None
    assert language_model_parameters(llama, config.lora) == (3 * (weights + 2 * 32) + 32 + tables, adapters)

    sizes = Sizes({"hidden_size": 16, "num_hidden_layers": 2, "parameters": 1000}, llama, 9, 20, 7)
    projector = (16 + 1) * 32 + (32 + 1) * 32
    outside = 3 * (2 * 7 * 100 * 32 + 2 * projector * 9) + 2 * 1000 * 9 + 4 * 16 * 9**2 * 2
    attention = 3 * 4 * 20**2 * 32 / 2  # causal
    for chosen, trained, times in ((config, adapters, 3), (load_config("paper"), 0, 4)):
        forward = 2 * 20 * (3 * weights + trained) + attention
        assert cost_of(chosen, sizes).tera_flops == pytest.approx((times * forward + outside) / 1e12, rel=1e-9)


def test_floating_point_operations_of_a_sample() -> None:
    # 62 TFLOP a sample and 20 more with recomputation, of which the encoder is half a percent
    full = cost_of(load_config("paper"), PAPER, 4)
    kept = cost_of(load_config("paper", ["engine.activation_checkpointing=false"]), PAPER, 4)
    assert kept.tera_flops == pytest.approx(62, rel=0.05)
    assert full.tera_flops - kept.tera_flops == pytest.approx(20, rel=0.05)
    without = cost_of(load_config("paper", ["data.keep_features=true"]), PAPER, 4)
    assert full.tera_flops - without.tera_flops == pytest.approx(0.30, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "gigabytes", "recomputed"),
    [
        # adapters: 20 GB of weights and states, 13.6 GB of activations a sample; 80 % of the memory may be planned for
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=1"], 80, False),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=1"], 40, True),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=4"], 80, True),
        (["lora={}", "engine.deepspeed=none", "optimization.micro_batch_size=4"], 141, False),
        (["engine.activation_checkpointing=true"], 10_000, True),
        (["engine.activation_checkpointing=false"], 1, False),
    ],
    ids=["lora-80", "lora-40", "lora4-80", "lora4-141", "always", "never"],
)
def test_blocks_are_recomputed_only_where_memory_is_short(
    changes: list[str], gigabytes: float, recomputed: bool
) -> None:
    assert load_config("paper").engine.activation_checkpointing == "auto"
    decided = decide_recomputation(load_config("paper", changes), PAPER, 1, int(gigabytes * GB))
    assert decided.engine.activation_checkpointing is recomputed


def test_states_of_the_full_fine_tune() -> None:
    # 16 bytes a parameter are 108 GB; a quarter with ZeRO-3 on four GPUs, 37 GB with ZeRO-2
    def states(*changes: str, processes: int = 4) -> float:
        cost = cost_of(load_config("paper", list(changes)), PAPER, processes)
        return (cost.weights - 2 * cost.encoder) / GB

    assert states(processes=1) == pytest.approx(108, rel=0.01)
    assert states() == pytest.approx(27, rel=0.01)
    # with ZeRO-2 the whole weights stay (13.5), the rest is spread: 13.5 + 94 / 4
    assert states("engine.deepspeed=zero2") == pytest.approx(37, rel=0.01)
    offloaded = cost_of(load_config("paper", ["engine.deepspeed=zero2-offload"]), PAPER, 4)
    assert offloaded.host / GB == pytest.approx(12 * 6.76 / 4, rel=0.01)


def test_logits_are_those_of_the_answers_alone() -> None:
    # 32 samples of 1519 tokens have 6.2 GB of logits in float32; 90 of the tokens have a loss
    cost = cost_of(load_config("paper", ["optimization.micro_batch_size=32"]), PAPER, 4)
    whole = 32 * 1519 * 32000 * 4
    assert whole / GB == pytest.approx(6.2, rel=0.01)
    assert cost.logits == pytest.approx(whole * 90 / 1519 * 10 / 4)


def test_adapters_take_a_fraction_of_it() -> None:
    cost = cost_of(load_config("paper-lora"), PAPER, 1)
    assert cost.trained == 128 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + cost.projector
    assert 2 * 6.74 < cost.weights / GB < 25
