"""Encoders are identified by registered name, model_type or tensor names; everything else is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.backbones import loading
from encoder.backbones import registry as baselines
from encoder.backbones.biovil_t import FILE, BioVilT
from encoder.backbones.clip import Clip
from encoder.backbones.dinov2 import RadDino, VisionTransformer
from encoder.backbones.loading import in_fastest_form, load_encoder, load_stored, load_vision, sizes
from encoder.backbones.registry import LAST_LAYER
from encoder.backbones.timm_vit import TimmVit
from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import recipe_named
from tests.encoder.backbones import published
from tests.encoder.dinov2_models import Evil, dinov2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny publication of each kind."""
    pytest.importorskip("open_clip")
    top = tmp_path_factory.mktemp("published")
    return {
        "clip": published.clip_folder(top / "clip"),
        "clip-bin": published.clip_folder(top / "clip-bin", pickled=True),
        "chexzero": published.chexzero_file(top / "chexzero.pt"),
        "biomedclip": published.biomedclip_folder(top / "biomedclip"),
        "mrm": published.mrm_file(top / "MRM.pth"),
        "biovil-t": published.biovil_t_file(top / "biovil" / FILE).parent,
    }


@pytest.mark.parametrize(
    ("make", "family", "recipe"),
    [
        ("clip", Clip, "clip-28"),
        ("chexzero", Clip, "chexzero"),
        ("biomedclip", TimmVit, "biomedclip"),
        ("mrm", TimmVit, "mrm-448"),
        ("biovil-t", BioVilT, "biovil-t"),
    ],
)
def test_contents_decide(make: str, family: type, recipe: str, made: dict[str, Path], tmp_path: Path) -> None:
    """Folders and files carry misleading names here."""
    source = made[make]
    if source.is_dir():
        place = Path(shutil.copytree(source, tmp_path / "rad-dino-dinov2-mrm"))
    else:
        place = Path(shutil.copy(source, tmp_path / "openai-clip-biovil.pt"))
    found = load_encoder(place)
    assert type(found) is family and found.recipe == recipe
    if source.is_file():  # alone in a folder
        assert type(load_encoder(tmp_path)) is family


def test_a_folder_of_biovil_t_with_its_text_model_beside_it(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["biovil-t"], tmp_path / "repository"))
    (folder / "config.json").write_text(json.dumps({"architectures": ["CXRBertModel"], "hidden_size": 768}))
    torch.save({"bert": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert load_encoder(folder).recipe == "biovil-t"
    assert load_encoder(folder, kind="biovil-t-resnet").width == 2048


def test_names_and_repositories(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the table, its repository, and an own kind for another one."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    places = {
        "openai/clip-vit-large-patch14": made["clip"],
        "openai/clip-vit-large-patch14-336": made["clip-bin"],
        "microsoft/BiomedVLP-BioViL-T": made["biovil-t"],
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": made["biomedclip"],
        "someone/clip": made["clip"],
    }

    def fetch(source: object, *, patterns: tuple[str, ...], revision: str | None, offline: bool) -> Path:
        asked.append((str(source), patterns))
        assert revision == "v1" and offline
        return places[str(source)]

    monkeypatch.setattr(loading, "fetch", fetch)
    for name, width in (
        ("clip-vit-large-patch14", 64),
        ("openai/clip-vit-large-patch14-336", 64),
        ("clip-vit-large-patch14-336", 64),
        ("biovil-t", 16),
        ("biovil-t-resnet", 2048),
        ("microsoft/BiomedVLP-BioViL-T", 16),
        ("biomedclip", 128),
        ("someone/clip", 64),
    ):
        asked.clear()
        assert load_encoder(name, revision="v1", offline=True).width == width
        assert {source for source, _ in asked} == {getattr(baselines.ENCODERS.get(name), "repository", name)}
        wanted = {pattern for _, patterns in asked for pattern in patterns}
        assert "*" not in wanted and not any("tf_model" in pattern or "text" in pattern for pattern in wanted)


def test_what_is_not_on_the_hub_says_where_it_is() -> None:
    for name, place in (("chexzero", "Google Drive"), ("mrm", "RL4M/MRM-pytorch")):
        with pytest.raises(ModelError, match=place) as caught:
            load_encoder(name)
        assert f"--encoder FILE --encoder-kind {name}" in str(caught.value.hint)
    with pytest.raises(LlavaRadError, match="no encoder 'resnet'") as refused:
        load_encoder("anything", kind="resnet")
    assert "biomedclip" in str(refused.value.hint)


def test_dinov2_and_its_recipes(tmp_path: Path) -> None:
    dinov2(size=518).save_pretrained(tmp_path / "plain")
    assert load_encoder(tmp_path / "plain").recipe == "rad-dino"
    assert load_encoder(tmp_path / "plain", kind="dinov2-base").recipe == "dinov2-518"
    folder = Path(shutil.copytree(tmp_path / "plain", tmp_path / "facebook"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.485, 0.456, 0.406]}))
    encoder = load_encoder(folder)
    assert encoder.recipe == "dinov2-518"
    encoder.save_pretrained(tmp_path / "stored")
    assert load_stored(tmp_path / "stored").recipe == load_encoder(tmp_path / "stored").recipe == "dinov2-518"
    shutil.copytree(tmp_path / "plain", tmp_path / "run" / "export")
    assert load_encoder(tmp_path / "run").recipe == "rad-dino"


RAD_DINO = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}


@pytest.mark.parametrize(
    ("native", "processor", "recipe"),
    [
        (112, None, "rad-dino-112"),
        (518, RAD_DINO, "rad-dino"),
        (56, {**RAD_DINO, "size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}, "rad-dino-112"),
        (518, {"size": 224, "crop_size": 224}, "rad-dino-224"),
        (518, {**RAD_DINO, "size": {"height": 224, "width": 224}}, "rad-dino-224"),
        (518, {"image_mean": [0.485, 0.456, 0.406], "size": {"shortest_edge": 256}, "crop_size": 224}, "dinov2-518"),
        (224, {"image_mean": [0.485, 0.456, 0.406]}, "dinov2-224"),
        (518, {"preprocessing_recipe": "rad-dino-56"}, "rad-dino-56"),
        (None, {**RAD_DINO, "crop_size": 112}, "rad-dino-112"),
        (None, None, ""),
        ("big", None, ""),
        (518, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}, ""),
        (518, {**RAD_DINO, "size": {"shortest_edge": 256}, "crop_size": 224}, ""),
        (518, {**RAD_DINO, "size": [224, 256]}, ""),
        (518, {**RAD_DINO, "size": "large"}, ""),
    ],
)
def test_folders_that_name_no_recipe(native: object, processor: object, recipe: str, tmp_path: Path) -> None:
    """As exported by version 0.2.0 and published by others: the files' size counts, and no size is guessed."""
    config = {"model_type": "dinov2", "patch_size": 14} | ({} if native is None else {"image_size": native})
    (tmp_path / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert sizes(tmp_path).recipe == RadDino.own_recipe(tmp_path) == recipe
    if not recipe:
        with pytest.raises(ModelError, match="do not state its preprocessing recipe") as caught:
            recipe_named(sizes(tmp_path).recipe)
        assert "--recipe" in str(caught.value.hint)


def test_a_damaged_processor_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "patch_size": 14, "image_size": 518}))
    (tmp_path / "preprocessor_config.json").write_text('{"size": ')
    with pytest.raises(ModelError, match=r"preprocessor_config.json of the encoder cannot be read"):
        sizes(tmp_path)


def test_dinov2_giant_is_run_by_its_own_network(tmp_path: Path) -> None:
    """SwiGLU: the fast form does not read it, transformers does."""
    RadDino(dinov2(use_swiglu_ffn=True), "dinov2-518").save_pretrained(tmp_path)
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    found = load_vision(tmp_path, size=56, device="cpu", dtype=torch.float32)
    assert isinstance(found, RadDino)
    torch.testing.assert_close(found(images).patches, RadDino.from_pretrained(tmp_path)(images).patches)
    RadDino(dinov2()).save_pretrained(tmp_path)
    assert isinstance(load_vision(tmp_path, size=56, device="cpu", dtype=torch.float32), VisionTransformer)


def test_features_must_be_those_that_the_checkpoint_names(made: dict[str, Path], tmp_path: Path) -> None:
    load_encoder(made["clip"]).save_pretrained(tmp_path / "clip")
    with pytest.raises(ModelError, match="after the final LayerNorm"):
        load_vision(tmp_path / "clip", size=28, device="cpu", dtype=torch.float32)
    RadDino(dinov2()).save_pretrained(tmp_path / "dinov2")
    with pytest.raises(ModelError, match="before any final"):
        load_vision(tmp_path / "dinov2", size=56, device="cpu", dtype=torch.float32, features=LAST_LAYER)


# --- a missing, a left-over and a mis-shaped tensor -----------------------------------------------------------------

VICTIMS = {
    "clip": "vision_model.post_layernorm.weight",
    "clip-bin": "vision_model.encoder.layers.1.mlp.fc2.bias",
    "chexzero": "visual.transformer.resblocks.1.attn.in_proj_weight",
    "biomedclip": "visual.trunk.blocks.1.mlp.fc1.weight",
    "mrm": "norm.weight",
    "biovil-t": "encoder.encoder.layer3.0.bn2.running_var",
}


def weights(source: Path) -> Path:
    if source.is_file():
        return source
    return next(path for path in source.iterdir() if path.suffix in (".safetensors", ".pt", ".bin"))


def altered(source: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    place = Path(shutil.copytree(source, to / source.name) if source.is_dir() else shutil.copy(source, to))
    path = weights(place)
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        published.change_pickle(path, change)
    return place


@pytest.mark.parametrize("make", sorted(VICTIMS))
def test_missing_left_over_and_misshapen_tensors_are_refused(make: str, made: dict[str, Path], tmp_path: Path) -> None:
    name = VICTIMS[make]
    extra = "visual.trunk.extra" if make == "biomedclip" else "encoder.encoder.extra" if make == "biovil-t" else "extra"
    changes: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "missing": lambda tensors: tensors.pop(name),
        "unexpected": lambda tensors: tensors.update({extra: torch.zeros(1)}),
        "unknown tower": lambda tensors: tensors.update({"audio_model.weight": torch.zeros(1)}),
        "misshapen": lambda tensors: tensors.update({name: torch.zeros(5)}),
    }
    load_encoder(altered(made[make], tmp_path, lambda tensors: None))
    for number, change in enumerate(changes.values()):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ModelError) as caught:
            load_encoder(altered(made[make], tmp_path / str(number), change))
        assert "\n" not in str(caught.value) and caught.value.exit_code == 5


@pytest.mark.parametrize("make", ["clip", "chexzero", "biomedclip", "mrm", "biovil-t"])
def test_stored_encoders_are_read_strictly(make: str, made: dict[str, Path], tmp_path: Path) -> None:
    load_encoder(made[make]).save_pretrained(tmp_path / "whole")
    load_stored(tmp_path / "whole")
    names = sorted(load_file(tmp_path / "whole" / "model.safetensors"))
    for number, change in enumerate(
        (
            lambda tensors: tensors.pop(names[0]),
            lambda tensors: tensors.pop(names[-1]),
            lambda tensors: tensors.update({"text_model.weight": torch.zeros(1)}),
            lambda tensors: tensors.update({"projector.model.0.weight": torch.zeros(1)}),
            lambda tensors: tensors.update({names[1]: torch.zeros(7)}),
        )
    ):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ModelError):
            load_stored(altered(tmp_path / "whole", tmp_path / str(number), change))


@pytest.mark.parametrize("make", ["clip", "biomedclip", "biovil-t"])
def test_stored_configs_are_read_strictly(make: str, made: dict[str, Path], tmp_path: Path) -> None:
    load_encoder(made[make]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    wrong = {"clip": {"hidden_size": 32}, "biomedclip": {"architecture": "resnet50"}, "biovil-t": {"layers": [3]}}
    for change in (wrong[make], {"model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ModelError):
            load_stored(tmp_path)
    path.write_text("[]")
    with pytest.raises(ModelError, match="no JSON object"):
        load_stored(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"no file config\.json"):
        load_stored(tmp_path)


def test_a_pickle_that_holds_code_is_refused_and_does_not_run(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"cls_token": Evil()}}, tmp_path / "MRM.pth")
    with pytest.raises(ModelError, match=r"MRM\.pth"):
        load_encoder(tmp_path / "MRM.pth", kind="mrm")
    folder = Path(shutil.copytree(made["clip-bin"], tmp_path / "clip"))
    torch.save({"vision_model.embeddings.class_embedding": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_encoder(folder)
    assert not (tmp_path / "evil-code-ran").exists()


def test_pickles_are_for_assembling_only(made: dict[str, Path], tmp_path: Path) -> None:
    """In a checkpoint none is read, whatever lies there."""
    load_encoder(made["clip"]).save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    load_stored(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file model\.safetensors"):
        load_stored(tmp_path)


def test_what_no_encoder_is(tmp_path: Path, made: dict[str, Path]) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="not those of a known encoder"):
        load_encoder(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match=r"x\.pt"):
        load_encoder(tmp_path / "x.pt")
    torch.save([torch.zeros(1)], tmp_path / "x.pt")
    with pytest.raises(ModelError, match="not a table of tensors"):
        load_encoder(tmp_path / "x.pt")
    with pytest.raises(ModelError, match="comes as a folder"):
        load_encoder(made["chexzero"], kind="dinov2-base")
    with pytest.raises(ModelError):
        load_encoder(made["chexzero"], kind="mrm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no file config\.json"):
        load_encoder(tmp_path / "empty")
    with pytest.raises(ModelError, match="no folder"):
        load_encoder(tmp_path / "nothing")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="is a 'llama' model, not 'dinov2', 'clip'"):
        load_encoder(tmp_path / "empty")


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_an_encoder_stored_in_half_precision_computes_in_float32(stored: torch.dtype, tmp_path: Path) -> None:
    """Expected: transformers' own model, loaded with dtype=float32."""
    from transformers import Dinov2Model

    dinov2().to(stored).save_pretrained(tmp_path)
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        expected = Dinov2Model.from_pretrained(tmp_path, dtype=torch.float32).eval()(images).last_hidden_state
    encoder = load_encoder(tmp_path)
    vision = in_fastest_form(encoder, size=56, device="cpu", dtype=torch.float32)
    for found in (encoder(images), vision(images)):
        torch.testing.assert_close(found.cls, expected[:, 0], rtol=0, atol=1e-5)
    assert load_encoder(tmp_path, dtype=None).dtype == stored
