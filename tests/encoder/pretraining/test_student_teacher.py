"""One step of the method, and the optimiser's groups."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import LlavaRadError
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.data import Batch, batches
from encoder.pretraining.optimization import Values, clip_gradients, make_optimizer, rates, set_rates
from encoder.pretraining.packing import draw_kept, kept_crops
from encoder.pretraining.student_teacher import StudentTeacher, compiler_errors
from encoder.pretraining.vit import Crops, VisionTransformer
from tests.encoder.pretraining.small_run import small_config


class Pictures:
    def __len__(self) -> int:
        return 8

    def image(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (56, 60), np.uint8)


@pytest.fixture
def config(tmp_path: Path) -> PretrainingConfig:
    return small_config(tmp_path, "optimization.drop_path=0")


def a_batch(config: PretrainingConfig) -> Batch:
    return next(batches(Pictures(), config, step=0))


def a_model(config: PretrainingConfig) -> StudentTeacher:
    torch.manual_seed(0)
    model = StudentTeacher(config).train()
    with torch.no_grad():
        for block in model.student.backbone.blocks:
            block.ls1.gamma.fill_(0.5)
            block.ls2.gamma.fill_(0.5)
    model.start_teacher()
    return model


def test_the_teacher_starts_equal_learns_nothing_and_drops_nothing(tmp_path: Path) -> None:
    config = small_config(tmp_path, "optimization.drop_path=0.5")
    model, batch = a_model(config), a_batch(config)
    assert all(torch.equal(teacher, student) for _, teacher, student in model.pairs())
    losses = model(batch, 0.05)
    losses.total.backward()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.teacher.parameters())
    assert not model.teacher.training and model.student.training
    assert torch.equal(losses.teacher_cls, model(batch, 0.05).teacher_cls)
    assert not torch.equal(losses.dino, model(batch, 0.05).dino)  # the student drops other paths


def test_the_teacher_is_the_moving_average(config: PretrainingConfig) -> None:
    model = a_model(config)
    before = copy.deepcopy(model.teacher)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1)
    model.update_teacher(0.9)
    old = dict(before.named_parameters())
    for name, teacher, student in model.pairs():
        torch.testing.assert_close(teacher, 0.9 * old[name] + 0.1 * student)
    assert len(list(model.pairs())) == len(list(model.student.parameters()))


def test_koleo_sends_no_gradient_through_local_crops(config: PretrainingConfig) -> None:
    """With KoLeo alone, changing the local crops changes nothing."""
    alone = config.model_copy(update={"loss": config.loss.model_copy(update={"dino": 0.0, "ibot": 0.0, "koleo": 1.0})})
    model, batch = a_model(alone), a_batch(alone)
    gradients = []
    for local in (batch.local_crops, 255 - batch.local_crops):
        batch.local_crops = local
        model.zero_grad()
        model(batch, 0.05).total.backward()
        gradients.append(model.student.backbone.pos_embed.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_masked_patch_does_not_reach_the_student(config: PretrainingConfig) -> None:
    vit = VisionTransformer(config.model).eval()
    torch.nn.init.normal_(vit.mask_token)
    pixels = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8)
    masks = torch.tensor([[True, False, False, False]])
    other = pixels.clone()
    other[:, :14, :14] = 255 - other[:, :14, :14]
    wanted = torch.arange(5)
    torch.testing.assert_close(vit([Crops(pixels, masks)], wanted), vit([Crops(other, masks)], wanted))
    assert not torch.allclose(vit([Crops(pixels)], wanted), vit([Crops(other)], wanted))


def test_packed_crops_and_wanted_tokens_equal_one_crop_at_a_time(config: PretrainingConfig) -> None:
    vit = a_model(config).student.backbone.eval()
    large = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    small = torch.randint(0, 256, (2, 14, 14), dtype=torch.uint8)
    packed = vit([Crops(large), Crops(small)], torch.tensor([0, 7, 14, 15, 17]))
    cls_large, patches_large = vit.features(large)
    cls_small, _ = vit.features(small)
    torch.testing.assert_close(
        packed, torch.stack([cls_large[0], patches_large[1, 1], patches_large[2, 3], cls_small[0], cls_small[1]])
    )


@pytest.mark.parametrize("change", ["model.use_swiglu_ffn=true", "model.qkv_bias=false", "model.mlp_ratio=4"])
def test_layerscale_on_weights_and_on_tokens_is_the_same(tmp_path: Path, change: str) -> None:
    """In training it is done on the weights, else on what they give; with nothing dropped, all is equal."""
    vit = a_model(small_config(tmp_path, "optimization.drop_path=0", change)).student.backbone
    pixels, wanted = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8), torch.arange(0, 15, 2)
    slope = torch.randn(8, 24)
    found = []
    for training in (True, False):
        vit.train(training)
        vit.zero_grad()
        out = vit([Crops(pixels)], wanted)
        out.backward(slope)
        with torch.no_grad():  # in place
            torch.testing.assert_close(vit([Crops(pixels)], wanted), out)
        found.append({name: p.grad for name, p in vit.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 25
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("groups", "drop_path", "kept"),
    [
        ((128, 512), 0.3, [89, 356]),  # int(89.6) and, in place of int(358.4), four times as many
        ((4, 16), 0.3, [2, 11]),  # half of four crops is no share for sixteen
        ((128, 320), 0.3, [89, 224]),  # 222.5 would be as many
        ((128,), 0.999, [1]),
    ],
)
def test_crops_that_are_kept(groups: tuple[int, ...], drop_path: float, kept: list[int]) -> None:
    assert kept_crops(groups, drop_path) == kept


def test_dropped_paths_leave_the_expectation() -> None:
    """A branch is linear in what it adds: averaged over many draws, each token's branch counts once."""
    shapes = ((6, 5), (4, 2))
    counted = torch.zeros(6 * 5 + 4 * 2)
    for seed in range(100):
        torch.manual_seed(seed)
        for kept in draw_kept(shapes, 4, 0.4, torch.device("cpu")):
            assert kept.packing.shapes == ((3, 5), (2, 2))
            sizes = [15, 4]
            for places, scale in zip(kept.tokens.split(sizes), kept.scales, strict=True):
                counted[places] += scale
            assert len(set(kept.tokens.tolist())) == 19
            crops = [set(kept.tokens[5 * i : 5 * i + 5].tolist()) for i in range(3)]
            assert all(crop == set(range(min(crop), min(crop) + 5)) and min(crop) % 5 == 0 for crop in crops)
    counted /= 100 * 4
    assert float((counted - 1).abs().max()) < 0.25  # five deviations of 400 draws at one half


def test_recomputing_activations_changes_no_bit(tmp_path: Path) -> None:
    config = small_config(tmp_path, "optimization.drop_path=0.3", "loss.centering=sinkhorn-knopp")  # without memory
    model, batch = a_model(config), a_batch(config)
    found = []
    for recompute in (False, True):
        model.student.backbone.activation_checkpointing = recompute
        model.zero_grad()
        torch.manual_seed(5)  # of the dropped paths
        total = model(batch, 0.05).total
        total.backward()
        found.append([total.detach(), *[p.grad for p in model.student.parameters() if p.grad is not None]])
    assert len(found[0]) == len(found[1]) > 40
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(  # the second calls a C++ compiler
    ("backend", "bf16"),
    [
        pytest.param("aot_eager", False, marks=pytest.mark.nightly),
        pytest.param("aot_eager", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.nightly),
    ],
)
def test_compiled_parts_keep_names_and_results_without_graph_breaks(tmp_path: Path, backend: str, bf16: bool) -> None:
    """Student's and teacher's block, last block and head, and the losses' work for crops and for patches: 8 graphs.

    ``fullgraph`` makes a break an error; results are those of the plain step, by other code for dropped paths.
    """
    from torch._dynamo.utils import counters

    config = small_config(
        tmp_path, "optimization.drop_path=0.3", "model.num_hidden_layers=4", "loss.centering=sinkhorn-knopp"
    )
    model, batch = a_model(config), a_batch(config)
    names = list(model.state_dict())

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(5)  # of the dropped paths
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            total = model(batch, 0.05).total
        total.backward()
        return [total.detach(), *[p.grad.clone() for p in model.student.parameters() if p.grad is not None]]

    plain = step()
    torch._dynamo.reset()
    counters.clear()
    model.compile_parts(backend=backend, fullgraph=True)
    compiled = step()
    assert list(model.state_dict()) == names
    assert counters["stats"]["unique_graphs"] == 8 and not counters["graph_break"]
    step()
    assert counters["stats"]["unique_graphs"] == 8  # nothing is compiled again
    tolerance = 0.15 if bf16 else 1e-4  # in bfloat16 the two round in other places, and the model is tiny
    assert len(plain) == len(compiled) > 60
    for ours, theirs in zip(compiled, plain, strict=True):
        assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm()) + 1e-8


@pytest.mark.slow
def test_compiled_blocks_can_be_recomputed(tmp_path: Path) -> None:
    config = small_config(tmp_path, "optimization.drop_path=0.3", "loss.centering=sinkhorn-knopp")
    model, batch = a_model(config), a_batch(config)
    torch._dynamo.reset()
    model.compile_parts(backend="aot_eager")
    found = []
    for recompute in (False, True):
        model.student.backbone.activation_checkpointing = recompute
        model.zero_grad()
        torch.manual_seed(5)
        model(batch, 0.05).total.backward()
        found.append([p.grad for p in model.student.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_errors_of_the_compiler_say_what_to_do() -> None:
    from torch._dynamo.exc import Unsupported

    with pytest.raises(LlavaRadError, match="the step cannot be compiled: no kernel") as caught, compiler_errors():
        raise Unsupported("no kernel\nfurther lines")
    assert caught.value.hint == "engine.compile=false"


@pytest.mark.parametrize(
    ("name", "factor", "decays"),
    [  # encoder-pretraining facts: measured on DINOv2's own code for ViT-B, decay 0.9, patch embedding 0.2
        ("backbone.cls_token", 0.254, True),
        ("backbone.pos_embed", 0.254, True),
        ("backbone.mask_token", 0.254, True),
        ("backbone.patch_embed.proj.weight", 0.0508, True),
        ("backbone.patch_embed.proj.bias", 0.0508, False),
        ("backbone.blocks.0.attn.qkv.weight", 0.282, True),
        ("backbone.blocks.0.ls1.gamma", 0.282, False),
        ("backbone.blocks.11.norm2.weight", 0.9, False),
        ("backbone.norm.weight", 1.0, False),
        ("dino_head.mlp.0.weight", 1.0, True),
        ("dino_head.mlp.0.bias", 1.0, False),
        ("dino_head.last_layer.weight_g", 1.0, True),
        ("dino_head.last_layer.weight_v", 1.0, True),
    ],
)
def test_rates_of_vit_b(name: str, factor: float, decays: bool) -> None:
    shape = torch.Size([3]) if name.endswith((".bias", "gamma", "norm2.weight", "norm.weight")) else torch.Size([3, 1])
    found = rates(name, shape, PretrainingConfig().optimization, 12)
    assert found.lr == pytest.approx(factor, rel=2e-3)
    assert found.decays is decays


def test_every_parameter_is_in_one_group(config: PretrainingConfig) -> None:
    model = a_model(config)
    grouped = [p for group in make_optimizer(model.student, config.optimization).param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == sum(p.requires_grad for p in model.student.parameters())


def test_the_frozen_last_layer_stands_still_and_the_rest_moves(config: PretrainingConfig) -> None:
    model = a_model(config)
    optimizer = make_optimizer(model.student, config.optimization)
    before = copy.deepcopy(model.student.state_dict())
    set_rates(optimizer, Values(1e-3, 0.0, 1e-3, 0.4, 0.99, 0.05))
    model(a_batch(config), 0.05).total.backward()
    optimizer.step()
    for name, tensor in model.student.state_dict().items():
        assert torch.equal(tensor, before[name]) is ("last_layer" in name), name


def test_gradients_are_clipped_by_part(config: PretrainingConfig) -> None:
    model = a_model(config)
    for number, part in enumerate((model.student.backbone, model.student.dino_head)):
        for parameter in part.parameters():
            parameter.grad = torch.full_like(parameter, 10.0 if number else 1e-6)
    norms = clip_gradients(model.student, 3.0)
    assert set(norms) == {"backbone", "dino_head"}
    left = [torch.cat([p.grad.flatten() for p in part.parameters()]).norm() for part in model.student.children()]
    assert float(left[1]) == pytest.approx(3.0, rel=1e-4)
    assert float(left[0]) == pytest.approx(float(norms["backbone"]), rel=1e-3)


def test_a_head_can_be_copied_after_a_forward_pass(config: PretrainingConfig) -> None:
    model = a_model(config)
    model(a_batch(config), 0.05).total.backward()
    copied = copy.deepcopy(model.student.dino_head)
    assert sorted(copied.state_dict()) == sorted(model.student.dino_head.state_dict())
    assert {"last_layer.weight_g", "last_layer.weight_v", "mlp.0.weight", "mlp.4.bias"} <= set(copied.state_dict())
