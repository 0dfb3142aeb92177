"""Samples of studies: each has its own prompt and number of images, and may leave inputs out.

A sample is one row of token ids, in which ``IMAGE`` stands for each feature of its images, and as many labels: at each
position the token that follows it, or ``IGNORED``. Nothing is cut: what is too long is left out and counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder.errors import ConfigError
from encoder.runs.workers import send_by_pipe
from llava_rad.model.config import FurtherImages, LlavaRadConfig, positions, rope_of
from llava_rad.model.projector import pooled_tokens
from llava_rad.model.prompt import Prompt
from llava_rad.model.templates import KINDS, TEMPLATES, TEXTS, Study
from llava_rad.model.tokenizer import Tokens
from llava_rad.reports.comparisons import without_comparisons
from llava_rad.reports.pairs import Pair
from llava_rad.training.config import DataConfig, StudyConfig, TrainingConfig
from llava_rad.training.data import IGNORED, Images, target_ids, target_text
from llava_rad.training.study_images import CONTEXT_IMAGES, StudyImages

IMAGE = -1
"""Place of a feature of an image among token ids."""


def study_settings(settings: LlavaRadConfig, study: StudyConfig) -> LlavaRadConfig:
    """Return the settings of a checkpoint that is trained on studies.

    Raises:
        ConfigError: if its template has no place for one of the inputs, or it takes further images in another form.
    """
    if not study.inputs:
        return settings
    own = settings.prompt.template
    name = study.template or (own if TEMPLATES[own].places else "study")
    for wanted in study.inputs:
        if wanted.replace("_", "-") not in TEMPLATES[name].places:
            raise ConfigError(
                f"study.inputs: the template {name} has no place for {wanted}", hint="study.template=study has all"
            )
    prompt = settings.prompt if name == own else settings.prompt.model_copy(update={"template": name, "turn": None})
    before = settings.further_images
    if not any(kind in study.inputs for kind in CONTEXT_IMAGES):
        return settings.model_copy(update={"prompt": prompt})
    if before is not None and before.pool != study.pool:
        raise ConfigError(
            f"study.pool = {study.pool}, but the checkpoint was trained with {before.pool}",
            hint=f"study.pool={before.pool} continues from it",
        )
    further = FurtherImages(pool=study.pool, markers=study.markers or (before is not None and before.markers))
    return settings.model_copy(update={"prompt": prompt, "further_images": further})


def whole_prompt(conversation: Prompt, study: StudyConfig) -> Prompt:
    """Return a conversation with every input of a run, whose words a new tokenizer learns."""
    if not study.inputs:
        return conversation
    given: dict[str, Any] = {name: True if name in CONTEXT_IMAGES else "." for name in study.inputs}
    return replace(conversation, template=study.template or "study", study=Study(**given))


def check_positions(config: TrainingConfig, language_model: Mapping[str, Any]) -> None:
    """Refuse samples of studies that are longer than the language model's positions, scaled as the run does.

    Args:
        config: the run.
        language_model: contents of ``config.json``, not yet scaled.

    Raises:
        ConfigError: if they may be.
    """
    study = config.study
    places = int(positions(language_model) * (study.rope_factor if rope_of(language_model)[1] == 1 else 1))
    if config.data.max_length > places:
        raise ConfigError(
            f"the language model has {places:,} positions, fewer than data.max_length = {config.data.max_length:,}",
            hint="study.pool=2 shortens further images, study.rope_factor scales positions",
        )


@dataclass(frozen=True)
class Layout:
    """Turns a study into a row of ids.

    Attributes:
        conversation: of the checkpoint.
        tokens: tokenizer.
        image_tokens: features of a frontal image.
        further_tokens: features of each other image.
    """

    conversation: Prompt
    tokens: Tokens
    image_tokens: int
    further_tokens: int

    @classmethod
    def of(cls, settings: LlavaRadConfig, tokens: Tokens) -> Layout:
        """Return the layout of a checkpoint."""
        further = settings.further_images or FurtherImages()
        own = settings.image_tokens
        return cls(settings.conversation, tokens, own, pooled_tokens(own, further.pool) if further.pool > 1 else own)

    def row(self, study: Study, answer: Sequence[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return ids and labels of a study with its answer, end token last: [prompt + answer - 1] each."""
        pieces = self.conversation.with_study(study).pieces(self.tokens.tokenizer, self.tokens.ids.bos)
        ids = list(pieces[0])
        for kind, piece in zip(study.kinds, pieces[1:], strict=True):
            ids += [IMAGE] * (self.further_tokens if kind else self.image_tokens) + piece
        labels = [IGNORED] * (len(ids) - 1) + list(answer)
        return np.array([*ids, *answer[:-1]], np.int32), np.array(labels, np.int32)


class StudySamples(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples of one split. Looking at ``lengths`` opens no image.

    An index is ``epoch * len + number``, so that workers that live through epochs know them: what is left out depends
    on seed, epoch and number alone.

    Attributes:
        studies: texts and inputs of each sample, with everything that its row has.
        images: number of each sample's images in the pixel cache, by kind.
        answers: token ids of each report, end token last.
        alone: the same of reports without their prior, by number, where they differ; empty if nothing would be left.
        texts: the reports.
        subjects: patient of each sample; "" if unknown.
        lengths: [N] int64, tokens of each sample with all inputs.
        image_tokens: tokens of images in all samples with all inputs.
    """

    def __init__(self, layout: Layout, leave_out: float, seed: int) -> None:
        self.layout, self.leave_out, self.seed = layout, leave_out, seed
        self.studies: list[Study] = []
        self.images: list[dict[str, int]] = []
        self.answers: list[npt.NDArray[np.int32]] = []
        self.alone: dict[int, npt.NDArray[np.int32]] = {}
        self.texts: list[str] = []
        self.subjects: list[str] = []
        self.lengths = np.zeros(0, np.int64)
        self.source: Images | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, number = divmod(index, len(self))
        without = self.left_out(number, epoch)
        answer = self.alone.get(number) if "prior" in without else None
        return self.sample(number, without=without, answer=answer)

    def left_out(self, number: int, epoch: int) -> frozenset[str]:
        """Return the inputs that a sample lacks in an epoch."""
        if not self.leave_out:
            return frozenset()
        study = self.studies[number]
        dice = np.random.default_rng((self.seed, epoch, number)).random(len(INPUTS))
        found = frozenset(
            name for name, value in zip(INPUTS, dice, strict=True) if value < self.leave_out and getattr(study, name)
        )
        only_compares = number in self.alone and not len(self.alone[number])
        return found - {"prior"} if only_compares else found

    def sample(
        self,
        number: int,
        *,
        without: Collection[str] = (),
        others: Mapping[str, int] | None = None,
        answer: npt.NDArray[np.int32] | None = None,
    ) -> dict[str, Any]:
        """Return a sample.

        Args:
            number: of the sample.
            without: inputs that are left out.
            others: input -> number of the sample whose input stands in its place; ``frontal`` is the image.
            answer: token ids in place of the sample's own.

        Returns:
            ``ids`` and ``labels`` [L], ``kinds`` [I], and ``pixels`` [I, S, S] or ``features`` [I, N, D].
        """
        assert self.source is not None
        others = others or {}
        study, images = self.studies[number], {"frontal": self.images[number]["frontal"]}
        gone = {*without, *(["prior_report"] if "prior" in without else [])}
        study = replace(study, **{name: getattr(Study(), name) for name in gone})
        for kind in CONTEXT_IMAGES:
            if getattr(study, kind):
                images[kind] = self.images[number][kind]
        for name, donor in others.items():
            if name in KINDS:
                images[name] = self.images[donor][name]
            else:
                study = replace(study, **{name: getattr(self.studies[donor], name)})
        ids, labels = self.layout.row(study, (self.answers[number] if answer is None else answer).tolist())
        order = [KINDS[kind] for kind in study.kinds]
        found = np.stack([self.source[images[kind]] for kind in order])
        return {"ids": ids, "labels": labels, "kinds": list(study.kinds), self.source.field: found}

    def supervised(self) -> int:
        """Return the number of tokens with a loss."""
        return sum(len(ids) for ids in self.answers)

    def has(self, number: int, name: str) -> bool:
        """Tell whether a sample has an input."""
        return name == "frontal" or bool(getattr(self.studies[number], name))

    def donors(self, name: str, limit: int) -> dict[int, int]:
        """Map the samples with an input, of the first ones, to the next sample of another patient that has it."""
        having = [number for number in range(limit) if self.has(number, name)]
        found: dict[int, int] = {}
        for at, number in enumerate(having):
            for step in range(1, len(having)):
                other = having[(at + step) % len(having)]
                if not self.subjects[number] or self.subjects[number] != self.subjects[other]:
                    found[number] = other
                    break
        return found


INPUTS = ("lateral", "prior", *TEXTS)


def study_samples(
    pairs: Sequence[Pair],
    images: StudyImages,
    readable: Sequence[int],
    layout: Layout,
    study: StudyConfig,
    data: DataConfig,
    seed: int,
) -> tuple[dict[str, StudySamples], dict[str, int]]:
    """Make the samples of pairs whose frontal image is readable; a further image that is not is left out.

    Args:
        pairs: of the splits ``train`` and ``val``.
        images: of the pairs.
        readable: positions in ``images.rows``, in the order of the pixel cache's images.
        layout: of the checkpoint.
        study: inputs.
        data: limits.
        seed: of what is left out.

    Returns:
        Samples by split, and the number of pairs and inputs left out by reason.

    Raises:
        ConfigError: if more samples are too long than allowed, or none is left to train on.
    """
    number_of = {int(position): number for number, position in enumerate(readable)}
    samples = {
        "train": StudySamples(layout, study.leave_out, seed),
        "val": StudySamples(layout, 0.0, seed),
    }
    lengths: dict[str, list[int]] = {"train": [], "val": []}
    total = too_long = longest = lost = 0
    for position, pair in enumerate(pairs):
        if position not in number_of:
            continue
        total += 1
        found = {"frontal": number_of[position]}
        for kind, place in images.further[position].items():
            if place in number_of:
                found[kind] = number_of[place]
            else:
                lost += 1
        texts: dict[str, Any] = {name: getattr(pair.context, name) or None for name in TEXTS if name in study.inputs}
        if "prior" not in found:
            texts.pop("prior_report", None)
        shown = Study(lateral="lateral" in found, prior="prior" in found, **texts)
        answer = target_ids(layout.tokens, pair, data.sections)
        length = len(layout.row(shown, answer)[0]) + 1
        longest = max(longest, length)
        if length > data.max_length:
            too_long += 1
            continue
        chosen = samples[pair.row.split]
        chosen.studies.append(shown)
        chosen.images.append(found)
        chosen.answers.append(np.array(answer, np.int32))
        if chosen.leave_out and shown.prior and not study.keep_comparisons:
            rest = _without_comparisons(pair)
            if rest != pair:
                alone = target_ids(layout.tokens, rest, data.sections) if rest.findings else []
                chosen.alone[len(chosen.texts)] = np.array(alone, np.int32)
        chosen.texts.append(target_text(pair, data.sections))
        chosen.subjects.append(f"{pair.row.dataset}\0{pair.row.subject}" if pair.row.subject else "")
        lengths[pair.row.split].append(length)
    if too_long > data.max_too_long * total:
        raise ConfigError(
            f"{too_long} of {total} samples are longer than data.max_length = {data.max_length}: the longest has "
            f"{longest} tokens",
            hint="raise data.max_length, pool further images (study.pool=2), or raise data.max_too_long",
        )
    if not len(samples["train"]):
        raise ConfigError("no sample is left to train on")
    for split, one in samples.items():
        one.lengths = np.array(lengths[split], np.int64)
    dropped = {
        "unreadable image": len(pairs) - total,
        f"longer than {data.max_length} tokens": too_long,
        "unreadable laterals and priors": lost,
    }
    return samples, {reason: number for reason, number in dropped.items() if number}


def _without_comparisons(pair: Pair) -> Pair:
    """Return a pair without the sentences that compare with an earlier study."""
    context = replace(pair.context, impression=without_comparisons(pair.context.impression))
    return replace(pair, findings=without_comparisons(pair.findings), context=context)


def collate_studies(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch.

    Returns:
        ``ids`` [B, L] int64, 0 after each sample; ``labels`` [B, L] int64; ``kinds``, a list of I numbers; and
        ``pixels`` or ``features`` of the I images, those of the first sample first.
    """
    send_by_pipe()
    longest = max(len(sample["ids"]) for sample in batch)
    ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), IGNORED)
    for number, sample in enumerate(batch):
        ids[number, : len(sample["ids"])] = torch.from_numpy(sample["ids"])
        labels[number, : len(sample["labels"])] = torch.from_numpy(sample["labels"])
    (field,) = batch[0].keys() - {"ids", "labels", "kinds"}
    return {
        "ids": ids,
        "labels": labels,
        "kinds": [kind for sample in batch for kind in sample["kinds"]],
        field: torch.from_numpy(np.concatenate([sample[field] for sample in batch])),
    }
