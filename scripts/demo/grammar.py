"""Write findings paragraphs from NIH labels: varied wording, no statement beyond the labels.

Rules of the grammar:

* The first sentence says whether the radiograph is normal, as an impression does: the language model decides this
  first, and then writes what agrees with it. Whether anything is wrong is seen far better than what (AUROC 0.87, and
  0.72 over the 14 findings, by linear probes out of fold).
* A paragraph follows one fixed order of the chest, so the position that decides a finding is always the same.
* Each paragraph has one author. An author is recognised by the first words and keeps to one construction per
  sentence, so every later choice of the language model is about the image, not about wording. Within `[a|b]` wording
  is free; such groups only follow the words that decide the finding.
* Side only where known (NIH boxes). No size, number, certainty, device, view, sex or age: NIH labels have none of
  them. A label does not distinguish one nodule from several, so the text says "at least one".
* Findings that reports usually deny are denied when absent; pleural thickening, emphysema, fibrosis and hernia are
  then left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_rad.generation.abstention import CANNOT, withhold
from scripts.demo.nih import NO_FINDING

SIDES = {"left": " on the left", "right": " on the right", "bilateral": " on both sides"}
_MIDLINE = frozenset({"Cardiomegaly", "Hernia"})
_CHOICE = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Piece:
    """A stretch of the paragraph.

    Attributes:
        text: with its leading space and its punctuation.
        finding: the label that this stretch affirms, or ``NO_FINDING``; None for the rest.
    """

    text: str
    finding: str | None = None


@dataclass(frozen=True)
class Slot:
    """One sentence about findings that are named or denied together.

    Attributes:
        lead: words before the decision.
        none: continuation when all of `items` are absent.
        some: continuation when any is present; the items follow.
        items: label -> its noun phrase, in the order of mention.
        end: words after the items.
        missing: label -> its negation where another item is present; labels without an entry are not mentioned.
    """

    lead: str
    none: str
    some: str
    items: Mapping[str, str]
    end: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    def write(self, present: Iterable[str], sides: Mapping[str, str]) -> list[Piece]:
        """Pieces of the sentence, with `[a|b]` choices not yet made."""
        wanted = set(present)
        named = [label for label in self.items if label in wanted]
        if not named:
            return [Piece(self.lead), Piece(f"{self.none}.")]
        pieces = [Piece(self.lead)]
        for place, label in enumerate(named):
            join = self.some if place == 0 else " and" if place == len(named) - 1 else ","
            pieces.append(Piece(join + self.items[label] + SIDES.get(sides.get(label, ""), ""), label))
        denied = "".join(text for label, text in self.missing.items() if label not in wanted)
        return [*pieces, Piece(f"{self.end}{denied}.")]


@dataclass(frozen=True)
class Author:
    """One style: the first sentence, those of every paragraph, and those for findings that reports seldom deny.

    The first sentence is its words before the decision, those of a normal radiograph, and those of another.
    """

    first: tuple[str, str, str]
    slots: tuple[Slot, ...]
    extra: Mapping[str, str]


PHRASES: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("atelectasis",),
    "Cardiomegaly": ("heart size", "heart", "cardiac silhouette", "cardiac size", "cardiomegaly"),
    "Effusion": ("pleural effusion", "effusion"),
    "Infiltration": ("infiltrate",),
    "Mass": ("mass",),
    "Nodule": ("nodule", "lung nodule", "pulmonary nodule"),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Consolidation": ("consolidation", "focal consolidation"),
    "Edema": ("pulmonary edema", "edema"),
    "Emphysema": ("emphysema", "lungs are emphysematous"),
    "Fibrosis": ("fibrosis", "pulmonary fibrosis", "fibrotic change"),
    "Pleural_Thickening": ("pleural thickening", "pleura is thickened"),
    "Hernia": ("hernia", "herniation"),
}
"""Label -> words by which the grammar's sentences name it, for ``llava_rad.generation.abstention``."""

_AIRSPACE = {"Consolidation": " consolidation", "Infiltration": " infiltrate", "Pneumonia": " pneumonia"}
_LUMPS = {"Nodule": " at least one nodule", "Mass": " at least one mass"}
_PLEURA = {"Effusion": " pleural effusion", "Pneumothorax": " pneumothorax"}
_NEITHER = {"Effusion": " without pleural effusion", "Pneumothorax": " without pneumothorax"}

AUTHORS: tuple[Author, ...] = (
    Author(
        ("The radiograph is", " normal.", " abnormal."),
        (
            Slot(" The heart is", " normal in size", " enlarged", {"Cardiomegaly": ""}),
            Slot(" There is", " no pulmonary edema", "", {"Edema": " pulmonary edema"}),
            Slot(" The lungs", " are free of consolidation, infiltrate and pneumonia", " show", _AIRSPACE),
            Slot(" Atelectasis is", " absent", "", {"Atelectasis": " [seen|present]"}),
            Slot(" There is", " no nodule or mass", "", _LUMPS),
            Slot(" There is", " no pleural effusion or pneumothorax", "", _PLEURA, missing=_NEITHER),
        ),
        {
            "Pleural_Thickening": " The pleura is thickened.",
            "Emphysema": " There is emphysema.",
            "Fibrosis": " There is fibrosis[| of the lungs].",
            "Hernia": " A hernia is [seen|present].",
        },
    ),
    Author(
        ("Chest radiograph", " within normal limits.", " with abnormal findings."),
        (
            Slot(
                " Heart size is",
                " within normal limits",
                " increased",
                {"Cardiomegaly": ", [indicating|in keeping with] cardiomegaly"},
            ),
            Slot(" The lungs show", " no sign of edema", "", {"Edema": " edema"}),
            Slot(" The lungs contain", " no focal consolidation, infiltrate or pneumonia", "", _AIRSPACE),
            Slot(" There is", " no atelectasis", "", {"Atelectasis": " atelectasis"}),
            Slot(" There is", " no [lung|pulmonary] nodule or mass", "", _LUMPS),
            Slot(" In the pleural spaces there is", " no effusion or pneumothorax", "", _PLEURA, missing=_NEITHER),
        ),
        {
            "Pleural_Thickening": " Pleural thickening is [present|noted].",
            "Emphysema": " The lungs are emphysematous.",
            "Fibrosis": " Fibrotic change is [present|noted].",
            "Hernia": " There is a hernia.",
        },
    ),
    Author(
        ("The chest is", " normal.", " not normal."),
        (
            Slot(" The cardiac silhouette is", " not enlarged", " enlarged", {"Cardiomegaly": ""}),
            Slot(" Pulmonary edema is", " not [seen|identified]", "", {"Edema": " present"}),
            Slot(" In the lungs there is", " no consolidation, infiltrate or pneumonia", "", _AIRSPACE),
            Slot(" Atelectasis is", " not [seen|identified]", "", {"Atelectasis": " present"}),
            Slot(" The lungs contain", " no nodules or masses", "", _LUMPS),
            Slot(" There is", " no pleural effusion and no pneumothorax", "", _PLEURA, missing=_NEITHER),
        ),
        {
            "Pleural_Thickening": " There is pleural thickening.",
            "Emphysema": " Emphysema is present.",
            "Fibrosis": " Fibrosis is present.",
            "Hernia": " There is herniation.",
        },
    ),
    Author(
        ("Overall", " normal.", " abnormal."),
        (
            Slot(" Cardiac size", " is normal", " is enlarged", {"Cardiomegaly": ""}),
            Slot(" Lungs", " without edema", " with", {"Edema": " pulmonary edema"}),
            Slot(" Lungs", " clear of consolidation, infiltrate and pneumonia", " with", _AIRSPACE),
            Slot(" Atelectasis:", " none", " present", {"Atelectasis": ""}),
            Slot("", " No nodule or mass", " Presence of", _LUMPS),
            Slot(" Pleural spaces", " without effusion or pneumothorax", " with", _PLEURA, missing=_NEITHER),
        ),
        {
            "Pleural_Thickening": " Pleural thickening.",
            "Emphysema": " Emphysema.",
            "Fibrosis": " Pulmonary fibrosis.",
            "Hernia": " Hernia.",
        },
    ),
)


def write(
    present: Iterable[str],
    sides: Mapping[str, str],
    rng: np.random.Generator,
    author: int | None = None,
    unknown: Collection[str] = (),
) -> list[Piece]:
    """Write one findings paragraph.

    Args:
        present: NIH labels; none for "No Finding".
        sides: label -> `left`, `right` or `bilateral`, only where known.
        rng: Source of the wording.
        author: Index into `AUTHORS`; any if None.
        unknown: Labels of which nothing is said; none of `present`.

    Returns:
        The pieces in order; `text_of` joins them.
    """
    wanted = frozenset(present)
    sides = {label: side for label, side in sides.items() if label not in _MIDLINE}
    chosen = AUTHORS[int(rng.integers(len(AUTHORS))) if author is None else author]
    sentences = [slot.write(wanted, sides) for slot in chosen.slots]
    pieces = [piece for sentence in sentences for piece in (_known(sentence, unknown) if unknown else sentence)]
    if wanted or not unknown:
        lead, normal, abnormal = chosen.first
        pieces = [Piece(lead), Piece(abnormal) if wanted else Piece(normal, NO_FINDING), *pieces]
    pieces += [Piece(text, label) for label, text in chosen.extra.items() if label in wanted]

    def choose(match: re.Match[str]) -> str:
        options = match[1].split("|")
        return options[int(rng.integers(len(options)))]

    chosen_pieces = [Piece(_CHOICE.sub(choose, piece.text), piece.finding) for piece in pieces]
    if unknown:  # the first sentence may be gone, or nothing of it be left
        chosen_pieces = [piece for piece in chosen_pieces if piece.text.strip()]
        if chosen_pieces:
            chosen_pieces[0] = Piece(chosen_pieces[0].text.lstrip(), chosen_pieces[0].finding)
    return chosen_pieces


def _known(sentence: Sequence[Piece], unknown: Collection[str]) -> list[Piece]:
    """Leave unknown labels out of a sentence; what is left of a changed one affirms the first label that it named."""
    text = text_of(sentence)
    changed = withhold(text.strip(), unknown, PHRASES, say=False)
    if changed.text == text.strip():
        return list(sentence)
    if CANNOT in changed.text:
        return []
    space = " " if text.startswith(" ") else ""
    return [Piece(space + changed.text, next((piece.finding for piece in sentence if piece.finding), None))]


def text_of(pieces: Iterable[Piece]) -> str:
    """Join the pieces."""
    return "".join(piece.text for piece in pieces)
