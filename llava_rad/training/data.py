"""From image-report pairs to what a training step reads: prepared images, and answers as token ids.

The prompt is the same for all pairs, so a sample is its image and its answer alone; the labels are the answer's ids
with the end token, and ``IGNORED`` after them in a batch. Nothing is cut: what is too long is left out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from encoder.datasets.cache_building import Builder
from encoder.datasets.manifest import Row
from encoder.datasets.pixel_cache import Cache, Progress
from encoder.errors import ConfigError, LlavaRadError
from encoder.preprocessing import Recipe
from encoder.runs.workers import send_by_pipe
from llava_rad.model.config import LlavaRadConfig
from llava_rad.model.prompt import encode_answer
from llava_rad.model.sections import BOTH, REQUEST, Section, encode_target, joined
from llava_rad.model.tokenizer import Tokens
from llava_rad.reports.pairs import Pair, frontal, read_pairs
from llava_rad.training.config import DataConfig, TrainingConfig
from llava_rad.training.study_images import StudyImages

IMPRESSION_TOKENS = 100
"""Tokens by which the longest answer grows for an impression [ours]."""
IGNORED = -100
"""The label of a position without a loss (that of torch's cross-entropy)."""


class Images(Protocol):
    """Source of the samples' images: one array for each row of a pixel cache, by number."""

    field: str
    """Name of the images in a batch: ``pixels`` or ``features``."""

    def __getitem__(self, number: int) -> npt.NDArray[Any]: ...


class Pixels:
    """Prepared images [S, S] uint8 from the pixel cache, exactly as generation prepares them."""

    field = "pixels"

    def __init__(self, cache: Cache, recipe: Recipe) -> None:
        self.cache, self.recipe = cache, recipe

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, number: int) -> npt.NDArray[np.uint8]:
        return self.recipe.crop(self.cache.image(number))


@dataclass(frozen=True)
class Selected:
    """The pairs of a run.

    Attributes:
        pairs: of the splits ``train`` and ``val``, in their order.
        dropped: how many were left out for which reason.
        rows: frontal images of all splits.
        images: of the pairs, with the laterals and priors that the run takes.
    """

    pairs: list[Pair]
    dropped: dict[str, int]
    rows: list[Row]
    images: StudyImages

    def of(self, split: str) -> list[int]:
        """Positions of a split's pairs."""
        return [number for number, pair in enumerate(self.pairs) if pair.row.split == split]


def select_pairs(data: DataConfig, inputs: Collection[str] = ()) -> Selected:
    """Read the tables and keep the frontal images of the splits ``train`` and ``val``.

    Args:
        data: the tables.
        inputs: study inputs that the run takes.

    Raises:
        ConfigError: if no table is named, one cannot be read, there is nothing to train on, or a subject is in both.
    """
    from encoder.datasets.splits import disjoint

    if not data.pairs:
        raise ConfigError(
            "there are no image-report pairs: data.pairs is not given",
            hint="data.pairs=[FILE.jsonl], which llava-rad reports writes",
        )
    pairs: list[Pair] = []
    for number, file in enumerate(data.pairs, 1):
        try:
            pairs += read_pairs(Path(file).expanduser())
        except LlavaRadError as error:
            which = f", number {number} of {len(data.pairs)}" if len(data.pairs) > 1 else ""
            raise ConfigError(f"data.pairs{which}: {error}", hint=error.hint) from None
    suitable = [pair for pair in pairs if frontal(pair) and not pair.odd_view]
    kept = [pair for pair in suitable if pair.row.split in ("train", "val")]
    training = [pair for pair in kept if pair.row.split == "train"]
    if not training:
        raise ConfigError("data.pairs has no pair of a frontal image in the split train")
    if data.sections == BOTH and not any(pair.context.impression for pair in training):
        raise ConfigError(
            "data.sections has the impression, and no pair of the split train has one",
            hint="llava-rad reports writes the column impression",
        )
    try:
        disjoint(pair.row for pair in pairs)
    except LlavaRadError as error:
        raise ConfigError(f"data.pairs: {error}", hint=error.hint) from None
    dropped = {"view": len(pairs) - len(suitable), "split": len(suitable) - len(kept)}
    return Selected(
        kept,
        {reason: number for reason, number in dropped.items() if number},
        [pair.row for pair in pairs],
        StudyImages.of(kept, inputs),
    )


def cache_builder(
    data: DataConfig,
    rows: Sequence[Row],
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Builder:
    """Make the builder of the pixel cache of images; see ``encoder.datasets.cache_building``."""
    return Builder(
        rows,
        folder,
        size=recipe.side,
        recipe=recipe,
        workers=max(data.workers, min(8, os.cpu_count() or 1)),
        max_unreadable=data.max_unreadable,
        progress=progress,
        notify=notify,
    )


def cache_folder(config: TrainingConfig, output: Path) -> Path:
    """Folder of the pixel cache: ``data.cache``, or in the run folder."""
    return Path(config.data.cache).expanduser() if config.data.cache else output / "cache"


def section_settings(settings: LlavaRadConfig, sections: Sequence[Section]) -> LlavaRadConfig:
    """Return the settings of a checkpoint that is trained for sections: instruction, longest answer, and their names.

    Raises:
        ConfigError: if the checkpoint writes an impression already, and is not to be trained for it.
    """
    if tuple(sections) == settings.sections:
        return settings
    if tuple(sections) != BOTH:
        raise ConfigError(
            "the checkpoint writes findings and impression", hint="data.sections=[findings, impression] goes on with it"
        )
    prompt = settings.prompt.model_copy(update={"instruction": f"{settings.prompt.instruction} {REQUEST}"})
    longest = settings.generation.model_copy(
        update={"max_new_tokens": settings.generation.max_new_tokens + IMPRESSION_TOKENS}
    )
    return settings.model_copy(update={"prompt": prompt, "generation": longest, "sections": BOTH})


def target_text(pair: Pair, sections: Sequence[Section]) -> str:
    """Return the text that a pair teaches."""
    return joined(pair.findings, pair.context.impression) if sections == BOTH else pair.findings


def target_ids(tokens: Tokens, pair: Pair, sections: Sequence[Section]) -> list[int]:
    """Return the token ids of a pair's target; the end token is last, see :func:`encode_target`."""
    if sections == BOTH:
        return encode_target(tokens.tokenizer, pair.findings, pair.context.impression, tokens.ids.eos)
    return encode_answer(tokens.tokenizer, pair.findings, tokens.ids.eos)


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples of one split. Looking at ``lengths`` opens no image.

    Attributes:
        answers: token ids of each report, end token last (none after findings that lack their impression).
        images: number of each sample's image in the pixel cache.
        texts: the reports.
        lengths: [N] int64, tokens of each sample, prompt and image included.
    """

    def __init__(self, answers: list[npt.NDArray[np.int32]], images: list[int], texts: list[str], around: int) -> None:
        self.answers, self.images, self.texts = answers, images, texts
        self.lengths = np.array([around + len(ids) for ids in answers], np.int64)
        self.source: Images | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, number: int) -> dict[str, Any]:
        assert self.source is not None
        return {"labels": self.answers[number], self.source.field: self.source[self.images[number]]}

    def supervised(self) -> int:
        """Number of tokens with a loss."""
        return sum(len(ids) for ids in self.answers)


@dataclass(frozen=True)
class Prompted:
    """The prompt as token ids: before the image and after it, and how many stand around an answer in all."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    image: int

    @property
    def length(self) -> int:
        """Tokens before the answer, image included."""
        return len(self.before) + self.image + len(self.after)

    @classmethod
    def of(cls, config: LlavaRadConfig, tokens: Tokens) -> Prompted:
        """The prompt of a checkpoint."""
        before, after = config.conversation.encode(tokens.tokenizer, tokens.ids.bos)
        return cls(tuple(before), tuple(after), config.image_tokens)


def tokenise(
    pairs: Sequence[Pair], readable: Iterable[int], tokens: Tokens, prompt: Prompted, data: DataConfig
) -> tuple[dict[str, Samples], dict[str, int]]:
    """The samples of readable images.

    Args:
        pairs: of the splits ``train`` and ``val``.
        readable: positions in the pairs, in the order of the pixel cache's images.
        tokens: tokenizer.
        prompt: what stands around an answer.
        data: limits.

    Returns:
        Samples by split, and how many pairs were left out for which reason.

    Raises:
        ConfigError: if more samples are too long than allowed, or none is left to train on.
    """
    answers: dict[str, list[npt.NDArray[np.int32]]] = {"train": [], "val": []}
    images: dict[str, list[int]] = {"train": [], "val": []}
    texts: dict[str, list[str]] = {"train": [], "val": []}
    total = too_long = longest = 0
    for image, position in enumerate(readable):
        pair = pairs[position]
        ids = target_ids(tokens, pair, data.sections)
        total += 1
        longest = max(longest, prompt.length + len(ids))
        if prompt.length + len(ids) > data.max_length:
            too_long += 1
            continue
        answers[pair.row.split].append(np.array(ids, np.int32))
        images[pair.row.split].append(image)
        texts[pair.row.split].append(target_text(pair, data.sections))
    dropped = {"unreadable image": len(pairs) - total, f"longer than {data.max_length} tokens": too_long}
    if too_long > data.max_too_long * total:
        raise ConfigError(
            f"{too_long} of {total} samples are longer than data.max_length = {data.max_length}: the longest has "
            f"{longest} tokens, of which prompt and image take {prompt.length}",
            hint="raise data.max_length, or data.max_too_long to leave more of them out",
        )
    if not answers["train"]:
        raise ConfigError("no sample is left to train on")
    samples = {split: Samples(answers[split], images[split], texts[split], prompt.length) for split in answers}
    return samples, {reason: number for reason, number in dropped.items() if number}


def collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch: ``labels`` [B, T] int64 with ``IGNORED`` after each answer, ``pixels`` or ``features`` stacked."""
    send_by_pipe()
    longest = max(len(sample["labels"]) for sample in batch)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, sample in zip(labels, batch, strict=True):
        row[: len(sample["labels"])] = torch.from_numpy(sample["labels"])
    (field,) = batch[0].keys() - {"labels"}
    return {"labels": labels, field: torch.from_numpy(np.stack([sample[field] for sample in batch]))}


class LengthGrouped(torch.utils.data.Sampler[int]):
    """All samples once in each epoch, such that batches hold samples of similar length.

    The order is a pure function of seed and epoch, the same on every process. Samples are shuffled, sorted within
    portions of ``portion`` batches, and the batches shuffled again.

    Args:
        lengths: [N].
        batch: samples of one optimiser step.
        seed: of the order.
        grouped: False only shuffles.
        portion: batches that are sorted together.
        numbered_by_epoch: yield ``epoch * N + number`` in place of the number, see ``StudySamples``.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        batch: int,
        seed: int,
        *,
        grouped: bool = True,
        portion: int = 32,
        numbered_by_epoch: bool = False,
    ) -> None:
        self.numbered_by_epoch = numbered_by_epoch
        self.lengths, self.batch, self.seed, self.grouped, self.portion = lengths, batch, seed, grouped, portion
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self) if self.numbered_by_epoch else 0
        return (first + number for number in self._order())

    def _order(self) -> list[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        if not self.grouped:
            return [int(number) for number in order]
        size = self.batch * self.portion
        batches: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(order), size):
            part = order[start : start + size]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches += [part[at : at + self.batch] for at in range(0, len(part), self.batch)]
        # a last batch that is not full stays last: batches are cut from the order by number
        full = len(order) // self.batch
        sequence = [batches[i] for i in rng.permutation(full)] + batches[full:]
        return [int(number) for number in np.concatenate(sequence)]
