"""Scores and errors of pairs of reports; numbers are worked out by hand from the table of weights."""

from __future__ import annotations

import json

import pytest

from metrics.findings.compare import compare, score_of
from metrics.findings.errors import Category, Significance
from metrics.findings.explain import to_dict, to_text
from metrics.findings.significance import Context

NORMAL = "The lungs are clear. Heart size is normal. No pleural effusion or pneumothorax."


def errors(candidate: str, reference: str) -> list[tuple[str, str]]:
    return [(error.category.value, error.name) for error in compare(candidate, reference).errors]


@pytest.mark.parametrize(
    ("candidate", "reference", "score"),
    [
        # the reference has findings: 1 has them all, 0 is a normal report
        ("Right pleural effusion.", "Right pleural effusion.", 1.0),
        (NORMAL, "Right pleural effusion.", 0.0),
        # one of two actionable findings (0.5 each): 0.5 / 1
        ("Right pleural effusion.", "Right pleural effusion. Consolidation.", 0.5),
        # found, and an urgent one (1.0) invented: (0.5 - 1) / (0.5 + 1)
        ("Right pleural effusion. Pneumothorax.", "Right pleural effusion.", -1 / 3),
        # nothing found, an actionable one invented: -0.5 / 1
        ("Consolidation.", "Scoliosis.", -0.5 / 0.75),
        # the reference has none: (0.5 - false) / (0.5 + false)
        (NORMAL, NORMAL, 1.0),
        ("No acute cardiopulmonary abnormality.", NORMAL, 1.0),
        ("Pneumonia.", NORMAL, 0.0),
        ("Pneumothorax.", NORMAL, -0.5 / 1.5),
        ("Scoliosis.", NORMAL, 0.25 / 0.75),
        # only a benign one (0.05): a normal report keeps 0.5 / 0.55
        (NORMAL, "Calcified granuloma.", 0.5 / 0.55),
        # the other side costs half; what is not earned is false by its square: (0.25 - 0.125) / (0.5 + 0.125)
        ("Left pleural effusion.", "Right pleural effusion.", 0.125 / 0.625),
        # a possible finding has half its weight: (0.5 - 0.25) / (0.5 + 0.25)
        ("Possible pneumonia.", NORMAL, 0.25 / 0.75),
        # more detail than the reference is no error
        ("Small left pleural effusion.", "Pleural effusion.", 1.0),
        # synonyms
        ("The heart is enlarged.", "Cardiomegaly.", 1.0),
        ("Fluid collections in both pleural spaces.", "Bilateral pleural effusions.", 1.0),
        # bilateral against two sides
        ("Right effusion. Left effusion.", "Bilateral pleural effusions.", 1.0),
        ("Bilateral pleural effusions.", "Right effusion. Left effusion.", 1.0),
        # good positions are alike, whatever the words
        ("ETT tip 5 cm above the carina.", "ETT in satisfactory position.", 1.0),
    ],
)
def test_scores(candidate: str, reference: str, score: float) -> None:
    assert compare(candidate, reference).score == pytest.approx(score, abs=1e-12)


def test_the_formula_has_its_three_fixed_points() -> None:
    assert score_of(2.0, 2.0, 0.0, findings=True) == 1
    assert score_of(2.0, 0.0, 0.0, findings=True) == 0
    assert score_of(0.0, 0.0, 0.0, findings=False) == 1
    assert score_of(1.0, 0.0, 1e9, findings=True) > -1


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        (NORMAL, "Right pleural effusion.", ("missed_finding", "pleural effusion")),
        ("Pneumothorax.", NORMAL, ("false_finding", "pneumothorax")),
        ("Left pleural effusion.", "Right pleural effusion.", ("place", "pleural effusion")),
        ("Opacity in the left upper lobe.", "Opacity in the left lower lobe.", ("place", "opacity")),
        ("Left clavicle fracture.", "Left rib fracture.", ("place", "fracture")),
        ("PICC tip in the axillary vein.", "PICC tip in the SVC.", ("place", "picc")),
        ("Large right effusion.", "Small right effusion.", ("severity", "pleural effusion")),
        ("30 mm nodule.", "12 mm nodule.", ("severity", "nodule")),
        ("Solitary nodule.", "Multiple nodules.", ("severity", "nodule")),
        ("Possible pneumonia.", "Pneumonia.", ("severity", "pneumonia")),
        ("Worsening edema.", "Pulmonary edema.", ("false_comparison", "pulmonary edema")),
        ("Worsening edema.", "Improved edema.", ("false_comparison", "pulmonary edema")),
        ("Pulmonary edema.", "Worsening edema.", ("missed_comparison", "pulmonary edema")),
        ("Opacity.", "Pneumonia.", ("other", "pneumonia")),
    ],
)
def test_each_error_has_its_category(candidate: str, reference: str, expected: tuple[str, str]) -> None:
    assert errors(candidate, reference) == [expected]


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        ("14 mm nodule.", "12 mm nodule."),  # 2 mm: measurement varies as much
        ("3.4 cm mass.", "3.2 cm mass."),  # below 20 %
        ("Minimal left effusion.", "Trace left effusion."),
        ("Mild atelectasis.", "Minimal atelectasis."),
        ("Right middle lobe opacity.", "RML opacity."),
        ("Edema, similar to slightly improved.", "Stable pulmonary edema."),
    ],
)
def test_differences_within_the_variation_of_readers_are_no_errors(candidate: str, reference: str) -> None:
    assert errors(candidate, reference) == []
    assert compare(candidate, reference).score == 1


@pytest.mark.parametrize(
    ("better", "worse", "reference"),
    [
        ("Right lower lobe opacity.", "Right middle lobe opacity.", "Right lower lobe opacity."),
        ("Right middle lobe opacity.", "Left upper lobe opacity.", "Right lower lobe opacity."),
        ("Pleural effusion.", "Left pleural effusion.", "Right pleural effusion."),
        ("Left pleural effusion.", NORMAL, "Right pleural effusion."),
        ("15 mm nodule.", "24 mm nodule.", "12 mm nodule."),
        ("24 mm nodule.", "60 mm nodule.", "12 mm nodule."),
        ("Moderate edema.", "Mild edema.", "Severe edema."),
        ("Opacity.", NORMAL, "Pneumonia."),
        ("Consolidation.", "Opacity.", "Pneumonia."),
        ("Stable edema.", "Improving edema.", "Worsening edema."),
        ("PICC.", NORMAL, "Right internal jugular central venous catheter."),
        ("Tension pneumothorax.", "Mild cardiomegaly.", "Tension pneumothorax. Mild cardiomegaly."),
        ("Scoliosis. Edema.", "Scoliosis. Edema. Kyphosis.", "Scoliosis. Edema."),
        ("ETT 3 cm above the carina.", "ETT in the right main bronchus.", "ETT in good position."),
    ],
)
def test_the_smaller_error_scores_higher(better: str, worse: str, reference: str) -> None:
    assert compare(better, reference).score > compare(worse, reference).score


@pytest.mark.parametrize(
    ("finding", "context", "level"),
    [
        ("Pneumothorax.", Context(), Significance.URGENT),
        ("Tiny pneumothorax.", Context(), Significance.ACTIONABLE),
        ("Pneumomediastinum.", Context(), Significance.URGENT),
        ("Pneumomediastinum.", Context(indication="Post open heart surgery"), Significance.BENIGN),
        ("Free air.", Context(indication="s/p laparotomy"), Significance.NOT_ACTIONABLE),
        ("Rib fracture.", Context(), Significance.ACTIONABLE),
        ("Rib fracture.", Context(indication="Fell from a ladder"), Significance.URGENT),
        ("Old rib fracture.", Context(), Significance.NOT_ACTIONABLE),
        ("Aortic calcification.", Context(age=80), Significance.BENIGN),
        ("Aortic calcification.", Context(age=30), Significance.NOT_ACTIONABLE),
        ("Degenerative changes of the spine.", Context(age=25), Significance.NOT_ACTIONABLE),
        ("Osteopenia.", Context(age=75), Significance.BENIGN),
        ("8 mm nodule.", Context(), Significance.ACTIONABLE),
        ("4 mm nodule.", Context(), Significance.NOT_ACTIONABLE),
        ("8 mm nodule.", Context(age=25), Significance.NOT_ACTIONABLE),
        ("8 mm nodule.", Context(age=25, indication="melanoma"), Significance.ACTIONABLE),
        ("Calcified granuloma.", Context(), Significance.BENIGN),
        ("PICC tip in the SVC.", Context(), Significance.NOT_ACTIONABLE),
        ("PICC tip in the axillary vein.", Context(), Significance.ACTIONABLE),
        ("ET tube in the right main bronchus.", Context(), Significance.URGENT),
        ("PICC tip in the SVC.", Context(indication="PICC line placement"), Significance.ACTIONABLE),
        ("Mild cardiomegaly.", Context(), Significance.NOT_ACTIONABLE),
        ("Severe pulmonary edema.", Context(), Significance.URGENT),
        ("Opacity.", Context(indication="neutropenic fever"), Significance.URGENT),
    ],
)
def test_significance_by_wording_age_and_indication(finding: str, context: Context, level: Significance) -> None:
    (error,) = compare("The lungs are clear.", finding, context).errors
    assert error.category is Category.MISSED_FINDING
    assert error.significance is level


def test_a_pneumonia_is_a_consolidation_with_fever() -> None:
    pair = "Left lower lobe pneumonia.", "Left lower lobe consolidation."
    assert compare(*pair).score < 1
    assert compare(*pair, Context(indication="Fever and cough")).score == 1


def test_a_small_error_is_less_significant_than_its_finding() -> None:
    (side,) = compare("Left pneumothorax.", "Right pneumothorax.").errors
    (size,) = compare("15 mm pneumothorax.", "20 mm pneumothorax.").errors
    (change,) = compare("Pneumothorax.", "Stable pneumothorax.").errors
    assert [one.significance for one in (side, size, change)] == [
        Significance.URGENT,
        Significance.ACTIONABLE,
        Significance.NOT_ACTIONABLE,
    ]


def test_findings_are_matched_for_the_greatest_credit() -> None:
    reference = "Right lower lobe opacity. 8 mm nodule in the left upper lobe."
    result = compare("8 mm nodule in the left upper lobe. Opacity in the right lower lobe.", reference)
    assert result.score == 1
    assert [match.candidate.entities for match in result.matches] == [("opacity",), ("nodule",)]


def test_a_sign_and_its_cause_are_two_findings_where_the_other_report_names_them_apart() -> None:
    together = "There is mediastinal widening due to an enlarged thoracic aorta."
    apart = "The mediastinum is widened with an enlarged aortic knob."
    assert compare(together, apart).score == compare(apart, together).score == compare(together, together).score == 1
    half = compare("The aorta is enlarged.", apart)
    assert [(error.category, error.name) for error in half.errors] == [("missed_finding", "widened mediastinum")]


def test_the_explanation_quotes_both_reports() -> None:
    reference = "Large right pleural effusion. Mild cardiomegaly."
    candidate = "Large left pleural effusion. No cardiomegaly. There is a pneumothorax."
    result = compare(candidate, reference)
    text = to_text(result, "report 1: ")
    assert text.startswith("report 1: score -0.")
    assert "~ pleural effusion, credit 0.50\n      place, urgent: left instead of right" in text
    assert '- cardiomegaly "cardiomegaly": missed finding, not actionable: denied by the candidate' in text
    assert '+ pneumothorax "pneumothorax": false finding, urgent: not in the reference' in text
    content = json.loads(json.dumps(to_dict(result)))
    (side,) = [error for error in content["errors"] if error["category"] == "place"]
    start, end = side["candidate"]["attribute"]["span"]
    assert candidate[start:end] == "left"
    start, end = side["reference"]["attribute"]["span"]
    assert reference[start:end] == "right"
    assert content["score"] == result.score


def test_the_explanation_of_two_normal_reports() -> None:
    assert to_text(compare(NORMAL, NORMAL)).splitlines()[1] == "  no findings in either report"
