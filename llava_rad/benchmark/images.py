"""Images of a benchmark, prepared in sandboxed child processes ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.sandbox import Reader
from llava_rad.benchmark.inputs import FRONTAL, InputSet
from llava_rad.benchmark.task import Case

if TYPE_CHECKING:
    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.model.templates import Study

_AHEAD = 3  # batches


@dataclass(frozen=True)
class Read:
    """A case with its prepared images.

    Attributes:
        case: the case.
        image: its frontal image, or why that cannot be read.
        further: kind and pixels of its further images, without those that cannot be read.
    """

    case: Case
    image: PreparedImage | ReadError
    further: Sequence[tuple[str, PreparedImage]] = ()

    def study(self, inputs: InputSet) -> Study:
        """Return the inputs that the model is given."""
        return inputs.study(self.case.context, [kind for kind, _ in self.further])


class Images:
    """Preparation of images by a recipe in sandboxed child processes, some batches ahead of the model.

    Lateral views are not refused: the data set selects the frontal images.

    Args:
        readers: number of child processes.
        digests: SHA-256 of each image file; an image with another one ends the run. None reads any.
    """

    def __init__(self, readers: int, digests: Mapping[Path, str] | None) -> None:
        self._digests = digests
        self._readers = [Reader() for _ in range(readers)]
        self._free = deque(self._readers)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="decode")

    def batches(
        self, batches: Sequence[Sequence[Case]], recipe: Recipe, inputs: InputSet | None = None
    ) -> Iterator[list[Read]]:
        """Yield each batch with its frontal images, and with the further ones that the inputs name."""
        waiting: deque[list[tuple[Case, list[tuple[str, Future[PreparedImage | ReadError]]]]]] = deque()
        left = iter(batches)

        def begin(case: Case) -> list[tuple[str, Future[PreparedImage | ReadError]]]:
            assert case.image is not None
            wanted = [(FRONTAL, case.image), *(inputs.images(case.context) if inputs else ())]
            return [(kind, self._pool.submit(self._prepare, path, recipe)) for kind, path in wanted]

        try:
            while True:
                for batch in left:
                    waiting.append([(case, begin(case)) for case in batch])
                    if len(waiting) > _AHEAD:
                        break
                if not waiting:
                    return
                yield [_read(case, futures) for case, futures in waiting.popleft()]
        finally:
            for batch_left in waiting:
                for _, futures in batch_left:
                    for _, future in futures:
                        future.cancel()

    def one(self, case: Case, recipe: Recipe) -> PreparedImage | ReadError:
        """Prepare the frontal image of a case."""
        assert case.image is not None
        return self._pool.submit(self._prepare, case.image, recipe).result()

    def _prepare(self, path: Path, recipe: Recipe) -> PreparedImage | ReadError:
        reader = self._free.popleft()  # the pool has one thread for each reader
        try:
            found = reader.prepare(path, recipe, force=True)
        except ReadError as error:
            return error
        finally:
            self._free.append(reader)
        if self._digests is not None and found.sha256 != self._digests[path]:
            raise LlavaRadError(
                "an image file changed during the run", hint="run the command again, with another results folder"
            )
        return found

    def close(self) -> None:
        """Stop the child processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(case: Case, futures: Sequence[tuple[str, Future[PreparedImage | ReadError]]]) -> Read:
    (_, frontal), *others = [(kind, future.result()) for kind, future in futures]
    return Read(case, frontal, [(kind, image) for kind, image in others if not isinstance(image, ReadError)])
