"""Training of a segmentation head on a frozen encoder (paper, E.3.2), and of the U-Net that it is compared with.

The paper names no loss. Lung zones lie inside lungs and tubes cross ribs, so each structure is a binary decision of
its own.
Cross-entropy alone gives little weight to thin structures; soft Dice (Milletari et al. 2016), close to the evaluated
score, is added as in nnU-Net (Isensee et al. 2021). Dice is taken over all pixels of a batch together: an image
without the
structure, as most of CANDID-PTX are, has no Dice of its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import Recipe
from encoder.probing.heads import Head, build_head, to_size
from encoder.probing.segmentation.data import SegmentationSet, augmented, may_flip, tensor
from encoder.probing.segmentation.model import Inputs, SegmentationConfig, Segmenter, device_of, run_head
from encoder.probing.vectors import identity
from encoder.runs.checkpoints import Checkpoints


@dataclass(frozen=True)
class Epoch:
    """Result of an epoch.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over its steps.
        val_loss: over all validation images together.
        learning_rate: of its last step.
        seconds: duration.
        best: its validation loss is the lowest so far.
    """

    epoch: int
    train_loss: float
    val_loss: float
    learning_rate: float
    seconds: float
    best: bool


def train_segmentation(
    train: SegmentationSet,
    val: SegmentationSet,
    encoder: FrozenEncoder | None,
    recipe: Recipe,
    structures: Sequence[str],
    config: SegmentationConfig,
    progress: Callable[[Epoch], None] = lambda epoch: None,
    *,
    folder: Path | None = None,
    device: torch.device | str | None = None,
    inputs: tuple[Inputs, Inputs] | None = None,
) -> Segmenter:
    """Train one head for all structures and return the epoch with the lowest validation loss.

    The optimizer is Adam; its learning rate decays to 0 by a cosine, step by step. Runs with the same seed on the same
    machine are equal, resumed ones too: order and augmentation depend on seed, epoch and image alone.

    Args:
        train: training images.
        val: images of other subjects, which choose the epoch; never augmented.
        encoder: frozen; None for the U-Net.
        recipe: preprocessing of the images.
        structures: names of the masks to learn.
        config: of the training.
        progress: called after each epoch.
        folder: receives a checkpoint of each epoch and the segmenter; the same call resumes from it.
        device: of the head; default: the encoder's, else the CPU.
        inputs: precomputed activations of training and validation images; nothing is augmented then.

    Raises:
        ConfigError: if head and encoder do not match, or the folder holds another run.
        LlavaRadError: if sizes do not match, there are no images, the loss is not finite, or a file cannot be written.
    """
    train, val = train.select(structures), val.select(structures)
    if (encoder is None) != (config.head == "unet"):
        raise ConfigError("the U-Net is trained without an encoder, every other head needs one")
    for data in (train, val):
        if not len(data) or data.size != recipe.size:
            raise LlavaRadError(f"segmentation needs images of {recipe.size} pixels to train on and to choose by")
    device = device_of(encoder, device)
    run = _SegmentationRun(train, val, encoder, recipe, config, device, inputs)
    run.resume(folder)
    if run.epoch < config.epochs:
        run.encode()
    while run.epoch < config.epochs:
        done = run.one_epoch()
        run.save()
        progress(done)
    segmenter = run.segmenter()
    if folder is not None:
        segmenter.save(folder)
    return segmenter


def loss_sums(logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Compute the terms of the loss, which are summed over batches.

    Args:
        logits: [B, K, h, w]; resized to the masks here.
        masks: [B, K, S, S] bool.
        known: [B, K] bool; unknown masks have no weight.

    Returns:
        [4, K]: sum over images of the mean cross-entropy (nats); number of images; sum of probabilities over the truth;
        sum of probabilities and truth.
    """
    logits, truth = to_size(logits, masks.shape[-2:]), masks.to(logits.dtype)
    weight = known.to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    probs = torch.sigmoid(logits)
    both, total = (probs * truth).sum((2, 3)), probs.sum((2, 3)) + truth.sum((2, 3))
    return torch.stack([(weight * one).sum(0) for one in (entropy, torch.ones_like(entropy), both, total)])


def loss_of(sums: torch.Tensor, dice_weight: float) -> torch.Tensor:
    """Compute the loss: the mean over all structures with a known mask.

    Args:
        sums: [4, K] of ``loss_sums``, of one batch or of many.
        dice_weight: of soft Dice, ``1 - (2 both + 1) / (total + 1)``; the added pixel avoids division by zero.
    """
    entropy, images, both, total = sums
    dice = 1 - (2 * both + 1) / (total + 1)
    losses = entropy / images.clamp_min(1) + dice_weight * dice
    there = (images > 0).to(losses.dtype)
    mean: torch.Tensor = (losses * there).sum() / there.sum().clamp_min(1)
    return mean


def head_layers(config: SegmentationConfig) -> int:
    """Number of activations that the configured head takes."""
    with torch.device("meta"):
        return build_head(config.head, 64, 1, config.channels).layers


class _SegmentationRun:
    """State of a run between two epochs."""

    def __init__(
        self,
        train: SegmentationSet,
        val: SegmentationSet,
        encoder: FrozenEncoder | None,
        recipe: Recipe,
        config: SegmentationConfig,
        device: torch.device,
        inputs: tuple[Inputs, Inputs] | None,
    ) -> None:
        self.data, self.val, self.config, self.recipe, self.device = train, val, config, recipe, device
        self.width, self.encoder = (0, "") if encoder is None else (encoder.width, identity(encoder))
        with _seeded(config.seed, device):
            self.head: Head = build_head(config.head, self.width, len(train.structures), config.channels)
        self.head.to(device)
        self.optimizer = torch.optim.Adam(self.head.parameters(), config.learning_rate)
        self.epoch, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.best = copy.deepcopy(self.head.state_dict())
        self.passes = -(-config.least_steps // self._steps_of_a_pass)
        self.checkpoints: Checkpoints | None = None
        self.changes = config.augmentation if inputs is None else None
        self.given = inputs is not None
        fresh = Inputs(encoder, recipe, self.head.layers, device), Inputs(encoder, recipe, self.head.layers, device)
        self.inputs, self.val_inputs = inputs or fresh

    def encode(self) -> None:
        """Compute the activations of unchanged images once, if they fit into memory."""
        if self.given:
            return
        limit = self.config.cache_gib
        if self.changes is None:
            limit /= len(self.data) + len(self.val)
            self.inputs.keep(self.data.images, limit * len(self.data))
            limit *= len(self.val)
        self.val_inputs.keep(self.val.images, limit)

    @property
    def _steps_of_a_pass(self) -> int:
        return -(-len(self.data) // self.config.batch_size)

    def one_epoch(self) -> Epoch:
        started, total, config = time.perf_counter(), 0.0, self.config
        steps = self.passes * self._steps_of_a_pass
        self.head.train()
        with _seeded((config.seed << 20) + self.epoch + 1, self.device):
            for step, (numbers, visit) in enumerate(self._order()):
                share = (self.epoch * steps + step) / (config.epochs * steps)
                rate = config.learning_rate * (1 + math.cos(math.pi * share)) / 2
                self.optimizer.param_groups[0]["lr"] = rate
                total += self._step(numbers, visit)
        self.epoch += 1
        loss = self._validate()
        if not math.isfinite(total + loss):
            raise LlavaRadError(f"the loss is not finite in epoch {self.epoch}", hint="try a lower learning rate")
        best = loss < self.best_loss
        if best:
            self.best_epoch, self.best_loss = self.epoch, loss
            self.best = copy.deepcopy(self.head.state_dict())
        return Epoch(self.epoch, total / steps, loss, rate, time.perf_counter() - started, best)

    def _order(self) -> Iterator[tuple[npt.NDArray[np.intp], int]]:
        """Yield the images of each step, and the number of earlier passes over them in this epoch."""
        rng, size = np.random.default_rng((self.config.seed, self.epoch)), self.config.batch_size
        for visit in range(self.passes):
            order = rng.permutation(len(self.data))
            for start in range(0, len(order), size):
                yield order[start : start + size], visit

    def _step(self, numbers: npt.NDArray[np.intp], visit: int) -> float:
        masks, known = tensor(self.data.masks(numbers)), tensor(self.data.known[numbers])
        maps = None if self.changes is not None else self.inputs.kept(numbers)
        if maps is None:
            images = tensor(self.data.images[numbers])
            if self.changes is not None:
                key = (self.config.seed, self.epoch, visit)
                generators = [np.random.default_rng((*key, int(number))) for number in numbers]
                images, masks = augmented(images, masks, generators, self.changes, flip=may_flip(self.data.structures))
            maps = self.inputs.of(images)
        sums = loss_sums(
            run_head(self.head, maps, self.config, self.device), masks.to(self.device), known.to(self.device)
        )
        loss = loss_of(sums, self.config.dice_weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def _validate(self) -> float:
        self.head.eval()
        sums = torch.zeros(4, len(self.val.structures), dtype=torch.float64)
        for start in range(0, len(self.val), self.config.batch_size):
            numbers = np.arange(start, min(start + self.config.batch_size, len(self.val)))
            maps = self.val_inputs.kept(numbers) or self.val_inputs.of(self.val.images[numbers])
            masks, known = tensor(self.val.masks(numbers)), tensor(self.val.known[numbers])
            sums += (
                loss_sums(
                    run_head(self.head, maps, self.config, self.device), masks.to(self.device), known.to(self.device)
                )
                .double()
                .cpu()
            )
        return float(loss_of(sums, self.config.dice_weight))

    def resume(self, folder: Path | None) -> None:
        """Resume from a folder's newest checkpoint, if it has one, and save checkpoints there."""
        if folder is None:
            return
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        newest = self.checkpoints.latest()
        if newest is None:
            return
        tensors, state = self.checkpoints.load(newest)
        if state["run"] != self._name():
            raise ConfigError(
                "the folder holds a run with another configuration, encoder or other images",
                hint="give another folder, or remove this one",
            )
        self.epoch, self.best_epoch, self.best_loss = state["epoch"], state["best_epoch"], state["best_loss"]
        self.head.load_state_dict(tensors["head"])
        self.best = {name: one.to(self.device) for name, one in tensors["best"].items()}
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, one in tensors["optimizer"].items():
            number, _, key = name.partition(".")
            slots.setdefault(int(number), {})[key] = one
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})

    def save(self) -> None:
        """Save this epoch's checkpoint."""
        if self.checkpoints is None:
            return
        slots = {
            f"{number}.{key}": one
            for number, values in self.optimizer.state_dict()["state"].items()
            for key, one in values.items()
        }
        tensors = {"head": self.head.state_dict(), "best": self.best, "optimizer": slots}
        state = {
            "run": self._name(), "epoch": self.epoch, "best_epoch": self.best_epoch, "best_loss": self.best_loss,
        }  # fmt: skip
        self.checkpoints.save(self.epoch, tensors, state)

    def _name(self) -> str:
        facts: list[Any] = [asdict(self.config), self.recipe.to_dict(), self.encoder]
        facts += [self.data.fingerprint(), self.val.fingerprint()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def segmenter(self) -> Segmenter:
        """Return the head of the best epoch."""
        head = copy.deepcopy(self.head)
        head.load_state_dict(self.best)
        return Segmenter(
            head.eval(),
            self.config, self.recipe, self.data.structures, self.width, self.encoder, self.best_epoch, self.best_loss,
        )  # fmt: skip


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (initial weights, dropout) within the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed % (1 << 63))
        yield
