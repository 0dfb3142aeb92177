"""Writing of a model's reports by one of several processes: protocols, resumable batches."""

from __future__ import annotations

import contextlib
import os
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.information import finding
from llava_rad.benchmark.images import Images
from llava_rad.benchmark.inputs import InputSet, given
from llava_rad.benchmark.predictions import Prediction, Shards
from llava_rad.benchmark.task import Case
from llava_rad.generation.options import Decoding
from llava_rad.model.sections import divided
from llava_rad.outputs.report import clean

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.pieces import Draft
    from llava_rad.generation.vllm import VllmWriter
    from llava_rad.model.templates import Study

    Image = npt.NDArray[np.uint8]

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
