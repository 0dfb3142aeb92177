"""Kinds of error in a report and their clinical significance: the one list of the metric and of the review application.

Kinds are the six categories of ReXVal (Yu et al. 2023, https://doi.org/10.13026/2fp8-qr71) and "other"; significance
has the four levels of RadPref (project CRIMSON, arXiv 2603.06183). Values are stored in files: never rename one.
"""

from __future__ import annotations

from enum import StrEnum


class Category(StrEnum):
    """Kind of an error, in the order of ReXVal's form."""

    FALSE_FINDING = "false_finding"
    MISSED_FINDING = "missed_finding"
    PLACE = "place"
    SEVERITY = "severity"
    FALSE_COMPARISON = "false_comparison"
    MISSED_COMPARISON = "missed_comparison"
    OTHER = "other"

    @property
    def label(self) -> str:
        """Name for readers."""
        return _CATEGORIES[self][0]

    @property
    def definition(self) -> str:
        """Definition in one sentence."""
        return _CATEGORIES[self][1]


class Significance(StrEnum):
    """Clinical significance of an error, the gravest first."""

    URGENT = "urgent"
    ACTIONABLE = "actionable_not_urgent"
    NOT_ACTIONABLE = "not_actionable_not_urgent"
    BENIGN = "benign_expected"

    @property
    def label(self) -> str:
        """Name for readers."""
        return _SIGNIFICANCE[self][0]

    @property
    def definition(self) -> str:
        """Definition in one sentence."""
        return _SIGNIFICANCE[self][1]


_CATEGORIES = {
    Category.FALSE_FINDING: ("False finding", "The report names a finding that is not there."),
    Category.MISSED_FINDING: ("Missed finding", "The report leaves out a finding that is there."),
    Category.PLACE: ("Place", "The finding is there, but on another side or in another place."),
    Category.SEVERITY: ("Severity", "The finding is there, but its severity, size or certainty is another."),
    Category.FALSE_COMPARISON: (
        "Comparison that is not there",
        "The report describes a change from an earlier study that cannot be known or did not take place.",
    ),
    Category.MISSED_COMPARISON: (
        "Comparison left out",
        "The report leaves out a change from an earlier study.",
    ),
    Category.OTHER: ("Other", "Any other error, such as a wrong device type, negation or wording."),
}
_SIGNIFICANCE = {
    Significance.URGENT: ("Urgent", "The error changes what has to be done at once."),
    Significance.ACTIONABLE: ("Actionable, not urgent", "The error changes treatment or follow-up, not at once."),
    Significance.NOT_ACTIONABLE: (
        "Not actionable",
        "The error is worth a correction but changes nothing that is done.",
    ),
    Significance.BENIGN: ("Expected or benign", "The error concerns a finding that is normal for the age or harmless."),
}
