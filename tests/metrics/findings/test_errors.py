"""Tests of the list of errors."""

from __future__ import annotations

import pytest

from metrics.findings.errors import Category, Significance


def test_there_are_the_six_categories_of_rexval_and_other():
    assert [category.value for category in Category] == [
        "false_finding",
        "missed_finding",
        "place",
        "severity",
        "false_comparison",
        "missed_comparison",
        "other",
    ]


def test_significance_has_the_values_of_radprefs_files():
    assert [level.value for level in Significance] == [
        "urgent",
        "actionable_not_urgent",
        "not_actionable_not_urgent",
        "benign_expected",
    ]


@pytest.mark.parametrize("value", [*Category, *Significance], ids=str)
def test_every_value_has_a_label_and_a_definition(value: Category | Significance):
    assert value.label and value.definition.endswith(".")
