"""Change real reports in known ways and count how often the finding metric sees it.

    python -m scripts.perturb_findings path/to/iu_xray_reports

The folder holds ``reports.jsonl`` of Open-i. Errors are made in the text by rules that share nothing with the metric's
parser, in a statement that is neither denied nor repeated; each kind takes the first 500 reports by SHA-256 that have a
place for it. Detection: the changed report scores below 1 against the original. Reordered and reworded reports should
score 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from metrics.findings.compare import compare
from metrics.findings.errors import Category

REPORTS = 500
# A statement with one of these words says that something is there, unless it has a word of _DENIED.
_FINDINGS = (
    "opacit", "effusion", "atelecta", "cardiomegaly", "nodule", "granuloma", "pneumothorax", "fracture", "scolio",
    "consolidation", "infiltrate", "emphysem", "scarring", "osteophyte", "hernia", "sternotomy", "catheter", "edema",
    "pacemaker", "mass", "tortuous", "degenerative", "hyperinflat", "hyperexpan", "congestion", "fibrosis", "kypho",
    "osteopeni", "thickening", "blunting", "clips", "pneumonia", "compression", "eventration", "stent",
)  # fmt: skip
_DENIED = re.compile(
    r"\b(?:no|not|without|free|negative|resolved|unlikely|clear|cleared|none|never|nor|absence|absent|normal|removed|"
    r"removal|rule|exclude|excluded|if|history|if|question|xxxx|unremarkable|rather|limits)\b",
    re.IGNORECASE,
)
_DUBIOUS = re.compile(
    r"\b(?:compar\w*|prior|previous\w*|ct|could|would|recommend\w*|consider\w*|versus)\b", re.IGNORECASE
)
_ADDED = {
    "pneumothorax": "There is a small left apical pneumothorax.",
    "effusion": "There is a moderate right pleural effusion.",
    "consolidat": "Consolidation is present in the right lower lobe.",
    "nodul": "There is a 12 mm nodule in the left upper lobe.",
    "cardiomeg": "Moderate cardiomegaly.",
    "fractur": "There is an acute fracture of the left sixth rib.",
    "edema": "There is pulmonary edema.",
    "mass": "There is a 4 cm mass in the right upper lobe.",
    "hernia": "A large hiatal hernia is noted.",
    "catheter": "A right internal jugular central venous catheter terminates in the SVC.",
    "cavit": "A cavitary lesion is seen in the left upper lobe.",
    "adenopathy": "There is mediastinal lymphadenopathy.",
    "pneumoperiton": "There is free air under the diaphragm.",
    "emphysem": "Severe emphysema is present.",
    "pneumonia": "Findings are consistent with pneumonia in the lingula.",
    "atelecta": "There is bibasilar atelectasis.",
}
_SEVERITIES = {
    "mild": "severe", "mildly": "severely", "minimal": "severe", "small": "large", "moderate": "minimal",
    "large": "small", "severe": "mild", "severely": "mildly", "moderately": "minimally", "tiny": "large",
    "marked": "mild", "markedly": "mildly", "minimally": "severely", "massive": "small",
}  # fmt: skip
_SYNONYMS = {
    r"cardiomegaly": "enlarged heart", r"pleural effusions?": "pleural fluid",
    r"calcified granulomas?": "calcified nodule",
    r"opacities": "opacification", r"opacity": "opacification", r"atelectasis": "atelectatic change",
    r"are hyperinflated": "show hyperinflation", r"bilateral": "both-sided", r"mild": "slight",
    r"heart is enlarged": "cardiac silhouette is enlarged", r"lungs are clear": "lung fields are clear",
    r"scarring": "scar", r"sternotomy wires": "sternal wires", r"thoracic spine": "thoracic vertebrae",
    r"is tortuous": "shows tortuosity", r"degenerative changes": "degenerative disease", r"unchanged": "stable",
    r"right-sided": "right", r"left-sided": "left", r"in the right lung base": "at the right base",
    r"in the left lung base": "at the left base", r"infiltrate": "airspace opacity",
    r"pulmonary edema": "edema of the lungs",
    r"heart size is normal": "normal heart size", r"is noted": "is seen", r"are noted": "are present",
    r"there is": "there appears", r"hiatal hernia": "hiatus hernia", r"emphysema": "emphysematous change",
    r"within normal limits": "normal", r"osteophytes": "spondylosis", r"median sternotomy": "sternotomy",
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Outcome for one kind of change.

    Attributes:
        reports: number of changed reports.
        detected: number of them that score below 1.
        named: number with an error of the category that the change makes.
        change: mean of 1 minus the score.
        most: share of reports whose score changes by 0.02 at most.
    """

    reports: int
    detected: int
    named: int
    change: float
    most: float


def sentences(text: str) -> list[str]:
    """Return the sentences of a report."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def places(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and word of each statement that names one finding, which nothing else in the report names."""
    found = sentences(text)
    for number, sentence in enumerate(found):
        lower = sentence.lower()
        words = [word for word in _FINDINGS if word in lower]
        rest = " ".join(found[:number] + found[number + 1 :]).lower()
        if len(words) != 1 or _DENIED.search(sentence) or _DUBIOUS.search(sentence) or words[0] in rest:
            continue
        yield number, words[0]


def _edited(text: str, edit: Callable[[str], str | None]) -> str | None:
    """Return the report with the first statement changed that can be."""
    found = sentences(text)
    for number, _ in places(text):
        if (new := edit(found[number])) is not None:
            return " ".join([*found[:number], *([new] if new else []), *found[number + 1 :]])
    return None


def drop(text: str) -> str | None:
    """Leave out a statement."""
    return _edited(text, lambda sentence: "")


def add(text: str) -> str | None:
    """Add a finding that the report does not name, not even to deny it."""
    rng = random.Random(text)
    for word in rng.sample(sorted(_ADDED), len(_ADDED)):
        if word not in text.lower() and not (word == "fractur" and "rib" in text.lower()):
            return f"{text} {_ADDED[word]}"
    return None


def negate(text: str) -> str | None:
    """Deny a finding."""

    def edit(sentence: str) -> str | None:
        lowered = sentence[0].lower() + sentence[1:]
        for start in ("there is a ", "there is an ", "there are ", "there is "):
            if lowered.startswith(start):
                return f"There is no {lowered[len(start) :]}"
        return None if re.search(r"\b(?:is|are|has|have)\b", lowered) else f"No {lowered}"

    return _edited(text, edit)


def swap_side(text: str) -> str | None:
    """Change left and right."""

    def edit(sentence: str) -> str | None:
        sides = re.findall(r"\b(?:left|right)\b", sentence, re.IGNORECASE)
        if len(sides) != 1 or re.search(r"middle lobe|lingula|ventric|atri", sentence, re.IGNORECASE):
            return None
        other = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
        return re.sub(r"\b(?:left|right)\b", lambda match: other[match[0]], sentence, flags=re.IGNORECASE)

    return _edited(text, edit)


def change_size(text: str) -> str | None:
    """Make a measured size two and a half times as large."""

    def edit(sentence: str) -> str | None:
        if re.search(r"above|below|from", sentence):
            return None
        new, count = re.subn(
            r"\b(\d+(?:\.\d+)?)(?= ?-?(?:mm|cm)\b| ?x )", lambda match: f"{2.5 * float(match[1]):g}", sentence
        )
        return new if count else None

    found = sentences(text)
    for number, sentence in enumerate(found):
        known = any(word in sentence.lower() for word in _FINDINGS)
        if known and not _DENIED.search(sentence) and (new := edit(sentence)):
            return " ".join([*found[:number], new, *found[number + 1 :]])
    return None


def change_severity(text: str) -> str | None:
    """Change small to large, mild to severe, and so on."""

    def edit(sentence: str) -> str | None:
        words = [word for word in re.findall(r"\w+", sentence.lower()) if word in _SEVERITIES]
        if len(words) != 1 or re.search(rf"\b(?:to|very)\b|-{words[0]}|{words[0]} (?:airway|bowel)", sentence.lower()):
            return None
        return re.sub(rf"\b{words[0]}\b", _SEVERITIES[words[0]], sentence, flags=re.IGNORECASE)

    return _edited(text, edit)


def reorder(text: str) -> str | None:
    """Put the sentences in another order; one that refers to another stays out of this."""
    found = sentences(text)
    if len(found) < 3 or any(re.match(r"(?:this|these|it|its|the tip|which|findings)\b", one.lower()) for one in found):
        return None
    random.Random(text).shuffle(found)
    return " ".join(found)


def paraphrase(text: str) -> str | None:
    """Replace words by synonyms."""
    if not any(True for _ in places(text)):
        return None
    new = text
    for pattern, synonym in _SYNONYMS.items():
        new = re.sub(rf"\b{pattern}\b", synonym, new, flags=re.IGNORECASE)
    return new if new != text else None


KINDS: dict[str, tuple[Callable[[str], str | None], Category | None]] = {
    "drop": (drop, Category.MISSED_FINDING),
    "add": (add, Category.FALSE_FINDING),
    "negate": (negate, Category.MISSED_FINDING),
    "swap side": (swap_side, Category.PLACE),
    "change size": (change_size, Category.SEVERITY),
    "change severity": (change_severity, Category.SEVERITY),
    "reorder": (reorder, None),
    "paraphrase": (paraphrase, None),
}


def changed(texts: list[str], kind: str, reports: int = REPORTS) -> list[tuple[str, str]]:
    """Return originals with their changed reports."""
    change = KINDS[kind][0]
    found = ((text, change(text)) for text in texts)
    return [(text, new) for text, new in found if new is not None and new != text][:reports]


def measure(pairs: list[tuple[str, str]], category: Category | None) -> Result:
    """Score changed reports against their originals."""
    results = [compare(new, text) for text, new in pairs]
    changes = [1 - one.score for one in results]
    return Result(
        len(pairs),
        sum(change > 0 for change in changes),
        sum(any(error.category is category for error in one.errors) for one in results),
        sum(changes) / len(changes),
        sum(change <= 0.02 for change in changes) / len(changes),
    )


def read(folder: Path) -> list[str]:
    """Return the different findings sections in the order of their SHA-256."""
    with (folder / "reports.jsonl").open(encoding="utf-8") as file:
        texts = {text for line in file if (text := json.loads(line)["findings"])}
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with reports.jsonl")
    parser.add_argument("--reports", type=int, default=REPORTS, help="reports of each kind")
    parser.add_argument("--undetected", metavar="KIND", choices=KINDS, help="print the reports that fail, with text")
    options = parser.parse_args(arguments)
    texts = read(options.folder)
    print(f"{'change':<18}{'reports':>8}{'detected':>10}{'named':>8}{'mean change':>13}{'at most 0.02':>14}")
    for kind, (_, category) in KINDS.items():
        pairs = changed(texts, kind, options.reports)
        one = measure(pairs, category)
        named = f"{one.named / one.reports:.3f}" if category else ""
        print(
            f"{kind:<18}{one.reports:>8}{one.detected / one.reports:>10.3f}{named:>8}"
            f"{one.change:>13.3f}{one.most:>14.3f}"
        )
        if kind == options.undetected:
            for text, new in pairs:
                comparison = compare(new, text)
                if (comparison.score == 1) == (category is not None):
                    words = Counter(new.split()) - Counter(text.split()), Counter(text.split()) - Counter(new.split())
                    print(f"  {comparison.score:.2f} +{' '.join(words[0])} -{' '.join(words[1])} | {text}")


if __name__ == "__main__":
    main()
