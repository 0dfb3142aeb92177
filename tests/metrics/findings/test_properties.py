"""Properties that hold for all reports: bounds, order, and that more errors never score higher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.findings.compare import compare
from metrics.findings.lexicon import entities
from metrics.findings.parse import Finding, Report, parse
from metrics.findings.significance import Context
from metrics.findings.weights import GOOD_TIPS, RELATED

NAMES = sorted(entities())
WORDS = [
    "no", "not", "the", "left", "right", "small", "large", "opacity", "effusion", ",", ".", "with", "and", "of",
    "heart", "is", "enlarged", "normal", "lungs", "clear", "3", "mm", "cm", "x", "tip", "carina", "tube", "in",
    "upper", "lobe", "may", "represent", "/", "-", ":", "(", ")", "there", "versus", "findings", "both",
    "pleural", "fluid",
]  # fmt: skip
CONTEXTS = st.builds(
    Context,
    st.none() | st.floats(0, 100),
    st.sampled_from(["", "fever", "post CABG", "fall", "line placement", "lung cancer"]),
)


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    """Return any finding, with sides and zones only where the lungs or pleura have them."""
    name = draw(st.sampled_from(NAMES))
    region = entities()[name].region
    sided = region in ("lung", "pleura")
    levels = [frozenset(), frozenset({1}), frozenset({3})] if region == "lung" else [frozenset[int]()]
    return Finding(
        entities=(name,),
        certain=draw(st.booleans()),
        sides=draw(st.sampled_from([frozenset(), frozenset({"left"}), frozenset({"right"})])) if sided else frozenset(),
        levels=draw(st.sampled_from(levels)),
        severity=draw(st.sampled_from([None, 0.5, 1.0, 2.0, 3.0])),
        size=draw(st.sampled_from([None, 5.0, 12.0, 40.0])) if name in ("nodule", "mass") else None,
        change=draw(st.sampled_from([None, "new", "worse", "better", "same"])),
        tips=frozenset({draw(st.sampled_from(sorted(GOOD_TIPS[name])))}) if name in GOOD_TIPS else frozenset(),
    )


def report(*found: Finding) -> Report:
    return Report("text", tuple(found), ())


def unrelated(name: str, others: set[str]) -> bool:
    pairs = {frozenset(pair) for pair in RELATED}
    return name not in others and not any(frozenset((name, other)) in pairs for other in others)


Change = Callable[[Finding], Finding | None]
WORSE: dict[str, Change] = {
    "drop": lambda one: None,
    "side": lambda one: replace(one, sides=frozenset({"left", "right"} - one.sides)) if len(one.sides) == 1 else one,
    "level": lambda one: replace(one, levels=frozenset({4 - min(one.levels)})) if one.levels else one,
    "severity": lambda one: replace(one, severity=0.5 if one.severity >= 2 else 3.0) if one.severity else one,
    "size": lambda one: replace(one, size=one.size * 3) if one.size else one,
    "certainty": lambda one: replace(one, certain=not one.certain),
    "change": lambda one: replace(one, change="better" if one.change != "better" else "worse"),
    "tip": lambda one: replace(one, tips=frozenset({"axillary vein"})) if one.tips else one,
}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(findings(), min_size=1, max_size=6, unique_by=lambda one: one.entities), CONTEXTS, st.data())
def test_more_errors_never_score_higher(there: list[Finding], context: Context, data: st.DataObject) -> None:
    """Errors are added one by one, each in another finding or as a further false one."""
    found: list[Finding | None] = list(there)
    names = {one.entities[0] for one in there}
    scores = [compare(report(*there), report(*there), context).score]
    steps = data.draw(st.permutations([*range(len(there)), "add", "add"]))
    for step in steps:
        if step == "add":
            false = data.draw(findings())
            if unrelated(false.entities[0], names):
                found.append(false)
        else:
            change = WORSE[data.draw(st.sampled_from(sorted(WORSE)))]
            one = found[step]
            assert one is not None
            found[step] = change(one)
        scores.append(compare(report(*(one for one in found if one is not None)), report(*there), context).score)
    assert scores[0] == 1.0
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(scores)), scores


@settings(max_examples=15, deadline=None)
@given(st.lists(findings(), max_size=6), st.lists(findings(), max_size=6), CONTEXTS)
def test_scores_are_bounded_and_ignore_the_order(there: list[Finding], found: list[Finding], context: Context) -> None:
    score = compare(report(*found), report(*there), context).score
    assert -1 < score <= 1
    assert abs(compare(report(*reversed(found)), report(*reversed(there)), context).score - score) < 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(findings(), max_size=6), CONTEXTS)
def test_a_report_without_findings_scores_zero_where_findings_matter(there: list[Finding], context: Context) -> None:
    result = compare(report(), report(*there), context)
    relevant = any(error.significance != "benign_expected" for error in result.errors)
    assert len(result.errors) == len(there)
    assert (result.score == 0) == relevant
    assert relevant or result.score >= 0.5 / (0.5 + 0.05 * 6)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_any_text_is_read_with_spans_inside_it(text: str) -> None:
    found = parse(text)
    for finding in found.findings:
        assert finding.entities
        for start, end in [*finding.spans, *finding.where.values()]:
            assert 0 <= start < end <= len(text)
    assert all(0 <= one.span[0] < one.span[1] <= len(text) for one in found.denied)
    assert compare(text, text).score == 1.0
    assert compare(text, text).errors == ()
