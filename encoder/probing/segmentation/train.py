"""Training of a segmentation head on a frozen encoder (paper, E.3.2), and of the U-Net that it is compared with.

A batch goes through the head in parts, one after another and on several processes, and its gradient is that of the
whole batch (``loss``). Order, augmentation and dropped paths follow from seed, epoch and image, or part of a batch, so
that micro-batches, workers and processes change a run by no more than rounding.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from encoder.backbones.base import FrozenEncoder
from encoder.errors import ConfigError, LlavaRadError
from encoder.files import sha256_of
from encoder.preprocessing import Recipe
from encoder.probing.heads import Head, UNet, build_head
from encoder.probing.segmentation.batches import Batch, Batches
from encoder.probing.segmentation.data import Bools, SegmentationSet, tensor
from encoder.probing.segmentation.loss import TERMS, backward, loss_of, loss_sums, summed
from encoder.probing.segmentation.model import (
    Inputs,
    SegmentationConfig,
    Segmenter,
    device_of,
    encoder_key,
    run_head,
)
from encoder.runs.checkpoints import Checkpoints

if TYPE_CHECKING:
    from accelerate import Accelerator


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


@dataclass(frozen=True)
class Options:
    """Options of the computation; only the initial weights change the result by more than rounding.

    Attributes:
        micro_batch: images that go through the head at a time; None for the batch. The U-Net takes the images that
            share batch statistics.
        workers: processes that augment images; 0 for none beside the training.
        image_net: file of ImageNet weights that the U-Net's encoder starts from.
        accelerator: of several processes, each of which calls ``train_segmentation``; the first one writes.
    """

    micro_batch: int | None = None
    workers: int = 0
    image_net: Path | None = None
    accelerator: Accelerator | None = None


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
    options: Options | None = None,
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
        options: how it is computed.

    Raises:
        ConfigError: if head and encoder do not match, or the folder holds another run.
        ModelError: if the U-Net's first weights do not fit.
        LlavaRadError: if sizes or recipes do not match, there are no images, the loss is not finite, or a file cannot
            be written.
    """
    train, val, options = train.select(structures), val.select(structures), options or Options()
    if (encoder is None) != (config.head == "unet"):
        raise ConfigError("the U-Net is trained without an encoder, every other head needs one")
    for data in (train, val):
        if not len(data) or data.size != recipe.size:
            raise LlavaRadError(f"segmentation needs images of {recipe.size} pixels to train on and to choose by")
        data.check_recipe(recipe)
    if config.image_net != ("" if options.image_net is None else sha256_of(options.image_net)):
        raise ConfigError("the U-Net's ImageNet weights are another file than the configuration states")
    device = device_of(encoder, device)
    run = _SegmentationRun(train, val, encoder, recipe, config, device, inputs, options)
    run.resume(folder)
    if run.epoch < config.epochs:
        run.encode()
    with closing(run.batches()) as batches:
        while run.epoch < config.epochs:
            done = run.one_epoch(batches)
            run.save()
            progress(done)
    segmenter = run.segmenter()
    if folder is not None and run.rank == 0:
        segmenter.save(folder)
    return segmenter


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
        options: Options,
    ) -> None:
        self.data, self.config, self.recipe, self.device = train, config, recipe, device
        self.accelerator, self.workers = options.accelerator, options.workers
        self.rank, self.world = 0, 1
        if options.accelerator is not None:
            self.rank, self.world = options.accelerator.process_index, options.accelerator.num_processes
        self.micro_batch = options.micro_batch or config.batch_size
        self.width, self.encoder = 0 if encoder is None else encoder.width, encoder_key(encoder)
        with _seeded(config.seed, device):
            self.head: Head = build_head(config.head, self.width, len(train.structures), config.channels)
        if self.head.together:
            if options.micro_batch and options.micro_batch < min(self.head.together, config.batch_size):
                raise ConfigError(
                    f"the U-Net's batch statistics are of {self.head.together} images, which are in memory together",
                    hint="a smaller micro-batch would change them; --precision bf16 halves the memory",
                )
            self.micro_batch = self.head.together
        if isinstance(self.head, UNet) and options.image_net is not None:
            self.head.load_image_net(options.image_net)
        self.name = self._name(val)
        mine = np.arange(self.rank, len(val), self.world)
        self.val = val if self.world == 1 else val.subset(mine)
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
        if inputs is not None and self.world > 1:
            self.val_inputs = self.val_inputs.subset(mine)

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

    def batches(self) -> Generator[Batch]:
        """Yield this process's part of each remaining step."""
        config, together = replace(self.config, augmentation=self.changes), self.head.together > 0
        return Batches(
            self.data, config, self.passes, self.micro_batch, together, self.workers, self.rank, self.world
        ).stream(self.epoch)

    def one_epoch(self, batches: Iterator[Batch]) -> Epoch:
        """Train on the next batches and validate."""
        started, total, config = time.perf_counter(), 0.0, self.config
        steps = self.passes * self._steps_of_a_pass
        self.head.train()
        for step in range(steps):
            share = (self.epoch * steps + step) / (config.epochs * steps)
            rate = config.learning_rate * (1 + math.cos(math.pi * share)) / 2
            self.optimizer.param_groups[0]["lr"] = rate
            total += self._step(next(batches))
        self.epoch += 1
        loss = self._validate()
        if not math.isfinite(total + loss):
            raise LlavaRadError(f"the loss is not finite in epoch {self.epoch}", hint="try a lower learning rate")
        best = loss < self.best_loss
        if best:
            self.best_epoch, self.best_loss = self.epoch, loss
            self.best = copy.deepcopy(self.head.state_dict())
        return Epoch(self.epoch, total / steps, loss, rate, time.perf_counter() - started, best)

    def _step(self, batch: Batch) -> float:
        """Move the weights by the gradient of the whole batch; return its loss."""
        features = None
        if self.head.layers and batch.own:
            kept = self.inputs.kept(batch.numbers) if self.changes is None else None
            features = kept or self.inputs.of(batch.images)

        def sums_of(part: int) -> torch.Tensor:
            where = batch.own[part]
            maps = self.inputs.of(batch.images[where]) if features is None else [one[where] for one in features]
            seed = np.random.SeedSequence((self.config.seed, *batch.time, part)).generate_state(1, np.uint64)
            with _seeded(int(seed[0]), self.device):
                return self._sums(maps, self.data.unpack(batch.packed[where]), self.data.known[batch.numbers[where]])

        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(
            self.head, sums_of, list(batch.own), batch.count, len(self.data.structures), self.config.dice_weight,
            self.accelerator,
        )  # fmt: skip
        self.optimizer.step()
        return loss

    def _sums(self, maps: list[torch.Tensor], masks: Bools, known: Bools) -> torch.Tensor:
        logits = run_head(self.head, maps, self.config, self.device)
        return loss_sums(logits, tensor(masks).to(self.device), tensor(known).to(self.device))

    @torch.no_grad()
    def _validate(self) -> float:
        self.head.eval()
        sums = torch.zeros(TERMS, len(self.val.structures), dtype=torch.float64)
        for start in range(0, len(self.val), self.micro_batch):
            numbers = np.arange(start, min(start + self.micro_batch, len(self.val)))
            maps = self.val_inputs.kept(numbers) or self.val_inputs.of(self.val.images[numbers])
            sums += self._sums(maps, self.val.masks(numbers), self.val.known[numbers]).double().cpu()
        if self.accelerator is not None:
            exact = torch.float32 if self.device.type == "mps" else torch.float64
            sums = summed(sums.to(self.device, exact), self.accelerator).double().cpu()
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
        if state["run"] != self.name:
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
        if self.checkpoints is None or self.rank:
            return
        slots = {
            f"{number}.{key}": one
            for number, values in self.optimizer.state_dict()["state"].items()
            for key, one in values.items()
        }
        tensors = {"head": self.head.state_dict(), "best": self.best, "optimizer": slots}
        state = {
            "run": self.name, "epoch": self.epoch, "best_epoch": self.best_epoch, "best_loss": self.best_loss,
        }  # fmt: skip
        self.checkpoints.save(self.epoch, tensors, state)

    def _name(self, val: SegmentationSet) -> str:
        facts: list[Any] = [self.config.to_dict(), self.recipe.to_dict(), self.encoder, self.head.together]
        facts += [self.data.fingerprint(), val.fingerprint()]
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
