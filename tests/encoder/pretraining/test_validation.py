"""Findings of --validate: the run in numbers, small batches, missing files; all problems at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from encoder.datasets.manifest import Row, write_manifest
from encoder.errors import ConfigError, ModelError
from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.heads import Head
from encoder.pretraining.validation import check_sizes, cost_of, masked_patches, probe_cost, validate
from encoder.pretraining.vit import Crops, VisionTransformer
from encoder.runs.preflight import Report, parameters_of
from tests.encoder.pretraining.test_fused_layers import fused_attention


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """150 images of 50 subjects: 100 of MIMIC-CXR, 50 (all lateral) of a set without published numbers."""
    rows = []
    Image.radial_gradient("L").resize((64, 64)).save(tmp_path / "picture.png")
    picture = (tmp_path / "picture.png").read_bytes()
    for i in range(150):
        path = tmp_path / f"{i}.png"
        path.write_bytes(picture)
        dataset, view = ("mimic-cxr", "AP") if i < 100 else ("ours", "lateral")
        rows.append(Row(path, dataset=dataset, subject=str(i % 50), image=str(i), view=view, split="train"))  # type: ignore[arg-type]
    write_manifest(rows, tmp_path / "images.csv")
    return str(tmp_path / "images.csv")


def look(manifest: str, *overrides: str, processes: int = 1) -> Report:
    return validate(load_config("tiny", [f"data.manifests=[{manifest}]", *overrides]), processes=processes)


def test_a_run_in_numbers(manifest: str) -> None:
    report = look(manifest, "optimization.batch_size=75")
    text = report.to_text()
    assert report.problems == []
    assert "150 to train on" in text
    assert "200 steps of 75 images, 100.0 passes" in text
    (mimic,) = [line.split() for line in report.lines if line.startswith("  mimic-cxr ")]
    assert mimic == ["mimic-cxr", "100", "50", "0", "210,491", "images,", "188,546", "subjects"]
    (ours,) = [line.split() for line in report.lines if line.startswith("  ours ")]
    assert ours == ["ours", "50", "50", "50"]
    assert "838,336" in text
    assert report.warnings == []


def test_filters_are_seen(manifest: str) -> None:
    lines = look(manifest, "data.views=[frontal]").lines
    assert "  ours: 0 kept, left out: view 50" in lines and "  mimic-cxr: 100 kept" in lines


@pytest.mark.parametrize(("batch", "warned"), [(8, True), (63, True), (64, False), (640, False)])
def test_small_batches_are_warned_of(manifest: str, batch: int, warned: bool) -> None:
    report = look(manifest, f"optimization.batch_size={batch}")
    assert any("the loss often stays flat" in warning for warning in report.warnings) is warned


def test_koleo_needs_two_images_on_each_process() -> None:
    config = load_config("tiny", ["optimization.batch_size=16"])
    check_sizes(config, 8)
    with pytest.raises(ConfigError, match="nearest neighbour"):
        check_sizes(config, 16)
    check_sizes(load_config("tiny", ["optimization.batch_size=16", "loss.koleo=0"]), 16)


def test_batches_must_divide_and_masks_must_mask_something() -> None:
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        check_sizes(load_config("tiny"), 3)
    few = ["optimization.batch_size=2", "masking.probability=0.2"]
    with pytest.raises(ConfigError, match="masks none of the 4 global crops"):
        check_sizes(load_config("tiny", few), 1)
    check_sizes(load_config("tiny", [*few, "loss.ibot=0"]), 1)


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    overrides = ["data.manifests=[]", f"init.source={tmp_path}/none"]
    report = validate(load_config("tiny", overrides), processes=3)
    assert [type(problem) for problem in report.problems] == [ConfigError, ConfigError, ModelError]
    assert [problem.exit_code for problem in report.problems] == [2, 2, 5]
    assert any(line.startswith("memory") for line in report.lines), "the rest is shown all the same"


@pytest.mark.slow
def test_files_that_are_gone(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "0.png").unlink()
    (problem,) = look(manifest).problems
    assert str(problem) == "1 of 64 image files that were decoded cannot be read: missing 1"
    report = look(manifest, "data.max_unreadable=0.1")
    assert report.problems == []
    assert "1 of 64 image files that were decoded cannot be read: missing 1" in report.warnings


def test_a_run_of_passes_shorter_than_its_warm_up(manifest: str) -> None:
    (problem,) = look(manifest, "optimization.passes=1").problems
    assert str(problem) == (
        "optimization.warmup_steps = 20: too many for a run of 10 steps; set optimization.warmup_steps=1, "
        "or make the run longer"
    )


@pytest.mark.slow
def test_probed_subjects_that_are_trained_on_and_long_probes_are_warned_of(
    manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = 0.0
    monkeypatch.setattr("encoder.pretraining.validation.fitting_seconds", lambda *_: fitting)

    def probe(dataset: str) -> Report:
        rows = [
            Row(tmp_path / f"{i}.png", dataset=dataset, subject=str(i), split=split, labels={"x": 1.0})
            for i, split in ((1, "train"), (2, "val"))
        ]
        write_manifest(rows, tmp_path / "probe.csv")
        return look(manifest, f"probe.manifest={tmp_path / 'probe.csv'}")

    warned = probe("mimic-cxr").warnings
    assert any(warning.startswith("2 subjects of probe.manifest are trained on too") for warning in warned)
    report = probe("elsewhere")
    assert not any("probe.manifest" in warning for warning in report.warnings)
    (line,) = [line for line in report.lines if line.startswith("probe ")]
    assert "2 labelled images, every 50 steps: about" in line and "of the training time" in line
    assert not any("probes take" in warning for warning in report.warnings)
    fitting = 1e9
    assert any("of the time: raise probe.every" in warning for warning in probe("elsewhere").warnings)


@pytest.mark.slow
def test_an_exclusion_that_excludes_nothing_and_enlarged_crops_are_warned_of(manifest: str, tmp_path: Path) -> None:
    write_manifest([Row(tmp_path / "other.png", dataset="x", subject="1", image="1")], tmp_path / "exclude.csv")
    changes = [f"data.exclude=[{tmp_path / 'exclude.csv'}]", "data.size=98", "crops.global_size=126"]
    warnings = "\n".join(look(manifest, *changes).warnings)
    assert "data.exclude leaves nothing out" in warnings
    assert "all global crops are enlarged" in warnings
    assert "position embeddings are resized" in warnings


@pytest.mark.slow
def test_memory_is_compared_with_the_gpus(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.runs.preflight.gpu_memory", lambda: 10**6)
    assert any("the GPU has 1 MB" in warning for warning in look(manifest).warnings)
    monkeypatch.setattr("encoder.runs.preflight.gpu_memory", lambda: 10**12)
    assert not any("the GPU has" in warning for warning in look(manifest).warnings)


PAPER = load_config("rad-dino")
SMALL = [
    "model.hidden_size=128", "model.num_attention_heads=2", "loss.ibot=0", "head.prototypes=16", "head.hidden_size=16",
    "head.bottleneck=4",
]  # fmt: skip


@pytest.mark.slow
def test_the_papers_run() -> None:
    """86.6 M and 23.1 M parameters; 3.33 TFLOP an image, 2 x 0.302 of them the teacher's; 411 masked patches."""
    cost = cost_of(PAPER, 16)
    assert cost.images == 40
    assert cost.backbone == 86_580_480  # Hugging Face's Dinov2Model, facebook/dinov2-base
    assert cost.tera_flops == pytest.approx(3.33, rel=0.01)
    assert masked_patches(PAPER) == pytest.approx(411, abs=0.5)
    assert cost.weights == pytest.approx(22 * (86_580_480 + 23_138_560), rel=1e-6)
    assert cost.checkpoint == 16 * (cost.backbone + cost.heads)


@pytest.mark.parametrize(
    "changes", [{}, {"image_size": 224, "qkv_bias": False}, {"hidden_size": 96, "use_swiglu_ffn": True}]
)
def test_parameters_are_those_counted_by_hand(changes: dict[str, Any]) -> None:
    config = PretrainingConfig.model_validate({"model": {"num_hidden_layers": 3} | changes})
    model, head = config.model, config.head
    width, patches = model.hidden_size, (model.image_size // model.patch_size) ** 2
    inner = -(-(width * 4 * 2 // 3) // 8) * 8 if model.use_swiglu_ffn else width * 4
    halves = 2 if model.use_swiglu_ffn else 1
    attention = 4 * width * width + width + (3 * width if model.qkv_bias else 0)
    block = attention + (halves + 1) * width * inner + halves * inner + width + 2 * 2 * width + 2 * width
    embedding = (3 * 14**2 + 1) * width + (1 + patches) * width + 2 * width
    assert parameters_of(lambda: VisionTransformer(model)) == embedding + 3 * block + 2 * width
    layers = [width, head.hidden_size, head.hidden_size, head.bottleneck]
    mlp = sum((one + 1) * other for one, other in pairwise(layers))
    assert parameters_of(lambda: Head(width, head)) == mlp + head.prototypes * (head.bottleneck + 1)


def test_operations_are_those_counted_by_hand() -> None:
    """2 for each multiplication with addition: the products with weights, queries with keys, shares with values."""
    config = load_config("tiny", ["optimization.drop_path=0.25", "crops.local_crops=3", "loss.ibot=0"])
    model, head = config.model, config.head
    width = model.hidden_size

    def crop(side: int, layers: float) -> float:
        patches = (side // model.patch_size) ** 2
        tokens = 1 + patches
        weights = 4 * width**2 + 2 * width * 4 * width
        return layers * (2 * tokens * weights + 4 * tokens**2 * width) + 2 * patches * model.patch_size**2 * width

    layers = model.num_hidden_layers
    sizes = [width, *[head.hidden_size] * (head.layers - 1), head.bottleneck]
    vector = 2 * sum(one * other for one, other in pairwise(sizes)) + 2 * head.bottleneck * head.prototypes
    heads = vector * (3 * 5 + 2)
    for kept, found in ((1, cost_of(config).tera_flops), (0.75, cost_of(config).tera_flops_run)):
        student = 2 * crop(112, layers * kept) + 3 * crop(56, layers * kept)
        assert found == pytest.approx((2 * crop(112, layers) + 3 * student + heads) / 1e12, rel=1e-9)


def test_a_separate_head_counts_unless_nothing_is_masked() -> None:
    one = cost_of(PAPER).heads
    assert cost_of(load_config("rad-dino", ["head.separate=true"])).heads == 2 * one
    assert cost_of(load_config("rad-dino", ["head.separate=true", "loss.ibot=0"])).heads == one


def test_dropped_paths_save_what_they_drop() -> None:
    half = cost_of(load_config("rad-dino", ["optimization.drop_path=0.5"]))
    none = cost_of(load_config("rad-dino", ["optimization.drop_path=0"]))
    assert none.tera_flops_run == none.tera_flops == half.tera_flops
    saved = none.tera_flops_run - half.tera_flops_run
    assert saved == pytest.approx(3 * 0.88 / 2, rel=0.01)  # the student's forward is 0.88


@pytest.mark.parametrize(
    ("precision", "changes"),
    [("bf16", []), ("fp32", ["model.use_swiglu_ffn=true"]), ("bf16", ["optimization.drop_path=0"])],
)
def test_activations_are_what_autograd_keeps(
    monkeypatch: pytest.MonkeyPatch, precision: str, changes: list[str]
) -> None:
    monkeypatch.setattr("encoder.pretraining.vit.attention", fused_attention)  # as on GPUs
    overrides = [f"engine.precision={precision}", "optimization.drop_path=0.5", "optimization.batch_size=16"]
    config = load_config("tiny", [*SMALL, *overrides, *changes])
    images = 16
    model = VisionTransformer(config.model, config.optimization.drop_path).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors too, or memory would be counted under a second address

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    crops = [Crops(torch.zeros(n * images, s, s, dtype=torch.uint8)) for n, s in ((2, 112), (4, 56))]
    # the last MLP is done for all wanted tokens: as many here as go through the others
    wanted = torch.arange(0, images * (2 * 65 + 4 * 17), 2 if config.optimization.drop_path else 1)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model(crops, wanted)
    found = sum(size for size, _ in kept.values())
    cost = cost_of(config)
    casts = 2 * cost.backbone if precision == "bf16" else 0
    assert found == pytest.approx(cost.activations + casts, rel=0.12)


def test_memory_grows_with_images_and_shrinks_with_what_shrinks_it() -> None:
    def memory(*changes: str, processes: int = 16) -> int:
        return cost_of(load_config("rad-dino", changes), processes).memory

    plain = memory()
    assert memory("optimization.accumulation=2") < plain < memory(processes=8)
    assert memory("engine.activation_checkpointing=true") < plain / 2
    assert memory("engine.sharding=fsdp") == plain - 20 * 109_719_040 * 15 // 16
    assert memory("engine.precision=fp32") > plain
    assert memory("crops.local_crops=0") < plain
    assert cost_of(load_config("rad-dino-no-mim"), 16).activations < cost_of(PAPER, 16).activations


def test_probes_of_the_papers_run_take_what_is_counted_by_hand() -> None:
    """A ViT-B/14 at 518 px: 12 blocks of 12 D^2 and attention, 1,370 tokens; 19,237 images of CANDID-PTX."""
    tokens, width = 1370, 768
    one = 12 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width) + 2 * 1369 * 14**2 * width
    cost = cost_of(PAPER)
    found = probe_cost(PAPER, 19_237, 4.0, cost, 16 * 315)
    assert found.encoding == pytest.approx(19_237 * one / 1e12 / (16 * 315), rel=0.01)
    assert found.training == pytest.approx(1000 * 640 * cost.tera_flops_run / (16 * 315))
    assert found.seconds == found.encoding + 4 and found.share == found.seconds / found.training < 0.03
    assert probe_cost(PAPER, 19_237, 0.0, cost, 1).share == pytest.approx(probe_cost(PAPER, 19_237, 0.0, cost, 9).share)


def test_hours_and_disk_of_the_papers_run(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 60,000 steps of 640 images at 315 TFLOP/s."""
    config = load_config("rad-dino", [f"data.manifests=[{manifest}]", "init.source=random"])
    cost = cost_of(config)
    monkeypatch.setattr("encoder.runs.preflight.shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    report = validate(config, processes=16, output=tmp_path / "not" / "there", tflops=315)
    (line,) = [line for line in report.lines if line.startswith("time")]
    hours = 60_000 * 640 * cost.tera_flops_run / 315 / 3600
    assert f"{hours:,.3g} GPU-hours" in line and f"{hours / 16:.1f} h on 16" in line and "given 315 TFLOP/s" in line
    (warning,) = [warning for warning in report.warnings if "free" in warning]
    each = 16 * (cost.backbone + cost.heads)
    assert warning.startswith("the pixel cache and checkpoints need") and "1.0 GB free" in warning
    assert any(f"checkpoints {each / 1e9:.1f} GB each, up to 4 at a time" in line for line in report.lines)
    monkeypatch.setattr("encoder.runs.preflight.shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    assert not any("free" in warning for warning in validate(config, output=tmp_path, tflops=1).warnings)
