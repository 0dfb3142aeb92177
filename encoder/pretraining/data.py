"""Batches of crops and masks, endless, in an order that depends on nothing but the seed.

The images of a run are drawn one after another: draw position ``p`` is image ``order[p % n]`` of pass ``p // n``, and
each pass has a random order of its own. Which positions a batch holds, how their crops are cut and masked, all follow
from the position. So a run that resumes at a step, on any number of processes with any number of workers, sees the
same batches as one that never stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row, read_manifest
from encoder.datasets.pixel_cache import Progress
from encoder.datasets.splits import Selection, disjoint, select
from encoder.errors import ConfigError, LlavaRadError
from encoder.pretraining.augmentation import GLOBAL_CROPS, MultiCrop
from encoder.pretraining.config import PretrainingConfig, Range
from encoder.pretraining.masking import MaskedPatches, batch_masks, check_masks, masked_patches, most_masked
from encoder.pretraining.randomness import Purpose, generator
from encoder.runs.workers import PREFETCH, begin_worker, next_item, worker_context


class Images(Protocol):
    """Images by number. With workers, it is pickled to them: files should be reopened there, not sent."""

    def __len__(self) -> int: ...

    def image(self, i: int) -> npt.NDArray[np.uint8]:
        """[h, w], brighter means denser."""


@dataclass
class Batch:
    """Crops and masks of one backward pass on one process.

    Attributes:
        global_crops: uint8 [2, b, S, S]: view 1 and view 2 of each image.
        local_crops: uint8 [V, b, s, s].
        masks: bool [2, b, N], True for patches hidden from the student, row by row; all False for an unmasked crop.
        positions: int64 [b], draw positions.
        masked: the masked patches, by default those of ``masks``.
        wait_s: time that the training waited for this batch, in seconds.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor
    masks: torch.Tensor
    positions: torch.Tensor
    masked: MaskedPatches = None  # type: ignore[assignment]  # never None once made
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        if self.masked is None:
            self.masked = masked_patches(self.masks.numpy())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the data loader calls this."""
        return self._each(torch.Tensor.pin_memory)

    def digest(self) -> str:
        """SHA-256 of crops, masks and positions, in hexadecimal."""
        sha = hashlib.sha256()
        for name, tensor in self._tensors().items():
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sha.update(tensor.cpu().contiguous().numpy().data)
        return sha.hexdigest()

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        masked = MaskedPatches(change(self.masked.tokens), change(self.masked.weights), self.masked.number)
        changed = {name: change(tensor) for name, tensor in self._tensors().items()}
        return Batch(**changed, masked=masked, wait_s=self.wait_s)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            "global_crops": self.global_crops,
            "local_crops": self.local_crops,
            "masks": self.masks,
            "positions": self.positions,
        }


def images_per_process(config: PretrainingConfig, world: int) -> int:
    """Images of each batch of each of ``world`` processes.

    Raises:
        ConfigError: if the batch cannot be divided evenly.
    """
    parts = config.optimization.accumulation * world
    images, rest = divmod(config.optimization.batch_size, parts)
    if rest or not images:
        raise ConfigError(
            f"optimization.batch_size = {config.optimization.batch_size} cannot be divided among {world} processes"
            f" x {config.optimization.accumulation} accumulated batches",
            hint=f"use a multiple of {parts}",
        )
    return images


def batches(images: Images, config: PretrainingConfig, *, step: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """The batches of process ``rank`` of ``world`` from optimiser step ``step`` on, without end.

    Each step has ``config.optimization.accumulation`` batches. Close the iterator to end its workers.

    Raises:
        ConfigError: if the batch cannot be divided evenly, or is too small to mask a crop, or there are no images.
    """
    if not len(images):
        raise ConfigError("there are no images to train on", hint="look at data.views, data.splits and data.exclude")
    check_masks(config)
    source = MicroBatches(images, config, rank=rank, world=world)
    workers = config.data.workers
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=itertools.count(step * config.optimization.accumulation),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context=worker_context(__name__) if workers else None,
        worker_init_fn=begin_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or starting it would advance torch's global one
    )
    return _timed(loader)


def _timed(loader: DataLoader[Batch | LlavaRadError]) -> Iterator[Batch]:
    started = time.perf_counter()
    stream = iter(loader)
    try:
        while True:
            batch = next_item(stream, _lost() if loader.num_workers else None)
            if isinstance(batch, LlavaRadError):
                raise batch
            batch.wait_s = time.perf_counter() - started
            yield batch
            started = time.perf_counter()
    finally:
        del stream  # ends the workers now; in the garbage collector, they do not hear of it and are waited for


def _lost() -> LlavaRadError:
    return LlavaRadError(
        "a process that cuts crops ended unexpectedly, probably for want of memory or shared memory (/dev/shm)",
        hint="use fewer data.workers, or 0",
    )


class _Shares(TypedDict):
    images: int
    side: int
    probability: float
    ratio: Range


class MicroBatches(Dataset["Batch | LlavaRadError"]):
    """Batches by number: batch ``step * accumulation + a`` is the a-th of its optimiser step.

    The batches of one step on all processes are together the step's ``batch_size`` images, however they are divided.
    """

    def __init__(self, images: Images, config: PretrainingConfig, *, rank: int, world: int) -> None:
        self._images = images
        self._config = config
        self._rank = rank
        self._world = world
        self._count = images_per_process(config, world)
        self._multi_crop = MultiCrop(config.crops, config.augmentation)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __getitem__(self, number: int) -> Batch | LlavaRadError:
        try:
            return self._batch(number)
        except LlavaRadError as error:
            # as a value, since a worker's exceptions arrive with its traceback as their message; plain, since not
            # every kind can be pickled
            return LlavaRadError(str(error), hint=error.hint)

    def _batch(self, number: int) -> Batch:
        config, crops, count = self._config, self._config.crops, self._count
        step, turn = divmod(number, config.optimization.accumulation)
        first = step * config.optimization.batch_size
        start = (turn * self._world + self._rank) * count
        mine = slice(start, start + count)
        positions = range(first + mine.start, first + mine.stop)
        global_crops = torch.empty((GLOBAL_CROPS, count, crops.global_size, crops.global_size), dtype=torch.uint8)
        local_crops = torch.empty((crops.local_crops, count, crops.local_size, crops.local_size), dtype=torch.uint8)
        global_out, local_out = global_crops.numpy(), local_crops.numpy()
        for i, position in enumerate(positions):
            image = self._images.image(self._index(position))
            rng = generator(config.seed, Purpose.CROPS, position)
            self._multi_crop(image, rng, global_out[:, i], local_out[:, i])
        shares: _Shares = {
            "images": config.optimization.batch_size,
            "side": crops.global_size // config.model.patch_size,
            "probability": config.masking.probability if config.loss.ibot else 0.0,
            "ratio": config.masking.ratio,
        }
        masks = batch_masks(seed=config.seed, batch=step, first=first, part=mine, **shares)
        masked = masked_patches(masks, most_masked(part=count, **shares))
        return Batch(global_crops, local_crops, torch.from_numpy(masks), torch.tensor(positions), masked)

    def _index(self, position: int) -> int:
        turn, place = divmod(position, len(self._images))
        if turn not in self._orders:
            self._orders = {known: order for known, order in self._orders.items() if known == turn - 1}
            self._orders[turn] = generator(self._config.seed, Purpose.ORDER, turn).permutation(len(self._images))
        return int(self._orders[turn][place])


@dataclass(frozen=True)
class TrainingRows(Selection):
    """Images to train on.

    Attributes:
        unasked: data set -> number of images of its split ``test`` that are trained on although no ``splits`` names it.
        empty: positions, from 1, of manifests whose views and splits leave none of their images.
    """

    unasked: dict[str, int]
    empty: tuple[int, ...]

    def lines(self) -> list[str]:
        """For each data set, the number of images that are trained on, and of those left out for each reason."""
        kept = Counter(row.dataset for row in self.rows)
        lines = []
        for dataset in sorted({*kept, *self.left_out}):
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.left_out.get(dataset, {}).items())
            lines.append(
                f"{dataset or 'unnamed'}: {kept[dataset]:,} kept" + (f", left out: {reasons}" if reasons else "")
            )
        return lines

    def warnings(self) -> list[str]:
        """Warn of test images that nobody asked for, and of manifests that give no image."""
        counted = ", ".join(f"{dataset or 'unnamed'} {number:,}" for dataset, number in sorted(self.unasked.items()))
        found = [
            f"data.manifests: no image of number {number} has the views and splits asked for" for number in self.empty
        ]
        if counted:
            found.append(
                f"test images are trained on ({counted}), since no splits are given: results on them are not valid. "
                "data.splits=[train] or a manifest's own splits leave them out; "
                'data.splits=[train, val, test, ""] takes them, as the paper does but for MIMIC-CXR (table D.1)'
            )
        return found


def training_rows(config: PretrainingConfig) -> TrainingRows:
    """The images of ``data``, filtered, without the subjects and images of ``data.exclude``.

    Raises:
        ConfigError: if no images are named or none is left, a manifest cannot be read, the subset is larger than the
            rest, or an image is taken from one manifest and left out by the split of another. The message names a
            manifest by its position in the list, not by its path.
    """
    data = config.data
    if data.folder is not None and data.manifests:
        raise ConfigError("data.manifests and data.folder are both given", hint="take one of them")
    if data.folder is not None:
        tables = [(_folder(data.folder), data.views, data.splits)]
    elif data.manifests:
        read = _read("data.manifests", [manifest.path for manifest in data.manifests])
        tables = [
            (rows, data.views if one.views is None else one.views, data.splits if one.splits is None else one.splits)
            for rows, one in zip(read, data.manifests, strict=True)
        ]
    else:
        raise ConfigError(
            "there are no images: neither data.manifests nor data.folder is given",
            hint="data.manifests=[FILE.csv], which llava-rad manifest writes, or data.folder=FOLDER",
        )
    exclude = [row for rows in _read("data.exclude", data.exclude) for row in rows]
    filtered = [select(rows, views=views, splits=splits) for rows, views, splits in tables]
    merged = [row for selection in filtered for row in selection.rows]
    try:
        selection = select(merged, exclude=exclude, subset=data.subset, seed=config.seed).with_others(filtered)
    except LlavaRadError as error:
        raise ConfigError(f"data.subset: {error}", hint=error.hint) from None
    if not selection.rows:
        left_out = ", ".join(f"{reason} {number:,}" for reason, number in selection.dropped.items())
        total = sum(len(rows) for rows, _, _ in tables)
        raise ConfigError(f"none of {total:,} images is left to train on ({left_out or 'the manifests are empty'})")
    if len(tables) > 1:
        held = {row.path: row.split for rows, _, splits in tables if splits for row in rows if row.split not in splits}
        if shared := [row for row in selection.rows if held.get(row.path, row.split) != row.split]:
            raise ConfigError(
                f"data.manifests: {len(shared):,} images are in two manifests, one of which leaves them out by "
                f"their split ({held[shared[0].path] or 'none'}; {shared[0].split or 'none'} in the other)",
                hint="take each image from one manifest, or give both the same splits",
            )
    tests = {
        row.path
        for one, (_, _, splits) in zip(filtered, tables, strict=True)
        if splits is None
        for row in one.rows
        if row.split == "test"
    }
    unasked = Counter(row.dataset for row in selection.rows if row.path in tests)
    empty = tuple(number for number, one in enumerate(filtered, 1) if not one.rows)
    return TrainingRows(selection.rows, selection.left_out, dict(unasked), empty)


def cache_folder(config: PretrainingConfig, output: Path) -> Path:
    """Folder of the pixel cache: ``data.cache``, or in the run folder."""
    return Path(config.data.cache).expanduser() if config.data.cache else output / "cache"


def cache_builder(
    config: PretrainingConfig, output: Path, rows: Sequence[Row], progress: Progress, notify: Callable[[str], None]
) -> Builder:
    """Make the builder of the pixel cache of some rows; see ``encoder.datasets.cache_building``."""
    data = config.data
    return Builder(
        rows,
        cache_folder(config, output),
        size=data.size,
        workers=data.workers,
        max_unreadable=data.max_unreadable,
        progress=progress,
        notify=notify,
    )


def probe_rows(config: PretrainingConfig) -> list[Row]:
    """The labelled images of ``probe.manifest`` in the splits ``train`` and ``val``; none where there is no probing.

    Raises:
        ConfigError: if the manifest cannot be read, has no labels, a split is empty, or a subject is in both.
    """
    if config.probe.manifest is None:
        return []
    (table,) = _read("probe.manifest", [config.probe.manifest])
    rows = [row for row in table if row.split in ("train", "val")]
    if not any(row.labels for row in rows):
        raise ConfigError("probe.manifest has no labelled images in the splits train and val")
    for split in ("train", "val"):
        if not any(row.split == split for row in rows):
            raise ConfigError(f"probe.manifest has no images in the split {split}")
    try:
        disjoint(rows)
    except LlavaRadError as error:
        raise ConfigError(f"probe.manifest: {error}", hint=error.hint) from None
    return rows


def _folder(folder: str) -> list[Row]:
    from encoder.datasets.registry import DATASETS

    try:
        rows, _ = DATASETS["folder"].rows(Path(folder).expanduser())
    except LlavaRadError as error:
        raise ConfigError(f"data.folder: {error}", hint=error.hint) from None
    return rows


def _read(key: str, files: Sequence[str]) -> list[list[Row]]:
    tables: list[list[Row]] = []
    for number, file in enumerate(files, 1):
        try:
            tables.append(read_manifest(Path(file).expanduser()))
        except LlavaRadError as error:
            which = f", number {number} of {len(files)}" if len(files) > 1 else ""
            raise ConfigError(f"{key}{which}: {error}", hint=error.hint) from None
    return tables
