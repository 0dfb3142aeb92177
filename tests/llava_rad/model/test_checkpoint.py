"""The directory format: round trip, and every kind of damage refused before a weight is used (exit code 5)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.errors import LlavaRadError, ModelError
from encoder.files import sha256_of
from llava_rad.generation.engine import Engine
from llava_rad.model.checkpoint import load_checked, locate
from llava_rad.model.llava_rad import LlavaRad
from tests.encoder.dinov2_models import Evil

pytestmark = [pytest.mark.acceptance(row=7), pytest.mark.acceptance(row=20)]


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit_config(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def rehash(folder: Path) -> None:
    """Make the list of hashes fit the changed files, as an attacker would."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("README.md",)]
    names = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in files
        if path.parent != folder or path.suffix == ".safetensors"
    }
    edit_config(folder, lambda config: config.update(files=names))


def test_round_trip_is_bit_equal(tiny: Path, tmp_path: Path) -> None:
    first = LlavaRad.from_pretrained(tiny)
    first.save_pretrained(tmp_path / "again")
    second = LlavaRad.from_pretrained(tmp_path / "again")
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert load_checked(tmp_path / "again").files == load_checked(tiny).files


def test_every_part_is_a_standard_artefact(tiny: Path) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    for part, auto in (("encoder", AutoModel), ("language_model", AutoModelForCausalLM)):
        _, report = auto.from_pretrained(tiny / part, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tiny / "language_model")
    assert tokenizer.bos_token_id == 1 and tokenizer.eos_token_id == 2
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tiny / "projector.safetensors").items()}
    assert shapes == {
        "linear_1.weight": (32, 24),
        "linear_1.bias": (32,),
        "linear_2.weight": (32, 32),
        "linear_2.bias": (32,),
    }


# --- damage: reliability table, row 20 -------------------------------------------------------------------------------


def flip_a_bit(folder: Path) -> None:
    path = folder / "language_model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = folder / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def drop_a_tensor(folder: Path) -> None:
    path = folder / "language_model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    rehash(folder)


def swap_files(folder: Path) -> None:
    one, two = folder / "encoder" / "model.safetensors", folder / "language_model" / "model.safetensors"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    rehash(folder)


def evil_pickle(folder: Path) -> None:
    (folder / "language_model" / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, folder / "language_model" / "pytorch_model.bin")
    rehash(folder)


def remote_code(folder: Path) -> None:
    path = folder / "language_model" / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    path.write_text(json.dumps(config))
    (folder / "language_model" / "evil.py").write_text("from pathlib import Path\nPath('evil-code-ran').touch()\n")
    rehash(folder)


def missing_file(folder: Path) -> None:
    (folder / "projector.safetensors").unlink()


def file_too_many(folder: Path) -> None:
    (folder / "language_model" / "extra.bin").write_bytes(b"x")


def outside(folder: Path) -> None:
    edit_config(folder, lambda config: config["files"].update({"../elsewhere": "0" * 64}))


def no_recipe(folder: Path) -> None:
    edit_config(folder, lambda config: config.pop("recipe"))


def other_format(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(format="llava-rad/99"))


def unknown_key(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(surprise=1))


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def wrong_tokens(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(image_tokens=17))


def half_a_projector(folder: Path) -> None:
    tensors = load_file(folder / "projector.safetensors")
    del tensors["linear_2.bias"]
    save_file(tensors, folder / "projector.safetensors")
    rehash(folder)


def of_the_encoder(**values: object) -> Callable[[Path], None]:
    """Values of another kind in the encoder's ``config.json``."""

    def damage(folder: Path) -> None:
        path = folder / "encoder" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        rehash(folder)

    damage.__name__ = "encoder " + " ".join(f"{name} {value!r}" for name, value in values.items())
    return damage


def no_name(folder: Path) -> None:
    edit_config(folder, lambda config: config["recipe"].update(name={}))


DAMAGE = [
    *(of_the_encoder(model_type=value) for value in ([], {})),
    *(of_the_encoder(num_hidden_layers=value) for value in ("x", float("inf"), [[1]], None)),
    of_the_encoder(patch_size=[]),
    no_name,
    flip_a_bit,
    truncate,
    drop_a_tensor,
    swap_files,
    evil_pickle,
    remote_code,
    missing_file,
    file_too_many,
    outside,
    no_recipe,
    other_format,
    unknown_key,
    not_json,
    wrong_tokens,
    half_a_projector,
]


@pytest.mark.parametrize("load", [Engine.from_pretrained, LlavaRad.from_pretrained], ids=["Engine", "LlavaRad"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_refused(
    damage: Callable[[Path], None],
    load: Callable[[Path], object],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(checkpoint)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load(checkpoint)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil-code-ran").exists()


def test_an_undamaged_copy_loads(checkpoint: Path) -> None:
    """The counterpart of the tests above: rehashing alone does not make a checkpoint unreadable."""
    rehash(checkpoint)
    Engine.from_pretrained(checkpoint)
    LlavaRad.from_pretrained(checkpoint)


def test_writing_refuses_to_replace_and_leaves_no_half(tiny: Path, tmp_path: Path) -> None:
    model = LlavaRad.from_pretrained(tiny)
    target = tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(LlavaRadError, match="exists already"):
        model.save_pretrained(target)
    assert (target / "notes.txt").read_text() == "mine"
    model.save_pretrained(target, force=True)
    assert not (target / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    model.language_model.save_pretrained = lambda folder: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_missing_folder_and_missing_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no folder"):
        locate(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_checked(tmp_path)
    monkeypatch.setattr("llava_rad.model.checkpoint.DEMO", tmp_path)
    with pytest.raises(ModelError, match="embedded") as caught:
        locate(None)
    assert "--model" in str(caught.value.hint)
