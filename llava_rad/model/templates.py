"""Prompt templates as named data: what stands between the images of a prompt, and which inputs have a place in it.

The words are facts about published models, which were trained on exactly these; each template names where they are
public. A checkpoint's ``config.json`` says which template is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from encoder.errors import ConfigError

TemplateName = Literal["llava-1.5", "llava-rad", "maira-2"]
IMAGE: Final = "<image>"
"""Stands for an image in a template's text."""


@dataclass(frozen=True)
class Study:
    """What a report is written from besides the frontal image.

    Attributes:
        lateral: there is a lateral image, second after the frontal one.
        prior: there is a frontal image of an earlier study, last.
        prior_report: findings of the earlier study.
        indication: why the images were taken.
        technique: how.
        comparison: what they are compared with.
        grounded: boxes are asked for.
    """

    lateral: bool = False
    prior: bool = False
    prior_report: str | None = None
    indication: str | None = None
    technique: str | None = None
    comparison: str | None = None
    grounded: bool = False

    @property
    def images(self) -> int:
        """How many images the prompt has."""
        return 1 + self.lateral + self.prior

    @property
    def used(self) -> tuple[str, ...]:
        """The inputs that are there, as the command line calls them."""
        return tuple(name.replace("_", "-") for name in self.__dataclass_fields__ if getattr(self, name))

    @property
    def texts(self) -> dict[str, str]:
        """The texts that are there."""
        found = {name: getattr(self, name) for name in TEXTS}
        return {name.replace("_", " "): text for name, text in found.items() if text}


FRONTAL_ONLY: Final = Study()
TEXTS: Final = ("prior_report", "indication", "technique", "comparison")


@dataclass(frozen=True)
class Template:
    """One way of asking.

    Attributes:
        name: as a checkpoint calls it.
        places: the inputs beside the frontal image that have a place, as ``Study.used`` calls them.
        turn: what stands around the user's words, which are ``{}``, after the system text.
        words: the user's words of an instruction and a study, each image as ``<image>``.
    """

    name: TemplateName
    places: frozenset[str]
    turn: str
    words: Callable[[str, Study], str]

    def text(self, system: str, instruction: str, study: Study, turn: str | None = None) -> str:
        """The whole prompt, each image as ``<image>``; ``turn`` in place of the template's own.

        Raises:
            ConfigError: the study has something that has no place here.
        """
        for used in study.used:
            if used not in self.places:
                raise ConfigError(
                    f"the model's prompt has no place for --{used}",
                    hint=f"it takes {self.takes}" if self.places else None,
                )
        if study.prior_report and not study.prior:
            raise ConfigError("--prior-report needs the image that it is about: --prior")
        head, _, tail = (self.turn if turn is None else turn).partition("{}")
        return f"{system}{head}{self.words(instruction, study)}{tail}"

    @property
    def takes(self) -> str:
        """The options that it takes."""
        return ", ".join(f"--{place}" for place in sorted(self.places))


def _llava(instruction: str, study: Study) -> str:
    return f"{IMAGE}\n{instruction}"


def _llava_rad(instruction: str, study: Study) -> str:
    if study.indication:
        reason = study.indication.replace("\n", " ")
        instruction = f"{instruction.removesuffix('.')} given the following indication: {reason}"
    return f"{IMAGE}\n{instruction}"


MAIRA_2_SYSTEM: Final = "You are an expert radiology assistant tasked with interpreting a chest X-ray study."
MAIRA_2_INSTRUCTION: Final = (
    "Provide a structured description of the findings in the radiology study in comparison to the prior frontal image."
)
_GROUNDED: Final = (
    " Each finding should be described as a self-contained plain-text sentence. If the finding is groundable, locate "
    "the finding in the current frontal chest X-ray image, with bounding boxes indicating all locations where it can "
    "be seen in the current frontal image. Otherwise, generate just the ungrounded finding without bounding boxes."
)
_ABSENT: Final = "N/A"


def _maira_2(instruction: str, study: Study) -> str:
    frontal = "Given the current frontal image"
    images = {
        (False, False): f"{frontal} only{IMAGE}",
        (True, False): f"{frontal}{IMAGE} and the current lateral image{IMAGE}",
        (False, True): f"{frontal}{IMAGE} and the prior frontal image{IMAGE}",
        (True, True): f"{frontal}{IMAGE} the current lateral image{IMAGE} and the prior frontal image{IMAGE}",
    }[study.lateral, study.prior]
    prior = f" PRIOR_REPORT: {study.prior_report or _ABSENT}" if study.prior else ""
    fields = " ".join(
        f"{name.upper()}: {getattr(study, name) or _ABSENT}" for name in ("indication", "technique", "comparison")
    )
    return f"{images}{prior} {instruction}{_GROUNDED if study.grounded else ''} {fields}"


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # haotian-liu/LLaVA: llava/conversation.py (conv_vicuna_v1); the same in FastChat (vicuna_v1.1)
        Template("llava-1.5", frozenset(), " USER: {} ASSISTANT:", _llava),
        # microsoft/LLaVA-Rad: llava/utils.py (data_loader_mimic_reason_findings), scripts/eval.sh (conv_mode v1);
        # copies in pradyunramesh/LLaVA-Rad and SeanCheng1996/LLaVA-Rad-main
        Template("llava-rad", frozenset({"indication"}), " USER: {} ASSISTANT:", _llava_rad),
        # The user's words: microsoft/maira-2, processing_maira2.py, as mirrored in johannes2moll/maira_rrg; of these no
        # second public copy was found. Around them: chat_template.json of
        # optimum-intel-internal-testing/tiny-random-maira2. A second account of them has two spaces where this has
        # one, so conversion takes what the weights' own chat template says.
        Template(
            "maira-2",
            frozenset({"lateral", "prior", "prior-report", "indication", "technique", "comparison", "grounded"}),
            " USER: {} ASSISTANT: ",
            _maira_2,
        ),
    )
}
