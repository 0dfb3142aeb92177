"""The finding metric over many reports."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score  # type: ignore[import-untyped]

from metrics.base import InputError, Settings
from metrics.bootstrap import Bootstrap
from metrics.findings.compare import compare
from metrics.findings.metric import Findings, findings, reward
from metrics.findings.significance import Context
from metrics.registry import load, title
from metrics.suite import Pairs, evaluate

CANDIDATES = ["Right effusion.", "Clear lungs.", "Left pneumothorax. Edema.", "Pneumonia.", ""]
REFERENCES = ["Right effusion.", "Scoliosis.", "Right pneumothorax.", "No acute disease.", "Edema."]


def test_the_score_is_the_mean_of_the_reports() -> None:
    scores = findings(CANDIDATES, REFERENCES)
    expected = [compare(one, other).score for one, other in zip(CANDIDATES, REFERENCES, strict=True)][:4]
    assert scores.per_sample["findings"].tolist() == [*expected, 0.0]
    assert scores["findings"] == pytest.approx(sum(expected) / 5)
    assert expected == [1.0, 0.0, pytest.approx((0.5 - 0.25 - 0.5) / (1 + 0.25 + 0.5)), 0.0]


def test_errors_are_counted_by_category_significance_and_finding() -> None:
    scores = findings(CANDIDATES, REFERENCES)
    assert scores["findings_missed_finding"] == pytest.approx(2 / 5)  # scoliosis, edema
    assert scores["findings_false_finding"] == pytest.approx(2 / 5)  # edema, pneumonia
    assert scores["findings_place"] == pytest.approx(1 / 5)
    assert scores["findings_urgent"] == pytest.approx(1 / 5)  # the side of the pneumothorax
    assert scores["findings_recall/pulmonary edema"] == 0
    assert scores["findings_f1/pneumothorax"] == scores["findings_f1/pleural effusion"] == 1
    positives = scores.positives(scores.statistics.sum(axis=0))
    assert positives["findings_f1/pulmonary edema"] == 1 and positives["findings_recall/pneumonia"] == 0
    assert not [name for name in scores.point() if name.startswith("findings_f1/nodule")]


def test_resamples_and_groups_come_from_sums() -> None:
    scores = findings(CANDIDATES, REFERENCES)
    drawn = Bootstrap(50).intervals(scores)
    assert drawn["findings"].low < drawn["findings"].point < drawn["findings"].high
    rows = np.array([0, 2], dtype=np.intp)
    part, alone = scores.subset(rows), findings([CANDIDATES[0], CANDIDATES[2]], [REFERENCES[0], REFERENCES[2]])
    assert {name: part[name] for name in alone.point()} == alone.point()


def test_systems_with_other_findings_are_compared_on_the_findings_of_both() -> None:
    """F1 by scikit-learn; a finding that one of the two systems never has counts 0 there."""
    truth, first, second = ["Edema.", "Nodule."], ["Edema.", "Pneumothorax."], ["Edema. Scoliosis.", "Nodule."]
    names = {"pulmonary edema": "edema", "nodule": "nodule", "pneumothorax": "pneumothorax", "scoliosis": "scoliosis"}
    one, other = findings(first, truth), findings(second, truth)
    differences = Bootstrap(20).differences(one, other)
    assert {name.partition("/")[2] for name in differences if "_f1/" in name} == set(names)
    for name, word in names.items():
        labels = [[word in text.lower() for text in texts] for texts in (truth, first, second)]
        values = [f1_score(labels[0], found, zero_division=0) for found in labels[1:]]
        assert differences[f"findings_f1/{name}"].point == pytest.approx(values[0] - values[1]), name
    pairs = {"a": Pairs(["1", "2"], first, truth), "b": Pairs(["1", "2"], second, truth)}
    found = evaluate(pairs, Settings(("findings",)), bootstrap=Bootstrap(5)).models
    assert found[0].intervals.keys() == found[1].intervals.keys() == differences.keys()


def test_reward_takes_lists_and_gives_a_list() -> None:
    values = reward(CANDIDATES, REFERENCES)
    assert values == findings(CANDIDATES, REFERENCES).per_sample["findings"].tolist()
    assert all(type(value) is float and -1 < value <= 1 for value in values)
    context = {"ages": [30.0], "indications": ["cough"]}
    pair = ["Clear lungs."], ["Aortic calcification. Edema."]
    assert reward(*pair, ages=[30.0]) == reward(*pair, **context)
    assert reward(["Aortic calcification."], ["Aortic calcification. Edema."], ages=[30.0]) != reward(
        ["Aortic calcification."], ["Aortic calcification. Edema."], ages=[80.0]
    )
    assert reward(*pair, ages=[None], indications=[""]) == reward(*pair)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"ages": [1.0, 2.0]}, "as many"),
        ({"indications": []}, "as many"),
    ],
)
def test_reward_refuses_other_numbers_of_patients(arguments: dict[str, list[float]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        reward(["Edema."], ["Edema."], **arguments)


def test_the_signature_names_tables_and_context() -> None:
    scores = findings(["Edema."], ["Edema."])
    assert scores.signature.startswith("findings|findings-1:") and "|context:none|" in scores.signature
    assert "|context:age,indication|" in findings(["Edema."], ["Edema."], [Context(3.0)]).signature


def test_the_registered_metric_uses_context_unless_told_not_to() -> None:
    assert load("findings") is Findings
    assert title("findings_place") == "Place (errors per report)" and title("findings_recall/edema") == "edema"
    pairs = Pairs(
        ["1", "2"],
        ["Clear lungs."] * 2,
        ["Aortic calcification. Rib fracture."] * 2,
        context={"age": ["20", ""], "indication": ["", "fall"]},
    )
    used = evaluate({"m": pairs}, Settings(("findings",)), bootstrap=Bootstrap(5))
    assert "context:age,indication" in used.signatures["findings"]
    assert used.models[0].scores["findings"]["findings_urgent"] == 0.5  # the fracture after a fall
    unused = evaluate(
        {"m": pairs}, Settings(("findings",), options={"findings_context": "none"}), bootstrap=Bootstrap(5)
    )
    assert "context:none" in unused.signatures["findings"]
    assert unused.models[0].scores["findings"]["findings_urgent"] == 0
