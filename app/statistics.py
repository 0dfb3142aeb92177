"""Statistics of reviews: decisions on drafted sentences, edit distance, errors, label changes and working time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app import review
from metrics.findings.errors import Category, Significance

if TYPE_CHECKING:
    from app.store import Store

Labeler = Callable[[str], Mapping[str, str]]
Signed = Mapping[str, Any]
NOT_RATED = "not rated"
_MOST_LABELS = 10


def summary(store: Store, user: str, labels_of: Labeler) -> dict[str, Any]:
    """Summarise the signed reports of a user's studies, and those of others' studies that the user signed.

    A report that was signed several times counts with its last version and the working time of all of them.

    Args:
        store: studies and signed reports.
        user: whose studies and signed reports are counted.
        labels_of: returns the label of each finding for a text.
    """
    versions = store.signed(user)
    time: Counter[str] = Counter()
    for one in versions:
        time[one["study"]] += one["seconds"]
    last = {one["study"]: one | {"seconds": time[one["study"]]} for one in versions}
    reports = list(last.values())
    models = sorted({one["model"] for one in reports if one["model"]})
    return {
        "studies": store.worklist(user, limit=1)["counts"],
        "signed": len(reports),
        **_numbers(reports),
        "days": dict(sorted(Counter(one["at"][:10] for one in reports).items())),
        "labels": label_changes(reports, labels_of),
        "models": [
            {"model": model, "signed": len(own), **_numbers(own)}
            for model in models
            for own in [[one for one in reports if one["model"] == model]]
        ],
    }


def edit_distance(report: Signed) -> float:
    """Return the edit distance between draft and signed report, 0 (equal) to 1.

    It is the sum of the sentences' Levenshtein distances (a rejected or added sentence counts with all its
    characters), divided by the length of the longer text.
    """
    sentences = report["document"]["sentences"]
    changed = sum(
        levenshtein(one["draft"] or "", "" if one["state"] == "rejected" else one["text"]) for one in sentences
    )
    before = sum(len(one["draft"] or "") for one in sentences)
    after = sum(len(one["text"]) for one in sentences if one["state"] != "rejected")
    return changed / max(before, after, 1)


def levenshtein(before: str, after: str) -> int:
    """Return the least number of characters to insert, delete or substitute."""
    start, shorter = 0, min(len(before), len(after))
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    # most edits change a few words: skip the common beginning and end
    before, after = before[start : len(before) - end], after[start : len(after) - end]
    row = list(range(len(after) + 1))
    for number, one in enumerate(before, 1):
        above, row[0] = row[0], number
        for at, other in enumerate(after, 1):
            above, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, above + (one != other))
    return row[-1]


def label_changes(reports: Iterable[Signed], labels_of: Labeler) -> list[dict[str, Any]]:
    """Count the findings whose label differs between draft and signed report, most frequent first.

    The label of a signed report is that of its text, or the one that the reviewer set. Reports without a draft changed
    nothing and are left out.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for one in reports:
        if not (drafted := review.drafted_text(one["document"])):
            continue
        before = labels_of(drafted)
        after = {**labels_of(one["text"]), **one["document"].get("corrections", {})}
        found.update((name, before[name], after[name]) for name in before if before[name] != after[name])
    return [
        {"finding": name, "from": before, "to": after, "count": count}
        for (name, before, after), count in found.most_common(_MOST_LABELS)
    ]


def errors_of(reports: Iterable[Signed]) -> dict[str, Any]:
    """Count the errors that reviewers named, by category, by significance and by both.

    Errors without a significance are counted as ``not rated``.
    """
    found: Counter[tuple[str, str]] = Counter()
    for report in reports:
        for one in report["document"]["sentences"]:
            if error := one.get("error"):
                found[error["category"], error["significance"] or NOT_RATED] += 1
    categories, significance = Counter[str](), Counter[str]()
    for (category, rated), count in found.items():
        categories[category] += count
        significance[rated] += count
    ratings = [*Significance, NOT_RATED]
    return {
        "total": found.total(),
        "categories": {one.value: categories[one] for one in Category},
        "significance": {str(one): significance[one] for one in ratings},
        "both": [
            {"category": one.value, "significance": str(rated), "count": found[one, rated]}
            for one in Category
            for rated in ratings
            if found[one, rated]
        ],
    }


def _numbers(reports: Sequence[Signed]) -> dict[str, Any]:
    states = Counter(
        one["state"] for report in reports for one in report["document"]["sentences"] if one["draft"] is not None
    )
    drafted = [report for report in reports if review.drafted_text(report["document"])]
    distances = [edit_distance(report) for report in drafted]
    seconds = sorted(report["seconds"] for report in reports)
    low, high = statistics.quantiles(seconds, n=4, method="inclusive")[::2] if len(seconds) > 1 else (None, None)
    total = states.total()
    return {
        "sentences": total,
        "added": sum(one["draft"] is None for report in reports for one in report["document"]["sentences"]),
        "shares": {state: states[state] / total if total else None for state in review.STATES[1:4]},
        "errors": errors_of(reports),
        "edit_distance": {"mean": statistics.mean(distances) if distances else None},
        "seconds": {"median": statistics.median(seconds) if seconds else None, "low": low, "high": high},
    }
