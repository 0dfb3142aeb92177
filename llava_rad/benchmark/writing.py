"""Writing of a model's reports by one of several processes: protocols, prepared images, resumable batches."""

from __future__ import annotations

import contextlib
import os
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.information import finding
from encoder.reader.sandbox import Reader
from llava_rad.benchmark.inputs import FRONTAL, InputSet, given
from llava_rad.benchmark.predictions import Prediction, Shards
from llava_rad.benchmark.task import Case
from llava_rad.generation.options import Decoding
from llava_rad.model.sections import divided
from llava_rad.outputs.report import clean

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.pieces import Draft
    from llava_rad.generation.vllm import VllmWriter
    from llava_rad.model.templates import Study

    Image = npt.NDArray[np.uint8]

_AHEAD = 3  # batches
_PATIENCE = timedelta(hours=48)
"""Timeout of the barriers: the slowest machine may need hours for its share."""


@dataclass(frozen=True)
class Protocol:
    """Decoding options for a test set.

    Attributes:
        name: on the command line.
        dtype: of the weights.
        batch_size: images per batch.
        max_new_tokens: longest report.
        num_beams: 1 is greedy.
        compile: decode by a compiled step on CUDA; ignored elsewhere.
    """

    name: str
    dtype: str
    batch_size: int
    max_new_tokens: int
    num_beams: int
    compile: bool

    @property
    def settings(self) -> Decoding:
        """Options for ``llava_rad.generation.decoding.generate``."""
        return Decoding(self.max_new_tokens, self.num_beams, compile=self.compile)


PAPER = Protocol("paper", "float32", batch_size=1, max_new_tokens=150, num_beams=1, compile=False)
"""Section E.3.3: float32, batch 1, at most 150 tokens. The strategy is not stated; greedy decoding is assumed."""

FAST = Protocol("fast", "bfloat16", batch_size=32, max_new_tokens=150, num_beams=1, compile=True)
"""The same limits in bfloat16 and in batches: some reports differ from those of the paper's protocol."""

PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, FAST)}


class Precision(TypedDict):
    """torch's switches that allow lower precision in float32 products."""

    float32_matmul_precision: str
    cuda_matmul_allow_tf32: bool
    cudnn_allow_tf32: bool


@contextmanager
def exact() -> Iterator[Precision]:
    """Disable TF32 and bfloat16 in float32 products; restore the previous switches at the end.

    Yields:
        The switches in force, for the record of the environment.
    """
    import torch

    before = _precision()
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield _precision()
    finally:
        torch.set_float32_matmul_precision(before["float32_matmul_precision"])
        torch.backends.cudnn.allow_tf32 = before["cudnn_allow_tf32"]


def _precision() -> Precision:
    import torch

    return Precision(
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        cuda_matmul_allow_tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_allow_tf32=torch.backends.cudnn.allow_tf32,
    )


@dataclass
class Processes:
    """This process and the number of processes of the run; a context manager.

    Processes exchange data through the results folder only.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local: rank on this machine, which selects the GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """Read ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` of torchrun or Accelerate; one process without them.

        Raises:
            LlavaRadError: if the variables are not numbers or contradict each other.
        """
        try:
            found = cls(
                *(int(os.environ.get(*name)) for name in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
            )
        except ValueError:
            raise LlavaRadError("RANK, WORLD_SIZE and LOCAL_RANK of the launcher are not numbers") from None
        if not 0 <= found.rank < found.size or found.local < 0:
            raise LlavaRadError(f"the launcher says this is process {found.rank} of {found.size}")
        return found

    @property
    def first(self) -> bool:
        """True for the process that merges, scores and prints."""
        return self.rank == 0

    def __enter__(self) -> Processes:
        if self.size > 1:
            from torch import distributed

            distributed.init_process_group("gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1 and kind is None:  # after an error the launcher ends the other processes
            from torch import distributed

            distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    def device(self, name: str) -> str:
        """Return this process's GPU for ``auto`` and ``cuda``, if there is one; any other name unchanged."""
        if self.size > 1 and name in ("auto", "cuda"):
            import torch

            if count := torch.cuda.device_count():
                return f"cuda:{self.local % count}"
        return name


class Writer(typing.Protocol):
    """Interface of a model that generates reports."""

    recipe: Recipe

    def __call__(self, images: Sequence[Image], studies: Sequence[Study]) -> list[Draft]:
        """Return a draft for each study, given the prepared images [S, S] uint8 of the first, then of the second..."""


class EngineWriter:
    """A model in this process, or with its language model in a process of vLLM, under a protocol."""

    def __init__(self, model: Engine | VllmWriter, protocol: Protocol) -> None:
        self.recipe, self._model, self._protocol = model.recipe, model, protocol

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], studies: Sequence[Study]) -> list[Draft]:
        from llava_rad.generation.decoding import generate
        from llava_rad.generation.engine import Engine

        if isinstance(self._model, Engine):
            drafts = generate(
                self._model, images, self._protocol.settings, at_once=self._protocol.batch_size, studies=studies
            )
        else:
            drafts = self._model.generate(images, self._protocol.settings, studies)
        return [findings_alone(draft) for draft in drafts] if self._model.config.with_impression else drafts


def findings_alone(draft: Draft) -> Draft:
    """Leave the impression out of a draft, as references are findings; findings before an impression are complete."""
    answer = divided(draft.text)
    return replace(draft, text=answer.findings, complete=draft.complete or answer.impression is not None)


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


def batches_of(cases: Sequence[Case], size: int, processes: Processes) -> list[Sequence[Case]]:
    """Return this process's batches.

    A batch holds the same images for any number of processes: in bfloat16 a report may depend on the rest of its batch.
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
    inputs: InputSet = InputSet(),  # noqa: B008 (frozen)
    advance: Callable[[int], None] = lambda number: None,
) -> int:
    """Generate and append the missing predictions of this process's batches.

    A batch with some missing predictions is generated as a whole, so that its texts stay the same.

    Args:
        writer: loads the model; called once, if a prediction is missing.
        cases: of all processes.
        shards: of this process.
        batch_size: images per batch.
        processes: of the run.
        images: prepares the images.
        done: ids of existing predictions.
        inputs: that the model is given, where a case has them.
        advance: receives numbers of completed cases.

    Returns:
        Number of predictions appended.

    Raises:
        LlavaRadError: if the device's memory is too small, or the file cannot be written.
    """
    mine = batches_of(cases, batch_size, processes)
    missing = [batch for batch in mine if any(case.id not in done for case in batch)]
    advance(sum(len(batch) for batch in mine) - sum(len(batch) for batch in missing))
    if not missing:
        return 0
    write, written = writer(), 0
    with contextlib.closing(shards):
        for batch in images.batches(missing, write.recipe, inputs):
            pixels: list[Image] = []
            studies: list[Study] = []
            for one in batch:
                if not isinstance(one.image, ReadError):
                    pixels += [one.image.pixels, *(image.pixels for _, image in one.further)]
                    studies.append(one.study(inputs))
            drafts = iter(_drafts(write, pixels, studies))
            predictions = []
            for one in batch:
                if isinstance(one.image, ReadError):
                    predictions.append(Prediction(one.case.id, "", error=one.image.reason))
                else:
                    draft = next(drafts)
                    text, warning = clean(draft.text).strip(), finding(one.image.warnings)
                    names = given(one.study(inputs))
                    predictions.append(Prediction(one.case.id, text, draft.complete, warning=warning, inputs=names))
            new = [prediction for prediction in predictions if prediction.id not in done]
            shards.append(new)
            written += len(new)
            advance(len(batch))
    return written


def _drafts(write: Writer, images: Sequence[Image], studies: Sequence[Study]) -> list[Draft]:
    import torch

    if not images:
        return []
    try:
        return write(images, studies)
    except torch.OutOfMemoryError:
        raise LlavaRadError(
            f"the device's memory does not hold a batch of {len(studies)}",
            hint="lower --batch-size, or use --device cpu",
        ) from None
