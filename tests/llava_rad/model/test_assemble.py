"""Assembling from files in the formats in which RAD-DINO and Vicuna are published, and from a LoRA adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES, Recipe
from llava_rad.generation.decoding import generate
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.model.assemble import assemble
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.llava_rad import LlavaRad
from llava_rad.model.prompt import encode_text
from tests.encoder.dinov2_models import Evil
from tests.llava_rad.published import rad_dino_folder, vicuna_folder

SETTINGS = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module", autouse=True)
def small_recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "test-56", Recipe("test-56", 1, 56, "resize-then-minmax", 0.5, 0.25, "tests"))
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("published")
    return rad_dino_folder(folder / "rad-dino"), vicuna_folder(folder / "vicuna")


@pytest.fixture(scope="module")
def assembled(parts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assembled") / "model"
    assemble(*parts, out, recipe="test-56")
    return out


def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 56, 56), dtype=np.uint8))


def test_vicunas_bin_shards_become_a_checkpoint_that_loads(parts: tuple[Path, Path], assembled: Path) -> None:
    model = LlavaRad.from_pretrained(assembled)
    shards: dict[str, torch.Tensor] = {}
    for path in sorted(parts[1].glob("*.bin")):
        shards |= torch.load(path, weights_only=True)
    ours = model.language_model.state_dict()
    expected = {name for name in shards if "inv_freq" not in name}
    assert set(ours) == expected
    assert all(torch.equal(ours[name], shards[name].float()) for name in expected)
    stored = load_file(assembled / "language_model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert len(generate(Engine.from_pretrained(assembled), images(), SETTINGS)) == 3
    assert not list(assembled.rglob("*.bin"))


def test_vicunas_sampling_settings_do_not_survive(assembled: Path) -> None:
    text = (assembled / "language_model" / "generation_config.json").read_text()
    assert "temperature" not in text and "top_p" not in text


def test_tokenizer_json_equals_sentencepiece(parts: tuple[Path, Path], assembled: Path) -> None:
    """Chunk by chunk the ids are those of sentencepiece on the published tokenizer.model."""
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(parts[1] / "tokenizer.model"))
    tokens = Engine.from_pretrained(assembled).tokens
    conversation = load_checked(assembled).conversation
    for text in (
        conversation.before_image,
        conversation.after_image,
        "The heart is normal in size. No effusion.",
        "two  spaces, ümlaut, 3.5 cm",
        "",
    ):
        assert encode_text(tokens.tokenizer, text) == reference.encode(text)
        assert tokens.decode(reference.encode(text)) == text.strip()
    assert (tokens.ids.bos, tokens.ids.eos, tokens.ids.pad) == (1, 2, 0)


def test_projector_is_seeded_or_taken_from_a_file(parts: tuple[Path, Path], assembled: Path, tmp_path: Path) -> None:
    first = load_file(assembled / "projector.safetensors")
    assemble(*parts, tmp_path / "same", recipe="test-56")
    assert all(torch.equal(first[n], t) for n, t in load_file(tmp_path / "same" / "projector.safetensors").items())
    assemble(*parts, tmp_path / "other", recipe="test-56", seed=1)
    other = tmp_path / "other" / "projector.safetensors"
    assert not torch.equal(load_file(other)["linear_1.weight"], first["linear_1.weight"])
    config = assemble(*parts, tmp_path / "taken", recipe="test-56", projector=other)
    assert torch.equal(
        load_file(tmp_path / "taken" / "projector.safetensors")["linear_1.weight"], load_file(other)["linear_1.weight"]
    )
    assert "untrained" in load_checked(assembled).name and "untrained" not in config.name


def test_refusals(parts: tuple[Path, Path], assembled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, vicuna = parts
    with pytest.raises(LlavaRadError, match="no recipe"):
        assemble(encoder, vicuna, tmp_path / "out", recipe="nonsense")
    with pytest.raises(LlavaRadError, match="exists already"):
        assemble(encoder, vicuna, assembled, recipe="test-56")
    with pytest.raises(ModelError, match="not 'dinov2'"):
        assemble(assembled / "language_model", vicuna, tmp_path / "out", recipe="test-56")
    with pytest.raises(ModelError, match="not 'llama'"):
        assemble(encoder, encoder, tmp_path / "out", recipe="test-56")
    monkeypatch.chdir(tmp_path)
    evil = Path(shutil.copytree(vicuna, tmp_path / "evil"))
    torch.save({"model.norm.weight": Evil()}, next(evil.glob("*.bin")))
    with pytest.raises(ModelError):
        assemble(encoder, evil, tmp_path / "out", recipe="test-56")
    assert not (tmp_path / "evil-code-ran").exists()
    short = Path(shutil.copytree(vicuna, tmp_path / "short"))
    shard = next(short.glob("*.bin"))
    tensors = torch.load(shard, weights_only=True)
    del tensors[next(name for name in tensors if name.endswith("_proj.weight"))]
    torch.save(tensors, shard)
    with pytest.raises(ModelError):
        assemble(encoder, short, tmp_path / "out", recipe="test-56")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "adapter_config.json does not name its base model"),
        ({"base_model_name_or_path": 5}, "adapter_config.json does not name its base model"),
        ({"base_model_name_or_path": "/no/such/base"}, "there is no folder /no/such/base"),
        ({}, "the language model BASE has neither tokenizer.json nor tokenizer.model"),
    ],
    ids=["no base", "a number", "no such base", "a base without tokenizer"],
)
def test_an_adapter_without_base_or_tokenizer_is_refused(
    change: dict[str, object], message: str, parts: tuple[Path, Path], assembled: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(assembled / "language_model", base, ignore=shutil.ignore_patterns("tokenizer*"))
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained(base), settings).save_pretrained(adapter)
    content = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": str(base)} | change))
    with pytest.raises(ModelError) as raised:
        assemble(parts[0], adapter, tmp_path / "model", recipe="test-56")
    assert str(raised.value).startswith(message.replace("BASE", str(base))) and raised.value.exit_code == 5
    assert not (tmp_path / "model").exists()


def test_lora_adapter_as_language_model(parts: tuple[Path, Path], assembled: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    base = assembled / "language_model"
    torch.manual_seed(5)
    targets = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    assemble(parts[0], tmp_path / "adapter", tmp_path / "model", recipe="test-56")
    stored = {path.name for path in (tmp_path / "model" / "language_model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= stored
    assert "model.safetensors" not in stored

    model = LlavaRad.from_pretrained(tmp_path / "model")
    engine = Engine.from_pretrained(tmp_path / "model")
    plain = Engine.from_pretrained(assembled)
    ids = model.config.conversation.encode(model.tokens.tokenizer, 1)
    with torch.inference_mode():
        embeds, mask = model.embed(model.config.preprocessing.normalise(np.stack(images())), [ids] * 3)
        # the adapter as PEFT runs it, not merged
        rows = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=12)
    found = [list(draft.ids) for draft in generate(engine, images(), SETTINGS)]
    assert found == [row[: row.index(2)] if 2 in row else row for row in rows.tolist()]
    assert found != [list(draft.ids) for draft in generate(plain, images(), SETTINGS)]

    weights = tmp_path / "model" / "language_model" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    from tests.llava_rad.model.test_checkpoint import rehash

    tensors = load_file(weights)
    del tensors[min(tensors)]
    save_file(tensors, weights, metadata={"format": "pt"})
    rehash(tmp_path / "model")
    with pytest.raises(ModelError, match="adapter"):
        Engine.from_pretrained(tmp_path / "model")
