"""Prompt templates as named data: the words around the images of a prompt, and the study inputs that it takes.

Published models were trained on exactly these words; each template names their public source. A checkpoint's
``config.json`` names its template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from encoder.errors import ConfigError

TemplateName = Literal["llava-1.5", "llava-rad", "maira-2", "study"]
IMAGE: Final = "<image>"
"""Place of an image in a template's text."""


@dataclass(frozen=True)
class Study:
    """Inputs of a prompt besides the frontal image.

    Attributes:
        lateral: the second image is a lateral one.
        prior: the last image is a frontal one of an earlier study.
        prior_report: findings of the earlier study.
        indication: reason for the examination.
        technique: technique of the examination.
        comparison: earlier examinations for comparison.
        grounded: the answer is to give boxes.
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
        """Number of images of the prompt."""
        return 1 + self.lateral + self.prior

    @property
    def kinds(self) -> tuple[int, ...]:
        """Kind of each image of the prompt, in its order: numbers of :data:`KINDS`."""
        return (0, *[1] * self.lateral, *[2] * self.prior)

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the inputs given, as the command line spells them."""
        return tuple(name.replace("_", "-") for name in self.__dataclass_fields__ if getattr(self, name))

    @property
    def texts(self) -> dict[str, str]:
        """Texts given, by name."""
        found = {name: getattr(self, name) for name in TEXTS}
        return {name.replace("_", " "): text for name, text in found.items() if text}


FRONTAL_ONLY: Final = Study()
KINDS: Final = ("frontal", "lateral", "prior")
"""Kinds of the images of a prompt."""
TEXTS: Final = ("prior_report", "indication", "technique", "comparison")


@dataclass(frozen=True)
class Template:
    """Wording of a prompt.

    Attributes:
        name: name in a checkpoint's ``config.json``.
        places: study inputs that it takes, as ``Study.used`` spells them.
        turn: text around the user's words, ``{}``, after the system text.
        words: function from an instruction and a study to the user's words, each image as ``<image>``.
    """

    name: TemplateName
    places: frozenset[str]
    turn: str
    words: Callable[[str, Study], str]

    def text(self, system: str, instruction: str, study: Study, turn: str | None = None) -> str:
        """Compose the whole prompt, each image as ``<image>``.

        Args:
            system: text before the user's turn.
            instruction: request to the model.
            study: inputs besides the frontal image.
            turn: text around the user's words in place of the template's own.

        Raises:
            ConfigError: if the template does not take one of the study's inputs.
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
        """Command-line options that it takes, for messages."""
        return ", ".join(f"--{place}" for place in sorted(self.places))


def _llava(instruction: str, study: Study) -> str:
    return f"{IMAGE}\n{instruction}"


def _llava_rad(instruction: str, study: Study) -> str:
    if study.indication:
        reason = study.indication.replace("\n", " ")
        instruction = f"{instruction.removesuffix('.')} given the following indication: {reason}"
    return f"{IMAGE}\n{instruction}"


_LABELS: Final = {
    "prior_report": "Earlier report",
    "indication": "Indication",
    "technique": "Technique",
    "comparison": "Comparison",
}


def _study(instruction: str, study: Study) -> str:
    """Return the paper's words, with a line for each further input between image and instruction."""
    lines = [IMAGE]
    lines += [f"Lateral image: {IMAGE}"] if study.lateral else []
    lines += [f"Earlier frontal image: {IMAGE}"] if study.prior else []
    for name, label in _LABELS.items():
        if text := getattr(study, name):
            lines.append(f"{label}: {' '.join(text.split())}")
    return "\n".join([*lines, instruction])


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
        # The user's words: microsoft/maira-2, processing_maira2.py, as mirrored in johannes2moll/maira_rrg; no second
        # public copy was found. The turn: chat_template.json of optimum-intel-internal-testing/tiny-random-maira2;
        # another account has two spaces in place of one, so conversion uses the chat template of the weights.
        Template(
            "maira-2",
            frozenset({"lateral", "prior", "prior-report", "indication", "technique", "comparison", "grounded"}),
            " USER: {} ASSISTANT: ",
            _maira_2,
        ),
        # ours; without further inputs it is LLaVA-1.5's
        Template(
            "study",
            frozenset({"lateral", "prior", "prior-report", "indication", "technique", "comparison"}),
            " USER: {} ASSISTANT:",
            _study,
        ),
    )
}
