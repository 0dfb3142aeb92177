"""Language models that would be computed wrongly, damaged files, pointers: one line wherever they are loaded."""

from __future__ import annotations

import json
import pickle  # writes the hostile file that is to be refused
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from encoder.errors import ModelError
from encoder.preprocessing import RECIPES, Recipe
from llava_rad.generation.llama import Llama
from llava_rad.model.assemble import assemble, check_length
from llava_rad.model.config import check_language_model, positions, rope_of
from llava_rad.model.llava_rad import load_llama
from tests.llava_rad.conftest import Run
from tests.llava_rad.model.test_checkpoint import Evil
from tests.llava_rad.published import rad_dino_folder, vicuna_folder

VICUNA: dict[str, Any] = {
    # lmsys/vicuna-7b-v1.5, config.json
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
REFUSED: dict[str, dict[str, Any]] = {
    "attention bias": {"attention_bias": True},
    "MLP bias": {"mlp_bias": True},
    "another activation": {"hidden_act": "gelu"},
    "sliding window": {"sliding_window": 4096},
    "Llama 3.1's scaling": {"rope_scaling": LLAMA3},
    "Llama 3.1's scaling, transformers 5": {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    "dynamic scaling": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "YaRN": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    "half of each head": {"partial_rotary_factor": 0.5},
    "half of each head, transformers 5": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "scaling by layer": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "two kinds of scaling": {
        "rope_parameters": {"rope_type": "default"},
        "rope_scaling": {"type": "linear", "factor": 2},
    },
    "tensor parallel pre-training": {"pretraining_tp": 2},
    "quantised": {"quantization_config": {"quant_method": "gptq"}},
    "another model": {"model_type": "mistral"},
    "no width": {"hidden_size": None},
    "a width in words": {"hidden_size": "4096"},
    "heads that do not divide the width": {"num_attention_heads": 33, "num_key_value_heads": 33},
    "odd heads": {"head_dim": 127},
    "grouped heads that do not divide": {"num_key_value_heads": 5},
    "positions in words": {"max_position_embeddings": "4096"},
    "a billion layers": {"num_hidden_layers": 1_000_000_000},
    "a width beyond any": {"hidden_size": 1 << 62, "num_attention_heads": 2, "num_key_value_heads": 2},
    "an epsilon that is none": {"rms_norm_eps": float("nan")},
    "a vocabulary of both": {"vocab_size": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_variant_that_is_not_read_is_refused_where_it_is_assembled_and_where_it_runs(
    name: str, tmp_path: Path
) -> None:
    config = VICUNA | REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (
        lambda: check_language_model(config),
        lambda: load_llama(tmp_path, "the language model", dtype="auto"),
        lambda: Llama(config, {}),
    ):
        with pytest.raises(ModelError) as caught:
            load()
        assert "\n" not in str(caught.value) and "lacks the tensor" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "theta", "longest"),
    [
        ({}, 10000.0, 4096),
        ({"rope_theta": 500000.0}, 500000.0, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 10000.0, 8192),
        ({"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 5.0}}, 5.0, 6144),
        ({"num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True}, 10000.0, 4096),
        ({"attention_bias": None, "sliding_window": None, "num_key_value_heads": None}, 10000.0, 4096),
    ],
)
def test_variants_that_are_read(change: dict[str, Any], theta: float, longest: int) -> None:
    config = VICUNA | change
    check_language_model(config)
    assert rope_of(config)[0] == theta and positions(config) == longest


def test_image_prompt_and_report_must_fit() -> None:
    """RAD-DINO's 37 x 37 patches of 518 px, 60 tokens of a prompt, 150 of a report: 1,579."""
    check_length(1369, 60, 150, VICUNA | {"max_position_embeddings": 1579})
    with pytest.raises(ModelError, match="1,578 positions, too few for 1,369 image tokens, 60 of the prompt and 150"):
        check_length(1369, 60, 150, VICUNA | {"max_position_embeddings": 1578})


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 499723\n"
BIN = "pytorch_model-00001-of-00002.bin"


def evil_zip(path: Path) -> None:
    torch.save({"model.norm.weight": Evil()}, path)


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "tokenizer pointer": ("tokenizer.model", POINTER, "tokenizer.model is a Git LFS pointer"),
    "tokenizer of nothing": ("tokenizer.model", b"", "tokenizer.model of"),
    "tokenizer is a page": ("tokenizer.model", b"<!doctype html><title>404</title>", "tokenizer.model of"),
    "tokenizer cut": ("tokenizer.model", 0.5, "tokenizer.model of"),
    "tokenizer.json": ("tokenizer.json", b"{", "tokenizer.json of"),
    "tokenizer.json pointer": ("tokenizer.json", POINTER, "tokenizer.json is a Git LFS pointer"),
    "config": ("config.json", b"{", "config.json of"),
    "config pointer": ("config.json", POINTER, "config.json is a Git LFS pointer"),
    "weights pointer": (BIN, POINTER, f"{BIN} is a Git LFS pointer"),
    "weights cut": (BIN, 0.5, "could not be loaded"),
    "weights of nothing": (BIN, b"", "cut short"),
    "code in the weights": (BIN, evil_zip, "damaged, or holds more than tensors"),
    "code in a bare pickle": (BIN, pickle.dumps({"a": Evil()}), "damaged, or holds more than tensors"),
    "safetensors pointer": ("model.safetensors", POINTER, "model.safetensors is a Git LFS pointer"),
    "safetensors": ("model.safetensors", b"\0" * 64, "could not be loaded"),
    "index": ("pytorch_model.bin.index.json", b"{", "could not be loaded"),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("published")
    return rad_dino_folder(folder / "rad-dino"), vicuna_folder(folder / "vicuna")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line_without_torchs_advice(
    name: str, parts: tuple[Path, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "test-56", Recipe("test-56", 1, 56, "resize-then-minmax", 0.5, 0.25, "tests"))
    folder = Path(shutil.copytree(parts[1], tmp_path / "vicuna"))
    file, change, expected = DAMAGE[name]
    if callable(change):
        change(folder / file)
    elif isinstance(change, float):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * change)])
    else:
        (folder / file).write_bytes(change)
    done = run("assemble", "--encoder", parts[0], "--language-model", folder, tmp_path / "out", "--recipe", "test-56")
    lines = [line for line in done.err.splitlines() if not line.startswith("  hint: ")]
    assert done.code == 5 and len(lines) == 1 and lines[0].startswith("llava-rad: error: "), done.err
    assert expected in lines[0] and "weights_only" not in done.err and "tiktoken" not in done.err
    assert not (tmp_path / "evil-code-ran").exists() and not (tmp_path / "out").exists()


def test_assembling_prints_nothing_of_libraries_and_what_it_makes_runs(
    parts: tuple[Path, Path], tmp_path: Path, run: Run, chest: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "test-56", Recipe("test-56", 1, 56, "resize-then-minmax", 0.5, 0.25, "tests"))
    done = run("assemble", "--encoder", parts[0], "--language-model", parts[1], tmp_path / "m", "--recipe", "test-56")
    assert done.code == 0 and [line[:10] for line in done.err.splitlines()] == ["llava-rad:"], done.err
    written = run("generate", chest[0], "--model", tmp_path / "m")
    assert written.code == 0, written.err


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
        {"tie_word_embeddings": True},
        {"head_dim": 24},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_assembled_runs_and_writes_what_transformers_writes(
    change: dict[str, Any], parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava_rad.generation.decoding import generate
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding
    from llava_rad.model.llava_rad import LlavaRad

    monkeypatch.setitem(RECIPES, "test-56", Recipe("test-56", 1, 56, "resize-then-minmax", 0.5, 0.25, "tests"))
    words = json.loads((parts[1] / "config.json").read_text())
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    torch.manual_seed(0)
    usual = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.4}
    LlamaForCausalLM(LlamaConfig(**{key: words[key] for key in keys} | usual | change)).save_pretrained(tmp_path / "lm")
    shutil.copy(parts[1] / "tokenizer.model", tmp_path / "lm")
    shutil.copy(parts[1] / "tokenizer_config.json", tmp_path / "lm")
    assemble(parts[0], tmp_path / "lm", tmp_path / "m", recipe="test-56")
    images = list(np.random.default_rng(0).integers(0, 256, (2, 56, 56), dtype=np.uint8))
    drafts = generate(Engine.from_pretrained(tmp_path / "m"), images, Decoding(max_new_tokens=8))
    found = [list(one.ids) for one in drafts]
    model = LlavaRad.from_pretrained(tmp_path / "m")
    prompt = model.config.conversation.encode(model.tokens.tokenizer, 1)
    with torch.inference_mode():
        embeds, mask = model.embed(model.config.preprocessing.normalise(np.stack(images)), [prompt] * 2)
        rows = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=8).tolist()
    assert found == [row[: row.index(2)] if 2 in row else row for row in rows]


def test_a_model_of_too_few_positions_is_not_assembled(parts: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts[1], tmp_path / "vicuna"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 200}))
    with pytest.raises(ModelError, match="the language model has 200 positions, too few for 256 image tokens"):
        assemble(parts[0], folder, tmp_path / "out", recipe="rad-dino-224")
    assert not (tmp_path / "out").exists()
