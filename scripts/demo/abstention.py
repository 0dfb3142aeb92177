"""Fit the demonstration model's probabilities and decision levels, and measure reports without uncertain findings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from llava_rad.generation.abstention import withhold
from scripts.demo import evaluate, grammar
from scripts.demo.nih import LABELS, NO_FINDING, Case

if TYPE_CHECKING:
    import torch

    from llava_rad.model.findings import Findings

FEWEST = 10
"""Patients with a finding that its levels need; findings of fewer are never uncertain."""


def fit(features: torch.Tensor, cases: Sequence[Case]) -> Findings | None:
    """Fit probabilities and levels; None if no finding has enough patients.

    Args:
        features: [n, F], of ``Familiarity.describe``.
        cases: the n training images.
    """
    import torch

    from llava_rad.model.findings import Findings

    patients = {label: {case.patient for case in cases if label in case.labels} for label in grammar.PHRASES}
    phrases = {label: words for label, words in grammar.PHRASES.items() if len(patients[label]) >= FEWEST}
    if not phrases:
        return None
    labels = torch.tensor([[float(label in case.labels) for label in phrases] for case in cases])
    return Findings.fit(features, labels, [case.patient for case in cases], phrases)


def levels(features: torch.Tensor, cases: Sequence[Case]) -> dict[str, float]:
    """Probabilities from which each label, and ``NO_FINDING``, is stated: those with the best F1 of a linear probe.

    Args:
        features: [n, F], of ``Familiarity.describe``.
        cases: the n training images; those with unknown labels are left out.
    """
    import torch

    from llava_rad.model.findings import Findings

    places = [place for place, case in enumerate(cases) if not case.unknown]
    known = [cases[place] for place in places]
    patients = {label: {case.patient for case in known if states(label, case)} for label in (*LABELS, NO_FINDING)}
    phrases = {label: (label,) for label, some in patients.items() if len(some) >= FEWEST}
    if not phrases:
        return {}
    labels = torch.tensor([[float(states(label, case)) for label in phrases] for case in known])
    found = Findings.fit(features[places], labels, [case.patient for case in known], phrases)
    return dict(zip(phrases, found.high.tolist(), strict=True))


def states(label: str, case: Case) -> bool:
    """True if a case has a label, or none for ``NO_FINDING``."""
    return label in case.labels if label != NO_FINDING else not case.labels


def measure(
    reports: Sequence[str],
    truth: Sequence[frozenset[str]],
    unsure: Sequence[Collection[str]],
    phrases: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Score reports with uncertain findings left unsaid.

    Args:
        reports: one for each image.
        truth: findings of the images.
        unsure: findings of the images that cannot be judged.
        phrases: of all findings that may be uncertain.

    Returns:
        ``rate``: share of the pairs of image and finding that are not judged; ``removed``: share of these that no
        report speaks of any more; ``macro_f1`` and ``micro_f1`` with unsaid findings counted as absent, and
        ``judged_macro_f1`` and ``judged_micro_f1`` over the other pairs.
    """
    found = [withhold(text, some, phrases, say=False) for text, some in zip(reports, unsure, strict=True)]
    pairs = sum(map(len, unsure))
    said = evaluate.score([one.text for one in found], truth)
    judged = evaluate.score_labels(
        [evaluate.label_text(one.text) - set(some) for one, some in zip(found, unsure, strict=True)],
        [labels - set(some) for labels, some in zip(truth, unsure, strict=True)],
    )
    numbers = {
        "rate": pairs / max(1, len(reports) * len(phrases)),
        "removed": 1 - sum(len(one.left) for one in found) / max(1, pairs),
        "macro_f1": said.macro_f1,
        "micro_f1": said.micro_f1,
        "judged_macro_f1": judged.macro_f1,
        "judged_micro_f1": judged.micro_f1,
    }
    return {name: round(value, 4) for name, value in numbers.items()}
