"""The loss, and the gradient of a whole batch from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from encoder.probing.heads import Head, build_head
from encoder.probing.segmentation.loss import TERMS, backward, loss_of, loss_sums, parts_of

SIDE, SIZE, WIDTH, KINDS = 4, 16, 32, 2


def test_loss_by_hand() -> None:
    logits = torch.zeros(2, 1, 2, 2)
    masks = torch.tensor([[[[True, False], [False, False]]], [[[True, True], [True, True]]]])
    sums = loss_sums(logits, masks, torch.ones(2, 1, dtype=torch.bool))
    # all probabilities are 1/2: 2 * 2.5 + 1 over 4 + 5 + 1
    assert float(loss_of(sums, 1.0)) == pytest.approx(np.log(2) + 1 - 6 / 10)
    assert float(loss_of(sums, 0.0)) == pytest.approx(np.log(2))
    one = loss_sums(logits, masks, torch.tensor([[True], [False]]))
    assert float(loss_of(one, 1.0)) == pytest.approx(np.log(2) + 1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert float(loss_of(torch.zeros(4, 1), 1.0)) == 0


@pytest.mark.parametrize(
    ("count", "most", "world"), [(80, 80, 1), (80, 30, 1), (7, 2, 1), (80, 80, 8), (1, 5, 3), (11, 10, 1)]
)
def test_parts_are_even_and_complete(count: int, most: int, world: int) -> None:
    parts = parts_of(count, most, world)
    sizes = [part.stop - part.start for part in parts]
    assert [image for part in parts for image in range(count)[part]] == list(range(count))
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and len(parts) >= min(world, count)


def batch(images: int, layers: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Activations, masks, some of which nobody has drawn, and an image without either structure."""
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(images, WIDTH, SIDE, SIDE, generator=generator) for _ in range(layers)]
    masks = torch.rand(images, KINDS, SIZE, SIZE, generator=generator) < 0.3
    masks[0] = False
    known = torch.ones(images, KINDS, dtype=torch.bool)
    known[1, 0] = known[3] = False
    return maps, masks, known


def gradients(head: nn.Module) -> list[torch.Tensor]:
    found = [one.grad.clone() for one in head.parameters() if one.grad is not None]
    head.zero_grad(set_to_none=True)
    return found


def relative(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Largest difference of a tensor's gradient, relative to that tensor's largest gradient."""
    assert len(ours) == len(theirs) and theirs
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("micro", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["linear", "vitdet", "upernet"])
def test_the_gradient_of_parts_is_that_of_the_batch(name: str, micro: int) -> None:
    """The reference is plain autograd through the loss of the whole batch."""
    torch.manual_seed(0)
    head = build_head(name, WIDTH, KINDS, None if name == "linear" else 16)
    maps, masks, known = batch(7, head.layers)
    whole = loss_of(loss_sums(head(maps), masks, known), 1.0)
    whole.backward()
    expected = gradients(head)
    parts = parts_of(7, micro)

    def sums_of(part: int) -> torch.Tensor:
        where = parts[part]
        return loss_sums(head([one[where] for one in maps]), masks[where], known[where])

    loss = backward(head, sums_of, range(len(parts)), len(parts), KINDS, 1.0)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-6)
    assert relative(gradients(head), expected) < 1e-5

    averages = [gradients(head) for part in range(len(parts)) if loss_of(sums_of(part), 1.0).backward() is None]
    mean = [torch.stack(one).mean(0) for one in zip(*averages, strict=True)]
    assert relative(mean, expected) > 0.01, "what plain accumulation would give"


class Normalised(Head):
    """Batch normalisation and dropout, as the U-Net has them."""

    layers: ClassVar[int] = 1
    together: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(WIDTH, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(8, KINDS, 1)
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.network(maps[0])
        return found


def seeded(part: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(part)
    return compute()


def test_images_that_share_batch_statistics_have_the_gradient_of_one_graph_and_move_the_statistics_once() -> None:
    torch.manual_seed(0)
    head = Normalised().train()
    maps, masks, known = batch(8, 1)
    parts = parts_of(8, head.together)
    assert [part.stop - part.start for part in parts] == [2, 3, 3]

    def sums_of(part: int) -> torch.Tensor:
        where = parts[part]
        return seeded(part, lambda: loss_sums(head([maps[0][where]]), masks[where], known[where]))

    norm = head.network[1]
    values = head.network[0](maps[0])
    means = torch.stack([values[part].mean((0, 2, 3)) for part in parts]).mean(0).detach()
    spreads = torch.stack([values[part].transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0).detach()

    together = sum(sums_of(part) for part in range(len(parts)))
    assert isinstance(together, torch.Tensor) and together.shape == (TERMS, KINDS)
    loss_of(together, 1.0).backward()
    expected = gradients(head)
    norm.reset_running_stats()
    backward(head, sums_of, range(len(parts)), len(parts), KINDS, 1.0)
    assert relative(gradients(head), expected) < 1e-5
    torch.testing.assert_close(norm.running_mean, 0.1 * means)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * spreads)
    assert int(norm.num_batches_tracked) == 1
