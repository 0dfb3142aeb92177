"""Costs against torch's own counts: parameters, what autograd keeps, FLOPs of the dispatcher; and published figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from encoder.pretraining.config import PretrainingConfig, load_config
from encoder.pretraining.estimate import backbone_parameters, estimate, head_parameters, masked_patches
from encoder.pretraining.heads import Head
from encoder.pretraining.vit import Crops, VisionTransformer

PAPER = load_config("rad-dino")
SMALL = [
    "model.hidden_size=128", "model.num_attention_heads=2", "loss.ibot=0", "head.prototypes=16", "head.hidden_size=16",
    "head.bottleneck=4",
]  # fmt: skip


def test_the_papers_run() -> None:
    """86.6 M and 23.1 M parameters; 3.33 TFLOP an image, 2 x 0.302 of them the teacher's; 411 masked patches."""
    cost = estimate(PAPER, 16)
    assert cost.images == 40
    assert cost.backbone == 86_580_480  # Hugging Face's Dinov2Model, facebook/dinov2-base
    assert cost.tera_flops == pytest.approx(3.33, rel=0.01)
    assert masked_patches(PAPER) == pytest.approx(411, abs=0.5)
    assert cost.weights == pytest.approx(22 * (86_580_480 + 23_138_560), rel=1e-6)
    assert cost.checkpoint == 16 * (cost.backbone + cost.heads)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_size": 384, "num_attention_heads": 6},
        {"image_size": 224, "qkv_bias": False, "num_hidden_layers": 2},
        {"hidden_size": 96, "num_attention_heads": 3, "use_swiglu_ffn": True},
    ],
)
def test_parameters_are_the_models(changes: dict[str, object]) -> None:
    config = PretrainingConfig.model_validate({"model": {"num_hidden_layers": 3} | changes})
    with torch.device("meta"):
        model, head = VisionTransformer(config.model), Head(config.model.hidden_size, config.head)
    assert sum(p.numel() for p in model.parameters()) == backbone_parameters(config.model)
    assert sum(p.numel() for p in head.parameters()) == head_parameters(config.model.hidden_size, config.head)


def test_a_separate_head_counts_unless_nothing_is_masked() -> None:
    one = estimate(PAPER).heads
    assert estimate(load_config("rad-dino", ["head.separate=true"])).heads == 2 * one
    assert estimate(load_config("rad-dino", ["head.separate=true", "loss.ibot=0"])).heads == one


fused = torch.nn.functional.scaled_dot_product_attention


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.transpose(-1, -2), -1) @ value


def each_group(
    attend: Callable[..., torch.Tensor], projected: torch.Tensor, shapes: Sequence[tuple[int, int]], heads: int
) -> torch.Tensor:
    mixed = []
    for part, (rows, length) in zip(projected.split([r * n for r, n in shapes]), shapes, strict=True):
        query, key, value = part.view(rows, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        out = attend(query, key, value)
        mixed.append(out.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(mixed)


def test_flops_of_the_transformer_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # attention written out: the dispatcher counts no fused attention on CPUs
    monkeypatch.setattr("encoder.pretraining.vit.attention", partial(each_group, written_out))
    for module in ("vision_transformer", "products"):  # nor oneDNN's products
        monkeypatch.setattr(f"encoder.pretraining.{module}.linear", torch.nn.functional.linear)
    config = load_config("tiny", [*SMALL, "optimization.drop_path=0", "model.num_hidden_layers=4"])
    model = VisionTransformer(config.model).eval()
    pixels = [torch.zeros(2, 3, 112, 112), torch.zeros(4, 3, 56, 56)]
    with torch.no_grad(), FlopCounterMode(display=False) as teacher:
        model([Crops(pixels[0])], torch.arange(2 * 65))
    with torch.no_grad(), FlopCounterMode(display=False) as student:
        model([Crops(part) for part in pixels], torch.arange(2 * 65 + 4 * 17))
    total = (teacher.get_total_flops() + 3 * student.get_total_flops()) / 1e12
    assert estimate(config).tera_flops == pytest.approx(total, rel=0.01)  # the small head is the rest


def test_dropped_paths_save_what_they_drop() -> None:
    half = estimate(load_config("rad-dino", ["optimization.drop_path=0.5"]))
    none = estimate(load_config("rad-dino", ["optimization.drop_path=0"]))
    assert none.tera_flops_run == none.tera_flops == half.tera_flops
    saved = none.tera_flops_run - half.tera_flops_run
    assert saved == pytest.approx(3 * 0.88 / 2, rel=0.01)  # the student's forward is 0.88


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("changes", [[], ["model.use_swiglu_ffn=true"], ["optimization.drop_path=0"]])
def test_activations_are_what_autograd_keeps(
    monkeypatch: pytest.MonkeyPatch, precision: str, changes: list[str]
) -> None:
    monkeypatch.setattr("encoder.pretraining.vit.attention", partial(each_group, fused))  # as on GPUs
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
    cost = estimate(config)
    casts = 2 * cost.backbone if precision == "bf16" else 0
    assert found == pytest.approx(cost.activations + casts, rel=0.12)


def test_memory_grows_with_images_and_shrinks_with_what_shrinks_it() -> None:
    def memory(*changes: str, processes: int = 16) -> int:
        return estimate(load_config("rad-dino", changes), processes).memory

    plain = memory()
    assert memory("optimization.accumulation=2") < plain < memory(processes=8)
    assert memory("engine.activation_checkpointing=true") < plain / 2
    assert memory("engine.sharding=fsdp") == plain - 20 * 109_719_040 * 15 // 16
    assert memory("engine.precision=fp32") > plain
    assert memory("crops.local_crops=0") < plain
    assert estimate(load_config("rad-dino-no-mim"), 16).activations < estimate(PAPER, 16).activations
