"""Damaged sources are refused in one line, and leave no part of a checkpoint behind."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.errors import LlavaRadError, ModelError
from llava_rad.conversion import parts
from llava_rad.conversion.llava import turn_of
from llava_rad.conversion.published import convert
from llava_rad.generation.engine import Engine
from llava_rad.generation.llama import Llama
from llava_rad.model.templates import MAIRA_2_SYSTEM
from llava_rad.outputs.grounding import Box, Phrase, parse
from tests.encoder.dinov2_models import Evil
from tests.llava_rad.conftest import Run
from tests.llava_rad.conversion import replicas


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of the first shard."""
    shard = min(folder.glob("model-*.safetensors"))
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop(end: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(next(name for name in sorted(tensors) if name.endswith(end)))


def add(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(2)})


HUGGING_FACE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing word weight": (lambda folder: edit(folder, drop("_proj.weight")), "missing keys, first model.layers"),
    "left over": (
        lambda folder: edit(folder, add("language_model.model.extra")),
        "1 unexpected keys, first model.extra",
    ),
    "of no part": (lambda folder: edit(folder, add("adapter.weight")), "1 unexpected keys, first adapter.weight"),
    "left over in the tower": (lambda folder: edit(folder, add("vision_tower.extra.weight")), "extra.weight"),
    "a shard that was not fetched": (lambda folder: max(folder.glob("model-*")).unlink(), "no file model-00002"),
    "a shard cut short": (lambda f: (p := max(f.glob("model-*"))).write_bytes(p.read_bytes()[:-9]), "cannot be read"),
    "an index that points elsewhere": (
        lambda f: edit_json(f / "model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        "outside its folder",
    ),
    "another layer": (lambda f: edit_json(f / "config.json", vision_feature_layer=-3), "vision_feature_layer"),
    "another model": (lambda f: edit_json(f / "config.json", model_type="bert"), "'bert' model"),
    "other preprocessing": (
        lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.1, 0.1]}'),
        "image_mean",
    ),
}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        *zip(HUGGING_FACE, itertools.cycle(["maira-2", "llava-1.5"]), strict=False),  # has no end
        ("another layer", "maira-2"),
        ("another model", "llava-1.5"),
        ("other preprocessing", "maira-2"),
    ],
)
def test_damaged_sources(change: str, kind: str, published: dict[str, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(published[kind], tmp_path / "source"))
    do, message = HUGGING_FACE[change]
    do(source)
    with pytest.raises(ModelError, match=message):
        convert(kind, source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"], "nothing half done is left"


def weights(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = torch.load(path, weights_only=True)
    change(found)
    torch.save(found, path)


LOW_RANK: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a pair": (
        lambda f: weights(f / "adapter_model.bin", lambda t: t.pop(next(n for n in t if "lora_B" in n))),
        "whole pair",
    ),
    "a tensor of the adapter too many": (
        lambda f: weights(f / "adapter_model.bin", lambda t: t.update(extra=torch.ones(1))),
        "unexpected tensor extra",
    ),
    "another rank": (lambda f: edit_json(f / "adapter_config.json", r=8), "rank of 8"),
    "another kind of adapter": (lambda f: edit_json(f / "adapter_config.json", use_dora=True), "use_dora"),
    "no base": (lambda f: edit_json(f / "adapter_config.json", base_model_name_or_path=None), "no base model"),
    "something beside the projector": (
        lambda f: weights(f / "non_lora_trainables.bin", lambda t: t.update({"base_model.lm_head": torch.ones(1)})),
        "unexpected tensor base_model.lm_head",
    ),
    "another layer": (lambda f: edit_json(f / "config.json", mm_vision_select_layer=-1), "mm_vision_select_layer"),
    "no tower": (lambda f: (f / "biomedclipcxr_518_checkpoint.pt").unlink(), "0 files of an image tower"),
    "a tower of another kind": (
        lambda f: torch.save({"visual.conv1.weight": torch.ones(1)}, f / "biomedclipcxr_518_checkpoint.pt"),
        "unexpected keys",
    ),
}


@pytest.mark.parametrize("change", LOW_RANK)
def test_damaged_adapters(change: str, published: dict[str, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(published["llava-rad"], tmp_path / "source"))
    do, message = LOW_RANK[change]
    do(source)
    with pytest.raises(ModelError, match=message):
        convert("llava-rad", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["non_lora_trainables.bin", "adapter_model.bin", "biomedclipcxr_518_checkpoint.pt"])
def test_code_in_a_file_never_runs(
    file: str, published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(shutil.copytree(published["llava-rad"], tmp_path / "source"))
    torch.save({"weight": Evil()}, source / file)
    with pytest.raises(ModelError, match="holds more than tensors"):
        convert("llava-rad", source, tmp_path / "out")
    assert not (tmp_path / "evil-code-ran").exists()


def test_a_full_disk_is_found_before(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 1000))
    size = sum(t.numel() * 2 for path in published["maira-2"].glob("*.safetensors") for t in load_file(path).values())
    with pytest.raises(LlavaRadError, match=f"needs at least {size / 1e6:.0f} MB, its disk has 0 MB"):
        convert("maira-2", published["maira-2"], tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_kept(published: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LlavaRadError, match="exists already"):
        convert("llava-1.5", published["llava-1.5"], tmp_path)
    with pytest.raises(LlavaRadError, match="not converted"):
        convert("gpt", published["llava-1.5"], tmp_path / "out")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_large_models_are_written_in_shards(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SHARD", 20_000)
    convert("llava-rad", published["llava-rad"], tmp_path / "out")
    files = sorted((tmp_path / "out" / "language_model").glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for path in files:
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 20_000
    assert len(Llama.load(tmp_path / "out" / "language_model").tensors()) == 21


def test_the_chat_template_of_the_weights_has_the_last_word(tmp_path: Path) -> None:
    template = {"chat_template": replicas.CHAT.replace("USER: ", " USER:  ")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(template))
    assert turn_of(tmp_path, MAIRA_2_SYSTEM, "it") == "  USER:  {} ASSISTANT: "
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": replicas.CHAT}))
    assert turn_of(tmp_path, MAIRA_2_SYSTEM, "it") == " USER: {} ASSISTANT: "
    (tmp_path / "chat_template.jinja").write_text("Hello {{ messages[0]['content'][0]['text'] }}")
    with pytest.raises(ModelError, match="chat template"):
        turn_of(tmp_path, MAIRA_2_SYSTEM, "it")


def test_tokens_of_boxes_stay_in_the_text_even_if_they_are_special(published: dict[str, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(published["maira-2"], tmp_path / "source"))
    data = json.loads((source / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["special"] = True
    (source / "tokenizer.json").write_text(json.dumps(data))
    convert("maira-2", source, tmp_path / "out")
    tokens = Engine.from_pretrained(tmp_path / "out").tokens
    names = ["<obj>", "<box>", "<x10>", "<y20>", "<x30>", "<y40>", "</box>", "</obj>", "</s>", "<image>"]
    text = tokens.decode([tokens.tokenizer.token_to_id(name) for name in names])
    assert parse(text).phrases == (Phrase("", (Box(0.105, 0.205, 0.305, 0.405),)),)
    next(token for token in data["added_tokens"] if token["content"] == "<x7>")["content"] = "<z7>"
    (source / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match="lacks 1 tokens of boxes, first <x7>"):
        convert("maira-2", source, tmp_path / "again")


def test_command(run: Run, published: dict[str, Path], tmp_path: Path) -> None:
    done = run("convert", "--from", "maira-2", published["maira-2"], tmp_path / "out")
    assert (done.code, done.out) == (0, "")
    assert "MSRLA" in done.err and "https://huggingface.co/microsoft/maira-2" in done.err
    assert f"the checkpoint is in {tmp_path / 'out'}" in done.err
    again = run("convert", "--from", "maira-2", published["maira-2"], tmp_path / "out")
    assert again.code == 1 and "--overwrite" in again.err
    assert run("convert", "--from", "maira-2", published["maira-2"], tmp_path / "out", "--overwrite").code == 0
    assert run("convert", "--from", "maira-2", "a", "b", "--base", "c").code == 2
    assert run("convert", "--from", "other", "a", "b").code == 2
    missing = run("convert", "--from", "llava-rad", "microsoft/llava-rad", tmp_path / "two", "--offline")
    assert missing.code == 5 and "Llama 2" in missing.err and "microsoft/llava-rad is not in" in missing.err
