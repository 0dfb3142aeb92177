"""Batches of a segmentation training: their order, their parts, and which process takes which.

Everything follows from seed, epoch and image: a run that resumes, on any number of processes with any number of
workers, sees the same images changed in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from encoder.probing.segmentation.augmentation import Task, augmented_stream, may_flip
from encoder.probing.segmentation.data import SegmentationSet
from encoder.probing.segmentation.loss import parts_of
from encoder.probing.segmentation.model import CHUNK, SegmentationConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's images of a step.

    Attributes:
        numbers: n of the images.
        images: [n, S, S].
        packed: [n, K, bytes], their masks.
        own: part of the batch -> its position in ``numbers``.
        count: parts of the batch on all processes.
        time: epoch, pass over the images within it, and step.
    """

    numbers: npt.NDArray[np.intp]
    images: npt.NDArray[np.uint8]
    packed: npt.NDArray[np.uint8]
    own: dict[int, slice]
    count: int
    time: tuple[int, int, int]


@dataclass(frozen=True)
class Batches:
    """The batches of one process.

    Attributes:
        data: training images.
        config: of the training.
        passes: over the images in an epoch.
        most: images of a part.
        together: parts have the same images on any number of processes, since they share batch statistics.
        workers: processes that augment.
        rank: of this process.
        world: number of processes.
    """

    data: SegmentationSet
    config: SegmentationConfig
    passes: int
    most: int
    together: bool
    workers: int
    rank: int
    world: int

    def stream(self, epoch: int) -> Generator[Batch]:
        """Yield the batches from an epoch (counted from 0) to the end of the run. Close it to end the workers."""
        config = self.config.augmentation
        if config is None:
            yield from self._plan(epoch)
            return
        plan, same = itertools.tee(self._plan(epoch))
        flip = may_flip(self.data.structures)
        with closing(augmented_stream(self._tasks(same), config, flip=flip, workers=self.workers)) as found:
            for batch in plan:
                parts = [next(found) for _ in range(0, len(batch.numbers), CHUNK)]
                if parts:
                    images, packed = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                    batch = replace(batch, images=images, packed=packed)
                yield batch

    def _tasks(self, batches: Iterator[Batch]) -> Iterator[Task]:
        for batch in batches:
            for start in range(0, len(batch.numbers), CHUNK):
                end = start + CHUNK
                keys = [(self.config.seed, *batch.time[:2], int(number)) for number in batch.numbers[start:end]]
                yield Task(batch.images[start:end], batch.packed[start:end], keys)

    def _plan(self, first: int) -> Iterator[Batch]:
        size = self.config.batch_size
        for epoch in range(first, self.config.epochs):
            rng = np.random.default_rng((self.config.seed, epoch))
            for visit in range(self.passes):
                order = rng.permutation(len(self.data))
                for step, start in enumerate(range(0, len(order), size)):
                    yield self._batch(order[start : start + size], (epoch, visit, step))

    def _batch(self, numbers: npt.NDArray[np.intp], time: tuple[int, int, int]) -> Batch:
        parts = parts_of(len(numbers), self.most, 1 if self.together else self.world)
        own, start = {}, 0
        for part in range(self.rank, len(parts), self.world):
            own[part] = slice(start, start + parts[part].stop - parts[part].start)
            start = own[part].stop
        mine = np.concatenate([numbers[:0], *(numbers[parts[part]] for part in own)])
        return Batch(mine, self.data.images[mine], self.data.packed[mine], own, len(parts), time)
