"""Profiles of report models that others trained: prompt, images, grey levels, and the cut of their answers.

A profile is a YAML file. Those in the folder ``configs`` are shipped; ``--profile FILE`` names another one, which may
begin with ``extends: generic``. A local model and one behind a server use the same profiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from encoder.errors import ConfigError
from encoder.preprocessing import Recipe, Scaling
from encoder.runs.config import Configurations
from llava_rad.generation.answers import Answer, split
from llava_rad.model.config import GenerationDefaults
from llava_rad.model.templates import TEXTS, Study

GENERIC: Final = "generic"
ImageName = Literal["frontal", "lateral", "prior"]


class Marks(BaseModel):
    """Text that encloses a model's reasoning.

    Attributes:
        begin: before it.
        end: after it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    begin: str = Field(min_length=1)
    end: str = Field(min_length=1)


class Profile(BaseModel):
    """Prompt, images, grey levels and form of the answers of a report model that others trained.

    Attributes:
        name: of the profile.
        repositories: hub repositories of models that it is for; a folder whose name is the last part is one of them.
        model_types: values of ``model_type`` in ``config.json`` of models that it is for if no repository fits.
        licence: licence of the weights, as their publisher states it.
        source: addresses of the facts.
        tried: this project has run it with the real weights.
        system: text before the user's turn; none if empty.
        instruction: request to the model.
        images: label of each image that the model takes, which stands before it if there are several; "frontal" first.
            null in place of a label leaves out an image of the profile that is extended.
        texts: line of each text that the model takes, with ``{}`` in its place; null as for images.
        images_first: images come before the words, not after them.
        side: shorter side of images in pixels before the model's own processor, which gets the whole picture.
        grey_levels: conversion of DICOM and deep images to 8 bits, see ``encoder.preprocessing.Recipe.scaling``.
        least_pixels: smallest image in pixels of a processor with such a limit (Qwen's); None keeps its own.
        most_pixels: largest image, likewise.
        max_new_tokens: longest answer, reasoning included.
        num_beams: number of beams.
        reasoning: marks around reasoning, which is cut out.
        boxed: the answer proper stands in ``\\boxed{…}``, as the instruction asks for.
        refusals: regular expressions; an answer that begins with one is a refusal.
        removed: regular expressions of places in the image, which are cut out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    repositories: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    licence: str = "see the model's publisher"
    source: tuple[str, ...] = ()
    tried: bool = False
    system: str = ""
    instruction: str = Field(min_length=1)
    images: dict[ImageName, str] = {"frontal": ""}
    texts: dict[str, str] = {}
    images_first: bool = True
    side: int = Field(default=896, ge=56, le=4096)
    grey_levels: Scaling = "minmax-then-resize"
    least_pixels: int | None = Field(default=None, ge=1)
    most_pixels: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=512, ge=1)
    num_beams: int = Field(default=1, ge=1)
    reasoning: tuple[Marks, ...] = ()
    boxed: bool = False
    refusals: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @field_validator("images", "texts", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        return {name: line for name, line in value.items() if line is not None} if isinstance(value, dict) else value

    @field_validator("images")
    @classmethod
    def _frontal(cls, value: dict[ImageName, str]) -> dict[ImageName, str]:
        if next(iter(value), None) != "frontal":
            raise ValueError("the frontal image is the first")
        return value

    @field_validator("texts")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        for name, line in value.items():
            if name not in TEXTS:
                raise ValueError(f"there is no text {name!r}; choose from {', '.join(TEXTS)}")
            if line.count("{}") != 1:
                raise ValueError(f"the line of {name} needs one {{}}, where the text stands")
        return value

    @field_validator("refusals", "removed")
    @classmethod
    def _expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for expression in value:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
        return value

    @property
    def places(self) -> frozenset[str]:
        """Study inputs that the prompt takes, as ``Study.used`` spells them."""
        names = {*self.images, *self.texts} - {"frontal"}
        if "prior" not in names:
            names.discard("prior_report")
        return frozenset(name.replace("_", "-") for name in names)

    @property
    def with_impression(self) -> bool:
        """True: answers are cut into findings and, where there is one, the impression."""
        return True

    @property
    def generation(self) -> GenerationDefaults:
        """Defaults of decoding."""
        return GenerationDefaults(max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)

    @property
    def demonstration(self) -> bool:
        """False: the models of profiles are no demonstrations."""
        return False

    @property
    def preprocessing(self) -> Recipe:
        """Preparation of images before the model's own processor: grey levels and size, nothing is cropped."""
        equalised = "-equalized" if self.grey_levels == "minmax-equalize-then-resize" else ""
        return Recipe(
            f"whole{equalised}-{self.side}",
            1,
            self.side,
            self.grey_levels,
            0.0,
            1.0,
            f"profile {self.name}",
            whole=True,
        )

    def check(self, study: Study) -> None:
        """Refuse study inputs that the prompt does not take.

        Raises:
            ConfigError: if there is one.
        """
        for used in study.used:
            if used not in self.places:
                takes = ", ".join(f"--{place}" for place in sorted(self.places))
                raise ConfigError(
                    f"the model's prompt has no place for --{used}", hint=f"it takes {takes}" if takes else None
                )
        if study.prior_report and not study.prior:
            raise ConfigError("--prior-report needs the image that it is about: --prior")

    def prompt(self, study: Study, instruction: str | None = None) -> str:
        """Compose the words of the user's turn: a line for each text of the study, then the instruction.

        Args:
            study: inputs besides the frontal image.
            instruction: request in place of the profile's own.

        Raises:
            ConfigError: if the prompt does not take one of the study's inputs.
        """
        self.check(study)
        given = ((line, getattr(study, name)) for name, line in self.texts.items())
        lines = [line.replace("{}", " ".join(text.split())) for line, text in given if text]
        return "\n".join([*lines, self.request(instruction)])

    def request(self, given: str | None = None) -> str:
        """Return the request to the model: the one given, or the profile's own."""
        return self.instruction if given is None else given

    def content(self, study: Study, instruction: str | None = None) -> list[str | int]:
        """Compose the user's turn: texts, and the number of an image in its place.

        Args:
            study: inputs besides the frontal image; its images are numbered frontal, lateral, prior.
            instruction: request in place of the profile's own.

        Raises:
            ConfigError: if the prompt does not take one of the study's inputs.
        """
        words = self.prompt(study, instruction)
        given = ["frontal", *(name for name in ("lateral", "prior") if getattr(study, name))]
        images: list[str | int] = []
        for name, label in self.images.items():
            if name in given:
                images += [label] if label and len(given) > 1 else []
                images.append(given.index(name))
        return [*images, words] if self.images_first else [words, *images]

    def split(self, answer: str, *, complete: bool = True) -> Answer:
        """Cut a model's answer into the sections of a report.

        Args:
            answer: the model's text, or its beginning.
            complete: False if more is to come: what may still turn out to be no findings is not shown.
        """
        return split(self, answer, complete)


PROFILES: Final = Configurations(Profile, "llava_rad.generation")


def load_profile(name_or_file: str | Path) -> Profile:
    """Read a shipped profile by its name, or one from a YAML file.

    Raises:
        ConfigError: if there is none of that name, or it is not valid.
    """
    return PROFILES.load(str(name_or_file))


def shipped() -> Iterator[Profile]:
    """Yield the shipped profiles, by name."""
    for name in PROFILES.shipped():
        yield load_profile(name)


def profile_of(source: str | Path, config: Mapping[str, Any]) -> Profile:
    """Choose the shipped profile of a model: by its repository, the name of its folder, or its type.

    Args:
        source: repository or folder.
        config: contents of its ``config.json``; empty if unknown.
    """
    parts = [part.lower() for part in Path(str(source)).parts]
    found = list(shipped())
    for profile in found:
        for repository in profile.repositories:
            owner_and_name = repository.lower()
            cached = f"models--{owner_and_name.replace('/', '--')}"  # folder of the hub's cache
            if str(source).lower() == owner_and_name or cached in parts or owner_and_name.split("/")[-1] in parts[-1:]:
                return profile
    kind = config.get("model_type")
    return next((profile for profile in found if kind in profile.model_types), load_profile(GENERIC))
