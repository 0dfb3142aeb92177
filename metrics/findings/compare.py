"""Comparison of two reports: findings are matched one to one, and every difference is an error with its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from metrics.findings import weights
from metrics.findings.errors import Category, Significance
from metrics.findings.parse import Finding, Report, parse
from metrics.findings.significance import NOTHING_KNOWN, Context, mentions, placement, significance, weight
from metrics.findings.weights import RELATED


@dataclass(frozen=True)
class Error:
    """A difference between a candidate and its reference.

    Attributes:
        category: kind of error.
        significance: clinical significance.
        detail: what differs, in words of this module.
        reference: the finding of the reference, or None.
        candidate: the finding of the candidate, or None.
        loss: share of the credit of the finding that it costs, 1 for a missed or false one.
        attribute: attribute that differs, or "".
    """

    category: Category
    significance: Significance
    detail: str
    reference: Finding | None
    candidate: Finding | None
    loss: float
    attribute: str = ""

    @property
    def name(self) -> str:
        """Name of the finding."""
        finding = self.reference or self.candidate
        assert finding is not None
        return finding.known[0].name


Pair = tuple[float, tuple[Error, ...]]
"""Credit of a candidate finding for a reference finding, and its errors."""
_SAME_NAME = 100.0  # more than all credits together


@dataclass(frozen=True)
class Match:
    """A finding of the reference with one of the candidate.

    Attributes:
        reference: finding of the reference.
        candidate: finding of the candidate.
        credit: 0 to 1.
        errors: differences between the two.
    """

    reference: Finding
    candidate: Finding
    credit: float
    errors: tuple[Error, ...]


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        candidate: the generated report.
        reference: the reference.
        matches: findings of both.
        errors: all errors, those of the matches included.
        total: weight of the findings of the reference.
        credit: weight that the candidate has earned.
        false: weight of what the candidate has invented.
        score: -1 (excluded) to 1; see :func:`score_of`.
    """

    candidate: Report
    reference: Report
    matches: tuple[Match, ...]
    errors: tuple[Error, ...]
    total: float
    credit: float
    false: float
    score: float


def score_of(total: float, credit: float, false: float, *, findings: bool) -> float:
    """Return (N + credit - false) / (N + total + false).

    N is 0 where the reference has findings: 1 is a report with all of them and no other, 0 one without any. Where it
    has none that matter, N is :data:`metrics.findings.weights.NOTHING_FOUND`: 1 is a report without findings.

    Args:
        total: weight of the findings of the reference.
        credit: weight earned, at most ``total``.
        false: weight of false findings.
        findings: the reference has a finding that is more than benign.
    """
    base = 0.0 if findings else weights.NOTHING_FOUND
    return (base + credit - false) / (base + total + false)


def compare(candidate: Report | str, reference: Report | str, context: Context = NOTHING_KNOWN) -> Comparison:
    """Compare a generated report with its reference.

    Args:
        candidate: the generated report.
        reference: the reference.
        context: age and indication, which change the significance of some findings.

    Raises:
        InputError: if a text is not a string.
    """
    ours, theirs = (parse(one) if not isinstance(one, Report) else one for one in (candidate, reference))
    found, there = _split(ours.findings, theirs.findings), _split(theirs.findings, ours.findings)
    of_found, of_there = ([weight(one, context) for one in side] for side in (found, there))
    pairs = [[_pair(first, second, context) for second in found] for first in there]
    credits = [[credit for credit, _ in row] for row in pairs]
    matches, errors = list[Match](), list[Error]()
    matched, missing = set[int](), set(range(len(there)))
    credit = 0.0
    for row, column in _assigned(pairs, of_there):
        value, differences = pairs[row][column]
        matches.append(Match(there[row], found[column], value, differences))
        credit += of_there[row] * value
        matched.add(column)
        missing.discard(row)
        errors += differences
    for row in sorted(missing):
        errors.append(_missed(there[row], ours, context))
    false = 0.0
    for column, one in enumerate(found):
        best = max((row[column] for row in credits), default=0.0)
        false += of_found[column] * (1 - best) ** 2
        if column not in matched and best < weights.REPEATED:
            errors.append(_false(one, theirs, context))
    total = sum(of_there)
    relevant = any(significance(one, context) is not Significance.BENIGN for one in there)
    return Comparison(
        ours, theirs, tuple(matches), tuple(errors), total, credit, false,
        score_of(total, credit, false, findings=relevant),
    )  # fmt: skip


def _assigned(pairs: Sequence[Sequence[Pair]], values: Sequence[float]) -> list[tuple[int, int]]:
    """Return the one-to-one pairs that earn most; findings of one name belong together before all others."""
    if not pairs or not pairs[0]:
        return []
    gains = [
        [value * credit + _SAME_NAME * (credit > 0 and not _renamed(errors)) for credit, errors in row]
        for row, value in zip(pairs, values, strict=True)
    ]
    if len(gains) == 1 or len(gains[0]) == 1:  # the commonest case needs no solver
        best = max((one, -row, -column) for row, line in enumerate(gains) for column, one in enumerate(line))
        return [(-best[1], -best[2])] if best[0] > 0 else []
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gains, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if gains[row][column] > 0]


def _renamed(errors: Sequence[Error]) -> bool:
    return any(error.attribute == "name" for error in errors)


def _split(findings: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    """Return findings as two where the other report names them apart: the two sides, or a sign and what explains it."""
    result = list[Finding]()
    for one in findings:
        names = set(one.entities)
        sides = [other.sides for other in others if names & set(other.entities) and len(other.sides) == 1]
        apart = [name for name in one.entities if any(names & set(other.entities) == {name} for other in others)]
        if len(one.sides) == 2 and len(set(sides)) == 2:
            result += [replace(one, sides=frozenset((side,))) for side in sorted(one.sides)]
        elif len(apart) > 1:
            rest = tuple(name for name in one.entities if name not in apart[1:])
            result += [replace(one, entities=rest), *(replace(one, entities=(name,)) for name in apart[1:])]
        else:
            result.append(one)
    return result


@lru_cache(maxsize=16384)
def _pair(reference: Finding, candidate: Finding, context: Context) -> Pair:
    """Return the credit of a candidate finding for a reference finding, and the errors; 0 if they are unrelated."""
    name_credit, name_detail = _same_name(reference, candidate, context)
    if name_credit <= 0:
        return 0.0, ()
    graver = significance(reference, context)
    differences = list(_differences(reference, candidate))
    errors = [
        Error(category, _reduced(graver, loss), detail, reference, candidate, loss, attribute)
        for category, attribute, detail, loss in differences
    ]
    loss = min(sum(one.loss for one in errors), weights.MOST)
    if name_detail:
        errors.insert(
            0,
            Error(
                Category.OTHER, _reduced(graver, 1 - name_credit), name_detail, reference, candidate, 1 - name_credit,
                "name",
            ),
        )  # fmt: skip
    return name_credit * (1 - loss), tuple(errors)


def _reduced(level: Significance, loss: float) -> Significance:
    """Return the significance of an error in a finding: a small loss is a step or two below the finding itself."""
    steps = 0 if loss >= weights.GRAVE else 1 if loss >= weights.SLIGHT else 2
    return weights.LEVELS[max(weights.LEVELS.index(level) - steps, 0)]


def _same_name(reference: Finding, candidate: Finding, context: Context) -> tuple[float, str]:
    ours, theirs = {one.name for one in candidate.known}, {one.name for one in reference.known}
    if ours & theirs:
        return 1.0, ""
    infection = mentions(weights.INFECTION, context.indication)
    best, pair = 0.0, ("", "")
    for first in reference.entities:
        for second in candidate.entities:
            value = RELATED.get((first, second), RELATED.get((second, first), 0.0))
            if first == second:
                value = 1 - weights.NAME_LESS_EXACT
            elif infection and {first, second} <= weights.SAME_IN_INFECTION:
                return 1.0, ""
            if value > best:
                best, pair = value, (first, second)
    if pair[0] == pair[1]:  # they share the sign only
        pair = reference.known[0].name, candidate.known[0].name
    return best, f"{pair[1]} instead of {pair[0]}"


Difference = tuple[Category, str, str, float]


def _differences(reference: Finding, candidate: Finding) -> list[Difference]:
    """Return category, attribute, words and loss of each difference of two findings."""
    found = list[Difference]()

    def add(category: Category, attribute: str, detail: str, loss: float) -> None:
        if loss > 0:
            found.append((category, attribute, detail, loss))

    place = Category.PLACE
    if reference.sides and candidate.sides and reference.sides != candidate.sides:
        wrong = weights.SIDE_WRONG if not reference.sides & candidate.sides else weights.SIDE_PARTLY
        add(place, "side", f"{_listed(candidate.sides)} instead of {_listed(reference.sides)}", wrong)
    elif len(reference.sides) == 1 and not candidate.sides:
        add(place, "side", f"no side instead of {_listed(reference.sides)}", weights.PLACE_MISSING)
    if reference.levels and candidate.levels:
        gap = min(abs(_zone(one) - _zone(other)) for one in reference.levels for other in candidate.levels)
        loss = weights.PLACE_FAR if gap > 1 else weights.PLACE_NEAR if gap else 0.0
        add(place, "level", f"{_zones(candidate)} instead of {_zones(reference)}", loss)
    elif reference.levels and not candidate.levels and not {"atelectasis"} & set(reference.entities):
        add(place, "level", f"no zone instead of {_zones(reference)}", weights.PLACE_MISSING / 2)
    if reference.sites and candidate.sites and not reference.sites & candidate.sites:
        add(place, "site", f"{_listed(candidate.sites)} instead of {_listed(reference.sites)}", weights.PLACE_FAR)
    add(place, "tip", *_tips(reference, candidate))
    add(Category.SEVERITY, "severity", *_severity(reference, candidate))
    add(Category.SEVERITY, "size", *_size(reference, candidate))
    if reference.number and candidate.number and reference.number != candidate.number:
        add(Category.SEVERITY, "number", f"{candidate.number} instead of {reference.number}", weights.NUMBER)
    elif reference.number == "many" and not candidate.number:
        add(Category.SEVERITY, "number", "not said to be many", weights.SEVERITY_MISSING)
    if reference.certain != candidate.certain:
        detail = "only possible" if reference.certain else "certain instead of possible"
        add(Category.SEVERITY, "certainty", detail, weights.CERTAINTY)
    change = _change(reference.change, candidate.change)
    if change is not None:
        add(change[0], "change", *change[1:])
    return found


def _tips(reference: Finding, candidate: Finding) -> tuple[str, float]:
    ours, theirs = placement(candidate), placement(reference)
    detail = f"{_position(candidate, ours)} instead of {_position(reference, theirs)}"
    if ours and theirs and ours != theirs:
        return detail, weights.POSITION_WRONG
    if reference.tips and candidate.tips and not reference.tips & candidate.tips:
        return detail, 0.0 if ours == theirs == "good" else weights.TIP_WRONG
    if theirs == "bad" and ours is None:
        return f"position not named, which is {theirs}", weights.TIP_MISSING * 2
    if reference.tips and not candidate.tips and ours is None:
        return f"no tip instead of {_listed(reference.tips)}", weights.TIP_MISSING
    return "", 0.0


def _position(finding: Finding, quality: str | None) -> str:
    if finding.distance is not None:
        return f"{finding.distance:g} mm from the carina"
    return _listed(finding.tips) or f"a {quality} position"


def _severity(reference: Finding, candidate: Finding) -> tuple[str, float]:
    ours, theirs = candidate.severity, reference.severity
    if theirs is None:
        return "", 0.0
    if ours is None:
        missing = candidate.size is None and theirs != 1.0
        return f"no severity instead of {_level(theirs)}", weights.SEVERITY_MISSING if missing else 0.0
    gap = abs(ours - theirs)
    loss = weights.SEVERITY_FAR if gap >= 2 else weights.SEVERITY_NEAR if gap >= 1 else 0.0
    return f"{_level(ours)} instead of {_level(theirs)}", loss


def _size(reference: Finding, candidate: Finding) -> tuple[str, float]:
    ours, theirs = candidate.size, reference.size
    if theirs is None or ours is None:
        missing = theirs is not None and candidate.severity is None
        return f"no size instead of {theirs:g} mm" if missing else "", weights.SEVERITY_MISSING if missing else 0.0
    if abs(ours - theirs) <= weights.SIZE_NOISE or min(ours, theirs) <= 0:
        return "", 0.0
    ratio = max(ours, theirs) / min(ours, theirs)
    return f"{ours:g} instead of {theirs:g} mm", next(loss for limit, loss in weights.SIZES if ratio <= limit)


def _change(reference: str | None, candidate: str | None) -> tuple[Category, str, float] | None:
    if reference == candidate:
        return None
    if reference is None:
        loss = weights.SAME_FALSE if candidate == "same" else weights.CHANGE_FALSE
        return Category.FALSE_COMPARISON, f'"{candidate}" without a comparison in the reference', loss
    if candidate is None:
        loss = weights.SAME_FALSE if reference == "same" else weights.CHANGE_MISSING
        return Category.MISSED_COMPARISON, f'"{reference}" left out', loss
    if {reference, candidate} == {"new", "worse"}:
        return Category.FALSE_COMPARISON, f'"{candidate}" instead of "{reference}"', weights.CHANGE_FALSE
    loss = weights.CHANGE_NEAR if "same" in (reference, candidate) else weights.CHANGE_WRONG
    return Category.FALSE_COMPARISON, f'"{candidate}" instead of "{reference}"', loss


def _missed(finding: Finding, candidate: Report, context: Context) -> Error:
    denied = candidate.denial_of(finding) is not None
    detail = "denied by the candidate" if denied else "not mentioned"
    return Error(Category.MISSED_FINDING, significance(finding, context), detail, finding, None, 1.0)


def _false(finding: Finding, reference: Report, context: Context) -> Error:
    denied = reference.denial_of(finding) is not None
    detail = "denied by the reference" if denied else "not in the reference"
    return Error(Category.FALSE_FINDING, significance(finding, context), detail, None, finding, 1.0)


def _zone(level: int) -> int:
    return max(level, 1)  # the apex is a part of the upper zone


_ZONES = ("apex", "upper zone", "middle zone", "lower zone")


def _zones(finding: Finding) -> str:
    return " and ".join(_ZONES[level] for level in sorted(finding.levels))


def _level(severity: float) -> str:
    return {0.5: "minimal", 1.0: "small", 1.5: "small to moderate", 2.0: "moderate", 2.5: "moderate to large"}.get(
        severity, "large"
    )


def _listed(words: frozenset[str]) -> str:
    return " and ".join(sorted(words))
