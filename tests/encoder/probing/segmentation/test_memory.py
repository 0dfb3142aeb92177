"""The stated memory of a step, compared with what autograd keeps of a real one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encoder.probing.heads import build_head
from encoder.probing.segmentation.loss import loss_of, loss_sums
from encoder.probing.segmentation.memory import StepMemory, step_memory
from encoder.probing.segmentation.model import SegmentationConfig

WIDTH, SIDE, SIZE = 24, 4, 56


def really_kept(name: str, images: int) -> int:
    """Bytes of the storages that a forward pass saves for the backward pass."""
    head = build_head(name, WIDTH, 2, None if name == "linear" else 16)
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = head([torch.randn(images, WIDTH, SIDE, SIDE) for _ in range(head.layers)])
        masks = torch.zeros(images, 2, SIZE, SIZE, dtype=torch.bool)
        loss_of(loss_sums(logits, masks, torch.ones(images, 2, dtype=torch.bool)), 1.0)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", ["linear", "vitdet", "upernet"])
def test_the_stated_activations_are_those_of_a_real_pass(name: str) -> None:
    config = SegmentationConfig(head=name, channels=None if name == "linear" else 16)
    memory = step_memory(config, WIDTH, SIDE, SIZE, 2)
    assert memory.image == pytest.approx(really_kept(name, 5) - really_kept(name, 4), rel=0.01)
    parameters = sum(one.numel() for one in build_head(name, WIDTH, 2, config.channels).parameters())
    assert memory.weights == 4 * 4 * parameters, "weights, gradients, and two moments in float32"


def test_the_largest_micro_batch_fits_and_is_even() -> None:
    memory = StepMemory(weights=100.0, image=10.0, features=1.0, together=0)
    assert memory.needed(5, 80) == 100 + 50 + 80
    for available, most in ((2000, 80), (600, 27), (225, 1), (0, 1)):
        chosen = memory.largest(available, 80)
        assert chosen == most, available
        assert chosen == 1 or memory.needed(chosen, 80) <= 0.8 * available
    assert StepMemory(100.0, 10.0, 0.0, together=10).largest(0, 80) == 10
    assert memory.text(5, 80) == "about 0 MB for each process: 80 images, 5 at a time"
