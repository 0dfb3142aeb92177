"""One process's share of a model's reports: fixed batches, images prepared ahead, every batch flushed to the disk."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.sandbox import Reader
from llava_rad.benchmark.predictions import Prediction, Shards
from llava_rad.benchmark.processes import Processes
from llava_rad.benchmark.task import Case
from llava_rad.outputs.report import clean

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.decoding import Draft

    Image = npt.NDArray[np.uint8]

_AHEAD = 3  # batches


class Writer(Protocol):
    """What writes reports: a model in this process, or behind another engine."""

    recipe: Recipe

    def __call__(self, images: Sequence[Image]) -> list[Draft]:
        """A draft for each prepared image."""


class Images:
    """Images prepared by a recipe in limited child processes, some batches ahead of the model.

    Views are not judged: the data set says which images are frontal.

    Args:
        readers: child processes that decode side by side.
    """

    def __init__(self, readers: int) -> None:
        self._readers = [Reader() for _ in range(readers)]
        self._free = deque(self._readers)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="decode")

    def batches(
        self, batches: Sequence[Sequence[Case]], recipe: Recipe
    ) -> Iterator[list[tuple[Case, Image | ReadError]]]:
        """Yield each batch with its images, or with why one cannot be read."""
        waiting: deque[list[tuple[Case, Future[Image | ReadError]]]] = deque()
        left = iter(batches)
        try:
            while True:
                for batch in left:
                    waiting.append([(case, self._pool.submit(self._prepare, case, recipe)) for case in batch])
                    if len(waiting) > _AHEAD:
                        break
                if not waiting:
                    return
                yield [(case, future.result()) for case, future in waiting.popleft()]
        finally:
            for batch_left in waiting:
                for _, future in batch_left:
                    future.cancel()

    def one(self, case: Case, recipe: Recipe) -> Image | ReadError:
        """One image."""
        return self._pool.submit(self._prepare, case, recipe).result()

    def _prepare(self, case: Case, recipe: Recipe) -> Image | ReadError:
        assert case.image is not None
        reader = self._free.popleft()  # the pool has one thread for each reader
        try:
            return reader.prepare(case.image, recipe, force=True).pixels
        except ReadError as error:
            return error
        finally:
            self._free.append(reader)

    def close(self) -> None:
        """End the child processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def batches_of(cases: Sequence[Case], size: int, processes: Processes) -> list[Sequence[Case]]:
    """This process's batches. A batch is always the same images, however many processes there are: in bfloat16 a
    report may depend on what stands beside it.
    """
    every = [cases[at : at + size] for at in range(0, len(cases), size)]
    return every[processes.rank :: processes.size]


def write_share(
    writer: Callable[[], Writer],
    cases: Sequence[Case],
    shards: Shards,
    batch_size: int,
    processes: Processes,
    images: Images,
    *,
    done: set[str],
    advance: Callable[[int], None] = lambda number: None,
) -> int:
    """Write what is missing of this process's batches.

    A batch of which some predictions are there already is written anew as a whole, so that its texts stay the same.

    Args:
        writer: called once, if anything is missing: it loads the model.
        done: ids of the predictions that are there.
        advance: called with the number of cases that are done.

    Returns:
        How many predictions were written.

    Raises:
        LlavaRadError: memory is short, or the disk refuses.
    """
    mine = batches_of(cases, batch_size, processes)
    missing = [batch for batch in mine if any(case.id not in done for case in batch)]
    advance(sum(len(batch) for batch in mine) - sum(len(batch) for batch in missing))
    if not missing:
        return 0
    write, written = writer(), 0
    with contextlib.closing(shards):
        for batch in images.batches(missing, write.recipe):
            readable = [image for _, image in batch if not isinstance(image, ReadError)]
            drafts = iter(_drafts(write, readable))
            predictions = []
            for case, image in batch:
                if isinstance(image, ReadError):
                    predictions.append(Prediction(case.id, "", error=image.reason))
                else:
                    draft = next(drafts)
                    predictions.append(Prediction(case.id, clean(draft.text).strip(), draft.complete))
            new = [prediction for prediction in predictions if prediction.id not in done]
            shards.append(new)
            written += len(new)
            advance(len(batch))
    return written


def _drafts(write: Writer, images: Sequence[Image]) -> list[Draft]:
    import torch

    if not images:
        return []
    try:
        return write(images)
    except torch.OutOfMemoryError:
        raise LlavaRadError(
            f"the device's memory does not hold a batch of {len(images)}",
            hint="lower --batch-size, or use --device cpu",
        ) from None
