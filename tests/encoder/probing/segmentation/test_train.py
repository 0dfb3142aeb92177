"""Training on a toy problem: it is learnt, the same every time, also when it stops and goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.probing.heads import build_head
from encoder.probing.segmentation.augmentation import SegmentationAugmentation
from encoder.probing.segmentation.batches import Batches
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.evaluate import evaluate, few_shot
from encoder.probing.segmentation.loss import loss_of, loss_sums
from encoder.probing.segmentation.model import Inputs, SegmentationConfig, Segmenter, keep_inputs, predict, run_head
from encoder.probing.segmentation.train import Epoch, Options, train_segmentation
from encoder.probing.vectors import as_maps, identity
from tests.encoder.pretraining.run_processes import finish
from tests.encoder.probing.toy import RECIPE, SIZE, STRUCTURES, Patches, discs
from tests.forked import context, ranks

QUICK = SegmentationConfig(epochs=12, batch_size=8, learning_rate=0.02, augmentation=None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are only slowed down by more, above all on a machine that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learned() -> tuple[Segmenter, Patches, list[Epoch]]:
    """A linear head that has learnt the toy problem, with its encoder and its epochs."""
    encoder = Patches()
    epochs: list[Epoch] = []
    segmenter = train_segmentation(discs(24), discs(6, 1), encoder, RECIPE, STRUCTURES, QUICK, epochs.append)
    assert encoder.seen == 24 + 6 + 2  # one more of each set to see how large it becomes
    return segmenter, encoder, epochs


def weights(segmenter: Segmenter) -> list[torch.Tensor]:
    return list(segmenter.head.state_dict().values())


def same(one: Segmenter, other: Segmenter) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_defaults_are_the_papers() -> None:
    paper = SegmentationConfig()
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (100, 80, 5e-4)
    assert paper.augmentation is not None and paper.augmentation.flip == 0.5


def test_a_configuration_survives_json() -> None:
    for config in (SegmentationConfig(head="upernet", channels=64), QUICK):
        assert SegmentationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="epoch_count"):
        SegmentationConfig.from_dict({"epoch_count": 1})
    with pytest.raises(ConfigError, match=r"augmentation\.flop"):
        SegmentationConfig.from_dict({"augmentation": {"flop": 1}})
    for bad in (
        {"head": "fcn"},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"seed": -1},
        {"channels": 0},
        {"precision": "bf"},
    ):
        with pytest.raises(ConfigError):
            SegmentationConfig(**bad)  # type: ignore[arg-type]


def test_a_linear_head_learns_the_toy_problem_and_encodes_each_image_once(
    learned: tuple[Segmenter, Patches, list[Epoch]],
) -> None:
    segmenter, encoder, epochs = learned
    assert [one.epoch for one in epochs] == list(range(1, 13)) and epochs[-1].val_loss < epochs[0].val_loss / 2
    assert segmenter.epoch == min(epochs, key=lambda one: one.val_loss).epoch
    assert epochs[-1].learning_rate < 0.001 < epochs[0].learning_rate
    result = evaluate(segmenter, encoder, discs(10, 2), attributes=("sex",))
    assert all(result.structures[name].mean > 0.9 for name in STRUCTURES) and result.parameters == 2 * 17
    assert result.groups["sex"].groups["F"].images == 5
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["together"]["images"] == 10


def test_structures_of_a_linear_head_do_not_influence_one_another() -> None:
    data, encoder = discs(16), Patches()
    patches = as_maps(encoder(RECIPE.normalise(data.images)).patches)
    torch.manual_seed(0)
    head = build_head("linear", encoder.width, 2)
    masks, known = torch.from_numpy(data.masks(range(16))), torch.ones(16, 2, dtype=torch.bool)
    gradients = []
    for part in (slice(0, 2), slice(0, 1)):
        head.zero_grad()
        loss_of(loss_sums(head([patches])[:, part], masks[:, part], known[:, part]), 1.0).backward()
        gradients.append([one.grad[0].clone() for one in head.parameters() if one.grad is not None])
    for both, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(2 * both, alone)  # a mean over two structures; Adam knows no scale


@pytest.mark.parametrize("augmentation", [None, SegmentationAugmentation()])
def test_stopping_and_going_on_changes_no_bit(tmp_path: Path, augmentation: SegmentationAugmentation | None) -> None:
    config = replace(QUICK, epochs=4, augmentation=augmentation)
    data = discs(20), discs(5, 1)
    through = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, config)

    class Stop(Exception):
        pass

    def stop(done: Epoch) -> None:
        if done.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train_segmentation(*data, Patches(), RECIPE, STRUCTURES, config, stop, folder=tmp_path)
    rest: list[int] = []
    encoder = Patches()
    resumed = train_segmentation(
        *data, encoder, RECIPE, STRUCTURES, config, lambda done: rest.append(done.epoch), folder=tmp_path
    )
    assert rest == [3, 4] and same(through, resumed) and resumed.val_loss == through.val_loss
    seen = encoder.seen
    again = train_segmentation(*data, encoder, RECIPE, STRUCTURES, config, folder=tmp_path)
    assert same(again, through) and encoder.seen == seen
    other = train_segmentation(*data, encoder, RECIPE, STRUCTURES, replace(config, seed=1))
    assert not same(other, through)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    config, encoder = replace(QUICK, epochs=1), Patches()
    train_segmentation(discs(8), discs(4, 1), encoder, RECIPE, STRUCTURES, config, folder=tmp_path)
    for data, other in (((discs(8), discs(4, 1)), replace(config, epochs=2)), ((discs(8, 3), discs(4, 1)), config)):
        with pytest.raises(ConfigError, match="another configuration"):
            train_segmentation(*data, encoder, RECIPE, STRUCTURES, other, folder=tmp_path)


def test_a_segmenter_on_disk(tmp_path: Path) -> None:
    encoder = Patches()
    segmenter = train_segmentation(
        discs(8), discs(4, 1), encoder, RECIPE, STRUCTURES, replace(QUICK, epochs=2), folder=tmp_path
    )
    loaded = Segmenter.load(tmp_path)
    images = discs(3, 2).images
    assert loaded.config == segmenter.config and loaded.structures == STRUCTURES
    found = predict(loaded, encoder, images, batch_size=2)
    assert found.shape == (3, 2, SIZE, SIZE) and found.dtype == np.bool_
    np.testing.assert_array_equal(found, predict(segmenter, encoder, images))
    other = Patches()
    with torch.no_grad():
        other.model.weight.add_(1)
    with pytest.raises(LlavaRadError, match="another encoder"):
        predict(loaded, other, images)
    with pytest.raises(LlavaRadError, match="64 pixel"):
        predict(loaded, encoder, images[:, :32, :32])
    (tmp_path / "head.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError):
        Segmenter.load(tmp_path)
    with pytest.raises(ModelError, match="holds no"):
        Segmenter.load(tmp_path / "none")


def test_a_head_in_bf16_learns_and_keeps_its_weights_in_float32(
    learned: tuple[Segmenter, Patches, list[Epoch]],
) -> None:
    plain, encoder, _ = learned
    config = replace(QUICK, precision="bf16")
    segmenter = train_segmentation(discs(24), discs(6, 1), encoder, RECIPE, STRUCTURES, config)
    assert all(one.dtype == torch.float32 for one in weights(segmenter)) and not same(segmenter, plain)
    assert evaluate(segmenter, encoder, discs(6, 2)).together.mean > 0.9
    maps = Inputs(encoder, RECIPE, segmenter.head.layers, torch.device("cpu")).of(discs(1).images)
    assert run_head(segmenter.head, maps, config, torch.device("cpu")).dtype == torch.float32


def test_features_that_do_not_fit_are_computed_anew_with_the_same_result() -> None:
    config, data = replace(QUICK, epochs=2), (discs(12), discs(4, 1))
    kept, encoder = Patches(), Patches()
    one = train_segmentation(*data, kept, RECIPE, STRUCTURES, config)
    other = train_segmentation(*data, encoder, RECIPE, STRUCTURES, replace(config, cache_gib=0.0))
    assert encoder.seen == 2 * (12 + 4) + 2 and kept.seen == 12 + 4 + 2
    for a, b in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # kept as float16


def test_a_head_of_four_activations_learns_too() -> None:
    from encoder.backbones.dinov2 import RadDino
    from encoder.preprocessing import Recipe
    from tests.encoder.dinov2_models import dinov2

    recipe = Recipe("toy-56", 1, 56, "minmax-then-resize", 0.5, 0.25, "these tests")
    data = [
        SegmentationSet.of(one.images[:, 4:60, 4:60], one.masks(range(len(one)))[..., 4:60, 4:60], STRUCTURES)
        for one in (discs(16), discs(6, 1))
    ]
    config = replace(QUICK, head="upernet", channels=16, epochs=15, learning_rate=0.01)
    encoder = RadDino(dinov2(layers=4))
    inputs = keep_inputs([one.images for one in data], encoder, recipe, 4, "cpu", gib=1)
    assert inputs is not None
    segmenter = train_segmentation(*data, encoder, recipe, STRUCTURES[:1], config, inputs=(inputs[0], inputs[1]))
    assert evaluate(segmenter, encoder, data[1], inputs=inputs[1]).structures["disc"].mean > 0.8
    for short in (replace(config, epochs=1), replace(QUICK, epochs=2)):
        kept = train_segmentation(*data, encoder, recipe, STRUCTURES, short, inputs=(inputs[0], inputs[1]))
        assert same(kept, train_segmentation(*data, encoder, recipe, STRUCTURES, short))


def test_the_few_shot_curve() -> None:
    points = few_shot(
        discs(12), discs(4, 1), discs(6, 2), Patches(), RECIPE, STRUCTURES,
        replace(QUICK, epochs=10, least_steps=2), numbers=(1, 4, 50), seeds=(0, 1),
    )  # fmt: skip
    assert [(one.images, one.seed) for one in points] == [(1, 0), (1, 1), (4, 0), (4, 1), (12, 0), (12, 1)]
    assert points[-1].dice.mean > 0.85 and points[-1].dice.images == 6
    assert json.loads(json.dumps(points[0].to_dict()))["structures"]["disc"]["images"] == 6
    with pytest.raises(ConfigError):
        few_shot(discs(2), discs(2), discs(2), Patches(), RECIPE, STRUCTURES, QUICK, numbers=(0,))


def test_few_images_are_gone_through_repeatedly() -> None:
    data = discs(2), discs(2, 1)
    once = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, replace(QUICK, epochs=3))
    often = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, replace(QUICK, epochs=3, least_steps=20))
    assert often.val_loss < once.val_loss / 2


def test_images_without_a_structure_are_counted_apart(learned: tuple[Segmenter, Patches, list[Epoch]]) -> None:
    data = discs(6, 2)
    masks = data.masks(range(6)).copy()
    masks[:2, 0] = False  # known not to be there, though the pixels still show it
    known = np.ones((6, 2), np.bool_)
    known[2, 0] = False
    changed = SegmentationSet.of(data.images, masks, STRUCTURES, known=known)
    segmenter, encoder, _ = learned
    result = evaluate(segmenter, encoder, changed)
    assert (result.structures["disc"].images, result.empty["disc"], result.false_alarms["disc"]) == (3, 2, 2)
    assert result.structures["disc"].mean > 0.9 and np.isnan(result.values[:3, 0]).all()


def change(data: SegmentationSet, config: SegmentationConfig, workers: int) -> list[bytes]:
    """The augmented images and masks of a run."""
    batches = Batches(data, config, 1, 8, False, workers, 0, 1)
    with closing(batches.stream(0)) as stream:
        return [batch.images.tobytes() + batch.packed.tobytes() for batch in stream]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_augment_the_same_images(workers: int) -> None:
    config = replace(QUICK, epochs=2, batch_size=20, augmentation=SegmentationAugmentation())
    here, there = change(discs(36), config, 0), change(discs(36), config, workers)
    assert len(here) == 4 and here == there and here[0] != here[2]
    torch.set_num_threads(2)
    assert change(discs(36), config, 0) == here


@pytest.mark.slow
def test_a_run_with_workers_and_micro_batches_is_the_same_run() -> None:
    config, data = replace(QUICK, epochs=2, augmentation=SegmentationAugmentation()), (discs(12), discs(4, 1))
    plain = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, config)
    workers = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, config, options=Options(workers=2))
    assert same(plain, workers)
    parts = train_segmentation(*data, Patches(), RECIPE, STRUCTURES, config, options=Options(micro_batch=3))
    for ours, theirs in zip(weights(parts), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_lost_worker_is_said_in_words() -> None:
    config = replace(QUICK, augmentation=SegmentationAugmentation())
    with closing(Batches(discs(80), config, 1, 8, False, 1, 0, 1).stream(0)) as stream:
        next(stream)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        with pytest.raises(LlavaRadError, match="a process that augments images ended"):
            list(stream)


def together(folder: str, environment: dict[str, str]) -> None:
    """One process of a run of two."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    from encoder.runs.distributed import start

    torch.set_num_threads(1)
    config = replace(QUICK, epochs=3, augmentation=SegmentationAugmentation())
    train_segmentation(
        discs(17), discs(5, 1), Patches(), RECIPE, STRUCTURES, config, folder=Path(folder),
        options=Options(micro_batch=2, accelerator=start(bf16=False)),
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Batches of 8, 8 and one image, which only one of the processes has; validation sets of 3 and 2 images."""
    config = replace(QUICK, epochs=3, augmentation=SegmentationAugmentation())
    alone = train_segmentation(discs(17), discs(5, 1), Patches(), RECIPE, STRUCTURES, config)
    server = context("accelerate", "encoder.probing.segmentation.train", "torch.distributed")
    processes = [server.Process(target=together, args=(str(tmp_path), variables)) for variables in ranks(2)]
    for process in processes:
        process.start()
    finish(*processes)
    both = Segmenter.load(tmp_path)
    assert both.epoch == alone.epoch and both.val_loss == pytest.approx(alone.val_loss, rel=1e-5)
    for ours, theirs in zip(weights(both), weights(alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_head_is_of_one_encoder_configuration_and_one_recipe() -> None:
    """Numbers of attention heads and epsilons are in an encoder's configuration alone, not among its weights."""
    from encoder.backbones.dinov2 import RadDino
    from tests.encoder.dinov2_models import dinov2

    recipe = replace(RECIPE, size=56)
    data = SegmentationSet.of(
        discs(4).images[:, 4:60, 4:60], discs(4).masks(range(4))[..., 4:60, 4:60], STRUCTURES
    )  # fmt: skip
    encoder, other = RadDino(dinov2(layers=2)), RadDino(dinov2(layers=2))
    other.model.load_state_dict(encoder.model.state_dict())
    config = replace(QUICK, epochs=1)
    segmenter = train_segmentation(data, data, encoder, recipe, STRUCTURES, config)
    predict(segmenter, other, data.images)
    for module in other.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.1
    with pytest.raises(LlavaRadError, match="another encoder"):
        predict(segmenter, other, data.images)
    prepared = replace(data, recipe=recipe)
    assert evaluate(segmenter, encoder, prepared).epoch == 1
    changed = replace(recipe, scaling="minmax-equalize-then-resize")
    for call in (
        lambda: evaluate(segmenter, encoder, replace(data, recipe=changed)),
        lambda: train_segmentation(data, prepared, encoder, changed, STRUCTURES, config),
    ):
        with pytest.raises(LlavaRadError, match="prepared by another recipe"):
            call()


def test_heads_of_earlier_versions_are_checked_by_weights(tmp_path: Path) -> None:
    encoder = Patches()
    segmenter = train_segmentation(
        discs(4), discs(2, 1), encoder, RECIPE, STRUCTURES, replace(QUICK, epochs=1), folder=tmp_path
    )
    file = tmp_path / "segmenter.json"
    data = json.loads(file.read_text()) | {"format": 1, "encoder": identity(encoder)}
    file.write_text(json.dumps(data))
    old = Segmenter.load(tmp_path)
    np.testing.assert_array_equal(*(predict(one, encoder, discs(2).images) for one in (old, segmenter)))
    old.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "segmenter.json").read_text()) == data
    with torch.no_grad():
        encoder.model.weight.add_(1)
    with pytest.raises(LlavaRadError, match="another encoder"):
        predict(old, encoder, discs(2).images)


def test_what_does_not_go_together_is_refused() -> None:
    data = discs(4), discs(2, 1)
    with pytest.raises(ConfigError, match="U-Net"):
        train_segmentation(*data, None, RECIPE, STRUCTURES, QUICK)
    with pytest.raises(ConfigError, match="U-Net"):
        train_segmentation(*data, Patches(), RECIPE, STRUCTURES, replace(QUICK, head="unet"))
    with pytest.raises(LlavaRadError, match="'heart'"):
        train_segmentation(*data, Patches(), RECIPE, ("heart",), QUICK)
    with pytest.raises(LlavaRadError, match="32 pixels"):
        train_segmentation(*data, Patches(), replace(RECIPE, size=32), STRUCTURES, QUICK)


@pytest.mark.nightly
def test_the_u_net_trains_and_its_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    config = SegmentationConfig(head="unet", epochs=2, batch_size=2, seed=3)
    data = discs(2), discs(2, 1)
    through = train_segmentation(*data, None, RECIPE, STRUCTURES, config)

    def stop(done: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_segmentation(*data, None, RECIPE, STRUCTURES, config, stop, folder=tmp_path)
    assert same(train_segmentation(*data, None, RECIPE, STRUCTURES, config, folder=tmp_path), through)
    assert predict(Segmenter.load(tmp_path), None, discs(1, 2).images).shape == (1, 2, SIZE, SIZE)
