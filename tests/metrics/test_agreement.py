"""Agreement of metrics with ratings by people."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metrics.agreement import Agreement, Rated, agreement, to_json, to_latex, to_markdown, to_text
from metrics.base import InputError
from metrics.bootstrap import Bootstrap, Interval
from metrics.plots import agreement_figure

pytestmark = pytest.mark.acceptance(row=35)

FEW = Bootstrap(30)


def test_correlations_are_those_of_the_textbook() -> None:
    """Kendall (1938): of the 10 pairs of 1 2 3 4 5 and 2 1 4 3 5 two are in the other order."""
    one = agreement([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], list("abcde"), FEW)
    assert one.kendall.point == pytest.approx((8 - 2) / 10)
    assert one.spearman.point == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert one.n_pairs == 0 and one.pairs.point is None


def test_ties_count_as_in_tau_b() -> None:
    one = agreement([1, 1, 2], [1, 2, 3], list("abc"), FEW)  # 2 concordant, 1 tied in x: 2 / sqrt(2 * 3)
    assert one.kendall.point == pytest.approx(2 / 6**0.5)


def test_pairs_are_of_one_study_and_equal_values_count_half() -> None:
    studies = ["a", "a", "b", "b", "c", "c", "c"]
    ratings = [1, 2, 3, 1, 5, 5, 4]  # a: 1 pair, b: 1, c: 2
    values = [0.1, 0.2, 0.4, 0.4, 0.9, 0.1, 0.5]
    one = agreement(values, ratings, studies, FEW)
    assert one.n_pairs == 4
    assert one.pairs.point == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_intervals_resample_studies_with_all_their_reports() -> None:
    """Copies of the reports of a study change no interval of the pairs, and the correlations' only by the copies."""
    rng = np.random.default_rng(0)
    ratings, values = rng.random(40), rng.random(40)
    studies = [str(number // 2) for number in range(40)]
    one = agreement(values, ratings, studies, FEW)
    assert one == agreement(values, ratings, studies, FEW)
    assert one.kendall.low is not None and one.kendall.point is not None and one.kendall.high is not None
    assert one.kendall.low < one.kendall.point < one.kendall.high
    doubled = agreement(np.repeat(values, 2), np.repeat(ratings, 2), list(np.repeat(studies, 2)), FEW)
    assert doubled.pairs.low == one.pairs.low and doubled.pairs.high == one.pairs.high
    assert doubled.spearman.high == pytest.approx(one.spearman.high)


def test_a_constant_metric_has_no_correlation_and_half_of_the_pairs() -> None:
    one = agreement([1, 1, 1, 1], [1, 2, 3, 4], ["a", "a", "b", "b"], FEW)
    assert (one.kendall.point, one.spearman.point, one.pairs.point) == (None, None, 0.5)


def test_one_study_has_no_interval() -> None:
    one = agreement([1, 2, 3], [1, 2, 3], ["a"] * 3, FEW)
    assert one.kendall == Interval(1.0, None, None, None)


@pytest.mark.parametrize(
    ("values", "ratings", "studies"), [([1.0], [1.0], ["a"]), ([1.0, 2.0], [1.0], ["a", "b"]), ([], [], [])]
)
def test_other_lengths_are_refused(values: list[float], ratings: list[float], studies: list[str]) -> None:
    with pytest.raises(InputError):
        agreement(values, ratings, studies, FEW)


@pytest.fixture
def rated() -> Rated:
    good = Agreement(Interval(0.7, 0.7, 0.6, 0.8), Interval(0.8, 0.8, 0.7, 0.9), Interval(0.9, 0.9, 0.8, 1.0), 40)
    bad = Agreement(
        Interval(None, None, None, None), Interval(None, None, None, None), Interval(0.5, None, None, None), 40
    )
    table = {"rating": {"rouge_l": bad, "findings": good}}
    return Rated(90, 45, table, {"rg_er": "no weights"}, {"rouge_l": "rouge_l|x"}, FEW)


def test_tables_put_the_best_first_and_name_what_is_missing(rated: Rated) -> None:
    lines = to_text(rated).splitlines()
    rows = [line.split("  ")[0] for line in lines if line.startswith(("Findings", "ROUGE", "rg_er"))]
    assert rows == ["Findings", "ROUGE-L", "rg_er"]
    assert "not defined" in to_text(rated) and "[0.600, 0.800]" in to_markdown(rated)
    assert r"\toprule" in to_latex(rated)
    content = json.loads(to_json(rated))
    assert content["agreement"]["rating"]["findings"]["kendall"]["low"] == 0.6
    assert content["not_computed"] == {"rg_er": "no weights"}


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_figure(rated: Rated, kind: str, begin: bytes) -> None:
    assert agreement_figure(rated, kind).startswith(begin)
