"""The finding metric over many reports: scores, errors by category, significance and finding; and a reward function."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from metrics.base import InputError, Metric, checked_pairs, option
from metrics.findings.compare import Comparison, compare
from metrics.findings.errors import Category, Significance
from metrics.findings.lexicon import entities
from metrics.findings.parse import parse
from metrics.findings.significance import Context
from metrics.scores import Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics.scores import Floats

VERSION: Final = "findings-1"
_TABLES: Final = (
    "entities.csv",
    "words.py",
    "weights.py",
    "attributes.py",
    "sentence.py",
    "compare.py",
    "significance.py",
)
_OF_RULES: Final = ("cues.py", "scope.py", "text.py")


def compare_all(
    candidates: Sequence[str], references: Sequence[str], contexts: Sequence[Context] | None = None
) -> list[Comparison]:
    """Compare N generated reports with their references.

    Args:
        candidates: N generated texts.
        references: N texts.
        contexts: what is known of the N patients, or None.

    Raises:
        InputError: see :func:`metrics.base.checked_pairs`; or if there are not as many contexts.
    """
    candidates, references = checked_pairs(candidates, references)
    contexts = [Context()] * len(candidates) if contexts is None else contexts
    if len(contexts) != len(candidates):
        raise InputError(f"{len(contexts)} contexts for {len(candidates)} reports: there must be one of each")
    read = {text: parse(text) for text in dict.fromkeys((*candidates, *references))}
    return [
        compare(read[first], read[second], context)
        for first, second, context in zip(candidates, references, contexts, strict=True)
    ]


def reward(
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    ages: Sequence[float | None] | None = None,
    indications: Sequence[str] | None = None,
) -> list[float]:
    """Return the score of each of N generated reports, as a reward for training.

    Args:
        candidates: N generated texts.
        references: N texts.
        ages: in years, or None.
        indications: reasons for the examinations, or None.

    Returns:
        N numbers, above -1 and at most 1; 0 where a text is empty.

    Raises:
        InputError: see :func:`compare_all`.
    """
    contexts = None
    if ages is not None or indications is not None:
        if any(some is not None and len(some) != len(candidates) for some in (ages, indications)):
            raise InputError(f"ages and indications must be as many as the {len(candidates)} reports")
        none: Sequence[None] = [None] * len(candidates)
        contexts = [Context(age, text or "") for age, text in zip(ages or none, indications or none, strict=True)]
    return [_score(one) for one in compare_all(candidates, references, contexts)]


def findings(candidates: Sequence[str], references: Sequence[str], contexts: Sequence[Context] | None = None) -> Scores:
    """Score N generated reports against their references by their findings.

    Args:
        candidates: N generated texts.
        references: N texts.
        contexts: what is known of the N patients, or None.

    Returns:
        ``findings``, the mean of the scores of :func:`metrics.findings.compare.score_of`; a pair with an empty text
        scores 0. ``findings_CATEGORY`` and ``findings_SIGNIFICANCE``: errors per report. ``findings_f1/NAME``,
        ``findings_precision/NAME`` and ``findings_recall/NAME``: of each finding, where a finding counts as found if
        the candidate has it by this name, whatever its attributes.

    Raises:
        InputError: see :func:`compare_all`.
    """
    import numpy as np

    compared = compare_all(candidates, references, contexts)
    values = np.array([_score(one) for one in compared])
    kinds = [*Category, *Significance]
    errors = np.array([[_count(one, kind) for kind in kinds] for one in compared], dtype=np.float64)
    names, counts = list(entities()), _by_finding(compared)
    statistics = np.concatenate([values[:, None], errors, counts.reshape(len(compared), -1)], axis=1)

    def of_sums(sums: Floats, numbers: Floats) -> dict[str, Floats]:
        found = {"findings": sums[..., 0] / numbers}
        found |= {f"findings_{kind}": sums[..., 1 + column] / numbers for column, kind in enumerate(kinds)}
        rest = sums[..., 1 + len(kinds) :].reshape(*sums.shape[:-1], 3, len(names))
        tp, fp, fn = rest[..., 0, :], rest[..., 1, :], rest[..., 2, :]
        for key, part, whole in (("f1", 2 * tp, 2 * tp + fp + fn), ("precision", tp, tp + fp), ("recall", tp, tp + fn)):
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = np.where(whole > 0, part / whole, 0.0)
            found |= {f"findings_{key}/{name}": shares[..., column] for column, name in enumerate(names)}
        return found

    def positives(sums: Floats) -> dict[str, int]:
        tp, _, fn = sums[1 + len(kinds) :].reshape(3, len(names))
        return {
            f"findings_{key}/{name}": int(tp[column] + fn[column])
            for key in ("f1", "recall")
            for column, name in enumerate(names)
        }

    per_sample = {"findings": values} | {f"findings_{kind}": errors[:, column] for column, kind in enumerate(kinds)}
    known = "none" if contexts is None else "age,indication"
    signature = f"findings|{identity()}|context:{known}|aggregate:mean"
    absent = [names[column] for column in np.flatnonzero(counts.sum(axis=(0, 1)) == 0)]
    return Scores(
        statistics,
        of_sums,
        per_sample,
        signature,
        positives,
        costs=frozenset(f"findings_{kind}" for kind in kinds),
        absent=frozenset(f"findings_{key}/{name}" for key in ("f1", "precision", "recall") for name in absent),
    )


def _score(one: Comparison) -> float:
    return one.score if one.candidate.text and one.reference.text else 0.0


def _count(one: Comparison, kind: Category | Significance) -> int:
    return sum(kind in (error.category, error.significance) for error in one.errors)


def _by_finding(compared: Sequence[Comparison]) -> NDArray[np.float64]:
    """Return ``[N, 3, E]``: right, false and missed reports of each of the E entities."""
    import numpy as np

    columns = {name: column for column, name in enumerate(entities())}
    counts = np.zeros((len(compared), 3, len(columns)))
    for row, one in enumerate(compared):
        ours, theirs = (
            {known.name for finding in report.findings for known in finding.known}
            for report in (one.candidate, one.reference)
        )
        for kind, names in enumerate((ours & theirs, ours - theirs, theirs - ours)):
            counts[row, kind, [columns[name] for name in names]] = 1
    return counts


@cache
def identity() -> str:
    """Return the version and fingerprint of tables and rules."""
    parts = (("metrics.findings", _TABLES), ("metrics.rules", _OF_RULES))
    content = b"".join((files(package) / name).read_bytes() for package, names in parts for name in names)
    return f"{VERSION}:{hashlib.sha256(content).hexdigest()[:12]}"


@dataclass(frozen=True)
class FindingOptions:
    """Options of the finding metric.

    Attributes:
        findings_context: Weigh findings by age and indication, if a table has these columns (auto), or never (none).
    """

    findings_context: Literal["auto", "none"] = option("auto", panel=None)


class Findings(Metric):
    """The finding metric as a registered metric."""

    options: ClassVar[tuple[type, ...]] = (FindingOptions,)
    summary = "findings matched one to one, with places, severity and change; errors by category; needs no weights"
    titles: ClassVar[Mapping[str, str]] = {
        "findings": "Findings",
        **{f"findings_{kind}": f"{kind.label} (errors per report)" for kind in (*Category, *Significance)},
    }
    labeler = "findings"
    context: ClassVar[tuple[str, ...]] = ("age", "indication")

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; see :func:`findings`."""
        return findings(candidates, references)

    def scores_in_context(
        self, candidates: Sequence[str], references: Sequence[str], context: Mapping[str, Sequence[str]]
    ) -> Scores:
        """Score N pairs with ages in years and indications; see :func:`findings`."""
        return findings(candidates, references, self.contexts(context, len(candidates)))

    def contexts(self, context: Mapping[str, Sequence[str]], reports: int) -> list[Context] | None:
        """Return what is known of N patients, or None if nothing is known or it is not wanted."""
        wanted = self.settings.of(FindingOptions).findings_context == "auto"
        return contexts_of(context, reports) if wanted else None

    @classmethod
    def title(cls, score: str) -> str | None:
        """Return the name of a score in tables and figures."""
        head, slash, name = score.partition("/")
        if slash and head.startswith("findings_"):
            return name
        return cls.titles.get(score)


def contexts_of(columns: Mapping[str, Sequence[str]], reports: int) -> list[Context] | None:
    """Return the contexts in columns of texts: ``age`` in years and ``indication``; None if both are missing."""
    if not any(columns.get(name) for name in Findings.context):
        return None
    empty = [""] * reports
    return [
        Context(float(age) if age else None, indication)
        for age, indication in zip(columns.get("age") or empty, columns.get("indication") or empty, strict=True)
    ]
