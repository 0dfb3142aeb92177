"""Files of models of transformers' image-text-to-text class: strict loading, and one line for whatever is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from encoder.errors import ConfigError, ModelError
from llava_rad.generation.found import find
from llava_rad.generation.options import GenerationOptions
from llava_rad.model.templates import Study
from tests.llava_rad import vision_language
from tests.llava_rad.vision_language import FAST, loaded, options

Replica = Callable[[str], Path]


@pytest.fixture
def copied(replica: Replica, tmp_path: Path) -> Path:
    """A copy of the fast family's replica, to be damaged."""
    return Path(shutil.copytree(replica(FAST), tmp_path / "copied"))


def edited(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "code.Model"}},
            "config.json of the model copied names program code",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["code.T", None]}},
            "tokenizer_config.json of the mod",
        ),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "only whole weights are read"),
        ("config.json", {"attn_implementation": "kernels-community/flash-attn"}, "names code of the hub"),
        ("config.json", {"model_type": "llama"}, "no image-text-to-text class for the model copied of type 'llama'"),
        ("config.json", {"model_type": "of_next_year"}, "has no image-text-to-text class"),
        ("config.json", {"model_type": ["gemma3"]}, "has no image-text-to-text class"),
    ],
)
def test_models_with_code_and_of_other_classes_are_refused(
    copied: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edited(copied / file, **changes)
    with pytest.raises(ModelError, match=message) as raised:
        loaded(copied)
    assert "\n" not in str(raised.value)


def test_an_older_transformers_without_the_class_is_one_line(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from transformers.models.auto import modeling_auto

    monkeypatch.delitem(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "gemma3")
    with pytest.raises(ModelError, match=f"transformers {transformers.__version__} has no .* of type 'gemma3'"):
        loaded(copied)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "copied holds no config.json"),
        ("processor_config.json", "has no image processor"),
        ("tokenizer.json", "has no tokenizer"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_a_missing_file_is_named(copied: Path, file: str, message: str) -> None:
    (copied / file).unlink()
    with pytest.raises(ModelError, match=message):
        loaded(copied)


def test_a_damaged_configuration_is_not_taken_for_a_checkpoint_of_this_project(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json of the checkpoint is not valid"):
        find(options(copied))


def test_pickled_weights_and_adapters_are_not_read(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights in safetensors files"):
        loaded(copied)
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "pytorch_model.bin"}}))
    with pytest.raises(ModelError, match=r"names pytorch_model\.bin; only safetensors"):
        loaded(copied)
    index.unlink()
    (copied / "pytorch_model.bin").rename(copied / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match="or the index of its parts"):
        loaded(copied)
    (copied / "model-00001-of-00001.safetensors").rename(copied / "model.safetensors")
    (copied / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    with pytest.raises(ModelError, match="holds an adapter"):
        loaded(copied)


def test_a_missing_and_a_left_over_tensor_are_refused(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    changes: list[tuple[dict[str, Any], str]] = [
        ({key: tensor for key, tensor in tensors.items() if key != name}, "lacks 1 tensors"),
        ({**tensors, "odd.weight": tensors[name].clone()}, "has left over 1 tensors, for example odd.weight"),
        ({**tensors, name: tensors[name][1:].clone()}, f"has 1 tensors of another shape, for example .*{name[-20:]}"),
    ]
    for changed, message in changes:
        save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            loaded(copied)
    (copied / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match="copied"):
        loaded(copied)


def test_shards_must_be_those_of_the_index(tmp_path: Path) -> None:
    folder = vision_language.make(tmp_path / "sharded", FAST, shard="60KB")
    vision_language.profile(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    settings = options(folder)
    digest = find(settings).verify()
    assert loaded(folder)[0].sha256 == digest
    moved = next(name for name, file in index["weight_map"].items() if file == files[0])
    for change, message in (
        ({moved: files[1]}, "unlike model.safetensors.index.json says"),
        ({moved: "../elsewhere.safetensors"}, "names a file outside its folder"),
        ({"odd.weight": files[0]}, "the tensor odd.weight is not in"),
    ):
        edited(folder / "model.safetensors.index.json", weight_map={**index["weight_map"], **change})
        with pytest.raises(ModelError, match=message):
            find(settings).verify()
    edited(folder / "model.safetensors.index.json", weight_map=index["weight_map"])
    (folder / files[0]).unlink()
    with pytest.raises(ModelError, match=f"lacks its file {files[0]}"):
        find(settings).verify()


def test_files_and_profile_are_part_of_the_hash(copied: Path) -> None:
    settings = options(copied)
    before = find(settings).verify()
    vision_language.profile(copied, instruction="Describe it.")
    other = find(settings).verify()
    edited(copied / "generation_config.json", repetition_penalty=1.1)
    assert len({before, other, find(settings).verify()}) == 3


def test_options_of_other_models_are_refused(replica: Replica, tiny: Path) -> None:
    for more, message in ({"compile": True}, "--compile"), ({"vllm_python": "python"}, "--vllm-python"):
        with pytest.raises(ConfigError) as raised:
            loaded(replica(FAST), **more)
        assert message in (raised.value.hint or "")
    with pytest.raises(ConfigError, match="takes no profile"):
        find(GenerationOptions(model=tiny, profile="generic"))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "maira2", "auto_map": {}}, "maira-2"),
        ({"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "llava-1.5"),
        ({"model_type": "llava_llama", "mm_vision_tower": "biomedclip_cxr_518"}, "llava-rad"),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, "llava-1.5"),
    ],
)
def test_models_that_are_converted_say_so(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"the model is {kind} in its published form") as raised:
        find(GenerationOptions(model=tmp_path))
    assert f"llava-rad convert --from {kind} " in (raised.value.hint or "")


def test_a_repository_of_the_hub_is_recognised_by_its_config(
    replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str], bool]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, allow_patterns, local_files_only))
        return str(replica(FAST))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = find(GenerationOptions(model="google/medgemma-4b-it", revision="main", offline=True))
    assert (found.config.name, asked) == ("medgemma-4b-it", [("google/medgemma-4b-it", ["config.json"], True)])
    model = found.load(GenerationOptions(model="google/medgemma-4b-it", device="cpu"))
    assert (model.model_id, model.revision) == ("google/medgemma-4b-it", "main")
    assert all(offline for _, _, offline in asked) and "*.safetensors" in asked[-1][1]
    assert found.config.content(Study())[1:] == [0], "MedGemma's card has the words before the image"
