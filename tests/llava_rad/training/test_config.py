"""Configurations: what ships is what the paper and LLaVA-1.5 say; mistakes are one line that names the key."""

from __future__ import annotations

import pytest

from encoder.backbones.registry import ENCODERS
from encoder.errors import ConfigError
from encoder.runs.config import dump
from llava_rad.training.config import accumulation, load_config, shipped, total_steps, warmup_steps
from llava_rad.training.deepspeed_config import check_compile


def test_what_ships() -> None:
    assert set(shipped()) == {"paper", "paper-lora", "tiny"}
    for name in shipped():
        load_config(name)


def test_paper_is_the_papers_run_with_llavas_values() -> None:
    run = load_config("paper")
    assert run.model.encoder == "microsoft/rad-dino" and run.model.language_model == "lmsys/vicuna-7b-v1.5"
    assert run.lora is None and run.model.projector is None
    assert run.model.recipe is None and ENCODERS["rad-dino"].recipe == "rad-dino", "the encoder's own"
    values = run.optimization
    assert (values.epochs, values.batch_size, values.lr, values.warmup) == (3, 128, 2e-5, 0.03)
    assert (values.weight_decay, values.betas, values.epsilon, values.clip) == (0, (0.9, 0.999), 1e-8, 1.0)
    assert (run.engine.precision, run.engine.deepspeed, run.engine.tf32) == ("bf16", "zero3", True)
    assert run.engine.activation_checkpointing and run.data.max_length == 2048 and run.evaluation.max_new_tokens == 150


def test_the_papers_steps() -> None:
    # report-generation.md 1.2: 3,443 steps in all (1,147.7 an epoch), 104 of them warm-up; the last batch of each of
    # the three epochs is a small one of its own here
    run = load_config("paper")
    steps = total_steps(run, 146_909, 4)
    assert steps == 3 * 1148
    assert warmup_steps(run, steps) == 104
    assert accumulation(run, 4) == 2


def test_lora_is_llavas() -> None:
    run = load_config("paper-lora")
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (128, 256, 0.05)
    assert (run.optimization.lr, run.optimization.projector_lr, run.engine.deepspeed) == (2e-4, 2e-5, "none")
    assert load_config("paper", ["lora={r: 8}"]).lora is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("optimisation.lr=1", "unknown key 'optimisation'"),
        ("optimization.epoch=1", "did you mean 'optimization.epochs'"),
        ("lora.rank=4", "unknown key 'lora.rank'"),
        ("optimization.micro_batch_size=5", "batch_size must be a multiple of optimization.micro_batch_size"),
        ("optimization.lr=0", "optimization.lr = 0 is not allowed"),
        ("engine.precision=fp16", "engine.precision = 'fp16' is not allowed"),
        ("data.pairs=a.jsonl", "data.pairs = 'a.jsonl' is not allowed: a list"),
        ("model.scratch.num_attention_heads=5", "even multiple of its num_attention_heads"),
    ],
)
def test_mistakes_name_the_key(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("paper", [change])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_layers_are_not_compiled_where_their_weights_or_kernels_are_others() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        load_config("tiny", ["engine.compile=true", "engine.liger=true"])
    with pytest.raises(ConfigError, match="does not work with ZeRO-3"):
        check_compile(load_config("paper", ["engine.compile=true"]))
    check_compile(load_config("paper", ["engine.compile=true", "engine.deepspeed=zero2"]))


def test_an_adapter_needs_a_base_that_can_be_named() -> None:
    with pytest.raises(ConfigError, match=r"lora.merge = false needs a base"):
        load_config("tiny", ["lora={merge: false}"])


def test_a_dumped_configuration_reads_back(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    run = load_config("paper-lora", ["data.pairs=[a.jsonl]", "seed=3"])
    (tmp_path / "run.yaml").write_text(dump(run))
    assert load_config(str(tmp_path / "run.yaml")) == run


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple of 16 samples on 3 processes"):
        accumulation(load_config("paper"), 3)
