"""The labeler of phrases: published examples, sentences judged by hand, and two human gold standards."""

from __future__ import annotations

import functools
import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from metrics.base import InputError, Settings
from metrics.labels import BLANK, CLASSES, NEGATIVE, POSITIVE, UNCERTAIN
from metrics.rules.labeler import RulesF1, label, label_all, weights_id
from scripts import evaluate_rules

known_label = functools.cache(label)
B, P, N, U = BLANK, POSITIVE, NEGATIVE, UNCERTAIN


def labels(text: str) -> dict[str, int]:
    return {name: code for name, code in zip(CLASSES, label(text), strict=True) if code != BLANK}


# Examples that the repositories of CheXbert and of the CheXpert labeler publish with their labels.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Heart size normal and lungs are clear. No edema or pneumonia. No effusion",
            {"Cardiomegaly": N, "Edema": N, "Pneumonia": N, "Pleural Effusion": N, "No Finding": P},
        ),
        (
            "1. Left pleural effusion with adjacent atelectasis. Right effusion is also present. "
            "2. Cardiomegaly without overt edema.",
            {"Cardiomegaly": P, "Edema": N, "Atelectasis": P, "Pleural Effusion": P},
        ),
        (
            "Minimal patchy airspace disease within the lingula, may reflect atelectasis or consolidation.",
            {"Lung Opacity": P, "Consolidation": U, "Atelectasis": U},
        ),
        ("1. Stable mild cardiomegaly. 2. Hyperexpanded but clear lungs.", {"Cardiomegaly": P}),
    ],
)
def test_published_examples(text: str, expected: dict[str, int]) -> None:
    assert labels(text) == expected
    if "airspace" not in text:  # the scope of "may" covers the whole of a sentence without its comma
        assert {name: labels(text.lower()).get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "positive", "negative", "uncertain"),
    [
        ("Enlarged Cardiomediastinum", "Wide mediastinum.", "No mediastinal widening.", "Perhaps wide mediastinum."),
        ("Cardiomegaly", "The heart is mildly enlarged.", "Heart size is normal.", "Borderline cardiomegaly."),
        ("Lung Opacity", "Patchy opacity in the left base.", "No airspace opacity.", "There may be a hazy opacity."),
        ("Lung Lesion", "A 7 mm nodule in the right apex.", "No nodule or mass.", "Suspicious for a lung mass."),
        ("Edema", "Interstitial pulmonary edema.", "Without overt edema.", "Findings suggest mild edema."),
        ("Consolidation", "Dense consolidation on the right.", "No focal consolidation.", "Probable consolidation."),
        ("Pneumonia", "Multifocal pneumonia.", "Negative for pneumonia.", "Cannot exclude pneumonia."),
        ("Atelectasis", "Bibasilar atelectasis.", "The atelectasis has resolved.", "Atelectasis versus scar."),
        ("Pneumothorax", "Small apical pneumothorax.", "Pneumothorax is not seen.", "Questionable pneumothorax."),
        ("Pleural Effusion", "Large right effusion.", "Free of effusion.", "Effusion cannot be excluded."),
        ("Pleural Other", "Biapical pleural thickening.", "No pleural thickening.", "Likely pleural scarring."),
        ("Fracture", "Healed rib fracture.", "No acute fracture.", "Possible rib fracture."),
        ("Support Devices", "Right PICC in the SVC.", "The chest tube has been removed.", "Possible pacemaker."),
    ],
)  # fmt: skip
def test_every_class_affirmed_denied_and_doubted(name: str, positive: str, negative: str, uncertain: str) -> None:
    at = CLASSES.index(name)
    assert [label(text)[at] for text in (positive, negative, uncertain)] == [P, N, U]
    assert label(f"{negative}\n{uncertain}")[at] == U, "uncertain before negative"
    assert label(f"{uncertain}\n{positive}\n{negative}")[at] == P, "positive before all"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion, pneumothorax or edema.", {"Pleural Effusion": N, "Pneumothorax": N, "Edema": N}),
        ("No pneumothorax, but there is a left effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("No pneumothorax, stable cardiomegaly.", {"Pneumothorax": N, "Cardiomegaly": P}),
        ("No significant change in the left pleural effusion.", {"Pleural Effusion": P}),
        ("Low volumes without edema; atelectasis at the bases.", {"Edema": N, "Atelectasis": P}),
        ("The effusion has resolved, however consolidation persists.", {"Pleural Effusion": N, "Consolidation": P}),
        ("Compared to ___, a 2.5 cm nodule. No effusion.", {"Lung Lesion": P, "Pleural Effusion": N}),
        ("Massive pericardial effusion.", {"Pleural Effusion": None}),
        ("Calcified nodules of old granulomatous infection.", {"Lung Lesion": None, "Pneumonia": None}),
        ("Please note that fractures may not be demonstrated.", {"Fracture": None}),
        ("OPACITY IN THE LINGULA", {"Lung Opacity": P}),
    ],
)  # fmt: skip
def test_reach_of_cues(text: str, expected: dict[str, int | None]) -> None:
    assert {name: labels(text).get(name) for name in expected} == expected


# Judged by hand, with the reason for each: sentences.csv.
SENTENCES = evaluate_rules.read_sentences(Path(__file__).with_name("sentences.csv"))


@pytest.mark.parametrize("half", ["tuning", "judging"])
def test_sentences_judged_by_hand(half: str) -> None:
    """At least 97 % of the labels on the half that the phrases were tuned on, 94 % on the other."""
    rows = [one for one in SENTENCES if one.tuning == (half == "tuning")]
    right, total = evaluate_rules.agreement(rows)
    assert total > 190 and right / total >= {"tuning": 0.97, "judging": 0.94}[half]


def test_judged_sentences_name_every_class_and_are_unique() -> None:
    assert len({one.text for one in SENTENCES}) == len(SENTENCES) >= 300
    assert {name for one in SENTENCES for name in one.codes} == set(CLASSES)
    assert all(one.reason for one in SENTENCES)


# The sentences that the labeler of version rules-1 got wrong, in their kinds.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The effusion has not resolved.", {"Pleural Effusion": P}),
        ("The effusion has resolved.", {"Pleural Effusion": N}),
        ("It is not possible to exclude pneumonia.", {"Pneumonia": U}),
        ("The opacity is unlikely to be new.", {"Lung Opacity": P}),
        ("The opacity is unlikely to be pneumonia.", {"Lung Opacity": P, "Pneumonia": N}),
        ("History: cough, rule out pneumonia.", {"Pneumonia": U}),
        ("INDICATION: Rule out pneumonia.\nFINDINGS: The lungs are clear.", {"Pneumonia": None, "No Finding": P}),
        ("Either atelectasis or pneumonia.", {"Atelectasis": U, "Pneumonia": U}),
        ("Consider pneumonia.", {"Pneumonia": U}),
        ("I doubt there is an effusion.", {"Pleural Effusion": U}),
        ("No doubt there is an effusion.", {"Pleural Effusion": P}),
        ("An effusion, if present, is small.", {"Pleural Effusion": U}),
        ("Pneumothorax is difficult to assess given the chest tube.", {"Pneumothorax": U, "Support Devices": P}),
        ("Pneumothorax not definitely seen.", {"Pneumothorax": U}),
        ("Multiple rounded opacities.", {"Lung Opacity": P}),
        ("Low volumes accentuate the cardiac silhouette.", {"Cardiomegaly": None}),
        ("Small apical pneumothorax, not seen before.", {"Pneumothorax": P}),
        ("no pneumothorax\nsmall left effusion\n", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("No pneumothorax \u2013 small left effusion", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("Not able to exclude effusion.", {"Pleural Effusion": U}),
        ("Consideration should be given to pneumonia.", {"Pneumonia": U}),
        ("Opacity \u2013 atelectasis versus pneumonia.", {"Lung Opacity": P, "Atelectasis": U, "Pneumonia": U}),
        ("No consolidation and a small effusion.", {"Consolidation": N, "Pleural Effusion": P}),
        ("Nothing to suggest pneumonia.", {"Pneumonia": N}),
        ("Heart is not significantly enlarged.", {"Cardiomegaly": N}),
        ("Fracture ruled out.", {"Fracture": N}),
        ("Questionable right upper lobe nodule, not seen on the lateral view.", {"Lung Lesion": U}),
        ("Opacity persists, pneumonia not excluded.", {"Lung Opacity": P, "Pneumonia": U}),
        ("Most likely atelectasis; pneumonia less likely.", {"Atelectasis": U, "Pneumonia": U}),
        ("Pneumothorax, which has resolved.", {"Pneumothorax": N}),
        ("Lungs: clear. Pleura: no effusion. Heart: enlarged.", {"Pleural Effusion": N, "Cardiomegaly": P}),
        ("Pneumonia not suspected.", {"Pneumonia": N}),
        ("Please consider CT for the known mass.", {"Lung Lesion": P}),
        ("There is little doubt about the pneumonia.", {"Pneumonia": P}),
        ("Assessment of heart size is limited.", {"Cardiomegaly": U}),
        ("No pneumothorax (chest tube in place).", {"Pneumothorax": N, "Support Devices": P}),
        ("Opacity without effusion is concerning for edema.", {"Lung Opacity": P, "Pleural Effusion": N, "Edema": U}),
        ("No more than a trace effusion.", {"Pleural Effusion": P}),
        ("No evidence of hardware complication.", {"Support Devices": P}),
        ("There is not enough evidence to exclude a nodule.", {"Lung Lesion": U}),
        ("Low lung volumes accentuate the cardiac silhouette, which remains enlarged.", {"Cardiomegaly": P}),
        ("Pneumothorax \u2013 not seen", {"Pneumothorax": N}),
        ("Fracture: possible.", {"Fracture": U}),
        ("Pneumonia and atelectasis are both possible.", {"Pneumonia": U, "Atelectasis": U}),
        ("There is a moderate left pleural effusion. No\npneumothorax.", {"Pleural Effusion": P, "Pneumothorax": N}),
        ("no effusion\nleft rib fracture", {"Pleural Effusion": N, "Fracture": P}),
    ],
)  # fmt: skip
def test_kinds_of_scope_condition_and_certainty(text: str, expected: dict[str, int | None]) -> None:
    assert {name: labels(text).get(name) for name in expected} == expected


# The sentences that the labeler of version rules-2 got wrong, in their kinds.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lungs are clear. No\npneumothorax.", {"Pneumothorax": N}),
        ("THERE IS NO EVIDENCE OF\nPNEUMOTHORAX.", {"Pneumothorax": N}),
        ("No pneumo-\nthorax. SMALL EFFU-\nSION.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("Pneumothorax on the left\nNo effusion", {"Pneumothorax": P, "Pleural Effusion": N}),
        ("No effusion on the left\nPneumothorax on the right", {"Pneumothorax": P, "Pleural Effusion": N}),
        (
            "no focal consolidation or pneumothorax is seen on either side\nsmall effusion\nheart normal",
            {"Pneumothorax": N, "Pleural Effusion": P},
        ),
        ("Pneumothorax: None seen.", {"Pneumothorax": N}),
        ("Pleural effusion: None identified.", {"Pleural Effusion": N}),
        ("Effusion: none evident", {"Pleural Effusion": N}),
        ("Pneumothorax: No evidence", {"Pneumothorax": N}),
        ("Pneumothorax: There is none.", {"Pneumothorax": N}),
        ("Pneumothorax: 0\nEdema: False\nFracture: N", {"Pneumothorax": N, "Edema": N, "Fracture": N}),
        ("Nodule: 0.5 cm.", {"Lung Lesion": P}),
        ("Pneumothorax and effusion: none.", {"Pneumothorax": N, "Pleural Effusion": N}),
        ("Small effusion, pneumothorax: none.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("Effusion: no pleural effusion.", {"Pleural Effusion": N}),
        ("Effusion: small left effusion.", {"Pleural Effusion": P}),
        ("Effusions nil.", {"Pleural Effusion": N}),
        ("No pneumothorax, effusions unchanged.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("No pneumothorax, left effusion larger from prior.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("No pneumothorax, pleural effusion or increased opacity.", {"Pleural Effusion": N, "Lung Opacity": N}),
        ("Heart size is mildly to moderately enlarged.", {"Cardiomegaly": P}),
        ("Cardiac silhouette is mildly-to-moderately enlarged.", {"Cardiomegaly": P}),
        ("The heart is moderate to severely enlarged.", {"Cardiomegaly": P}),
        ("The heart is significantly enlarged.", {"Cardiomegaly": P}),
        ("The heart is persistently enlarged.", {"Cardiomegaly": P}),
        ("The heart is still enlarged.", {"Cardiomegaly": P}),
        ("The heart is possibly enlarged.", {"Cardiomegaly": U}),
        ("The heart was previously enlarged.", {"Cardiomegaly": None}),
        ("Heart size is not normal.", {"Cardiomegaly": P}),
        ("Heart size is normal, not enlarged.", {"Cardiomegaly": N}),
        ("Neg for effusion. Neg. for edema.", {"Pleural Effusion": N, "Edema": N}),
        ("Zero effusions. Absent pneumothorax.", {"Pleural Effusion": N, "Pneumothorax": N}),
        ("Effusion absent, pneumothorax present.", {"Pleural Effusion": N, "Pneumothorax": P}),
        ("Pneumonia has not developed.", {"Pneumonia": N}),
        ("In comparison: effusion is larger.", {"Pleural Effusion": P}),
        ("On this exam: pneumothorax is present. No edema.", {"Pneumothorax": P, "Edema": N}),
        ("Comparison: effusion. Findings: Clear.", {"Pleural Effusion": None}),
        *(
            (f"No pneumothorax{sign}Small effusion", {"Pneumothorax": N, "Pleural Effusion": P})
            for sign in (" \u2022 ", " | ", "\t", "\f", "\x0b", "\u2028", "\u2029", "\x85", " <br> ", " (2) ")
        ),
        ("No\tpneumothorax. There is a\tsmall effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
        ("Maybe small effusion.", {"Pleural Effusion": U}),
    ],
)  # fmt: skip
def test_kinds_of_lines_fields_and_degrees(text: str, expected: dict[str, int | None]) -> None:
    assert {name: labels(text).get(name) for name in expected} == expected


@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_labels_depend_neither_on_the_width_of_lines_nor_on_case(shared_dir: Path, case: Callable[[str], str]) -> None:
    lines = (shared_dir / "data" / "iu_xray_reports" / "reports.jsonl").read_text().splitlines()[:300]
    texts = [" ".join(json.loads(line)["findings"].split()) for line in lines]
    hyphens = "The lungs are clear. No\npleural effusion or pneumothorax. There is a left-\nsided port in place."
    assert labels(case(hyphens)) == labels(hyphens.replace("-\n", "-").replace("\n", " "))
    for text in texts:
        for width in (45, 72):
            assert label(textwrap.fill(case(text), width)) == label(text), (width, text)


def test_no_finding() -> None:
    at = CLASSES.index("No Finding")
    assert label("No acute disease.")[at] == P
    assert {label(text) for text in ("", " \n", ".", "." * 150, "___", " - ")} == {(BLANK,) * 14}, "empty texts"
    assert label("PICC in place. Lungs are clear.")[at] == P, "devices are no finding"
    assert label("Possible pneumonia.")[at] == BLANK
    assert label("Moderate hiatal hernia. Lungs are clear.")[at] == BLANK, "a finding outside the classes"
    assert label("No hiatal hernia.")[at] == P


def test_lists_are_labelled_like_their_texts() -> None:
    texts = ["Edema.", "", "No edema.", "Edema."]
    found = label_all(texts)
    assert found.dtype == np.int8 and found.tolist() == [list(label(text)) for text in texts]
    assert weights_id().startswith("rules-3:")
    for bad in (None, 3, b"edema"):
        with pytest.raises(InputError, match="must be a string"):
            label(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="number 2 is NoneType"):
        label_all(["a", None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "part",
    ["heart size of the ", "no ", "effusion ", "mediastinum slightly ", "prominent of the stable ", "a", "1. ", "\n"],
)
def test_time_is_in_proportion_to_length(part: str) -> None:
    times = []
    for size in (10_000, 80_000):
        text = part * (size // len(part))
        begin = time.process_time()
        label(text)
        times.append(time.process_time() - begin)
    assert times[1] < 40 * max(times[0], 0.005)


@pytest.mark.parametrize("gold", ["openi", "mesh"])
def test_against_human_labels(shared_dir: Path, gold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Macro-F1 of 0.80 on the half of the reports that the phrases were not tuned on, counted by scikit-learn."""
    rows = evaluate_rules.read(shared_dir / "data" / "iu_xray_reports", "report")
    truth: Any = {"openi": evaluate_rules.openi, "mesh": evaluate_rules.mesh}[gold]
    classes = list(evaluate_rules.SAME.values() if gold == "openi" else evaluate_rules.MESH)
    monkeypatch.setattr(evaluate_rules, "label", known_label)
    pairs = [(answer, known_label(evaluate_rules.text_of(row))) for row in rows if (answer := truth(row)) is not None]
    assert len(pairs) > 1800
    y_true = [[answer[name] for name in classes] for answer, _ in pairs]
    y_pred = [[codes[CLASSES.index(name)] == POSITIVE for name in classes] for _, codes in pairs]
    value = f1_score(y_true, y_pred, average="macro", zero_division=0)
    assert value >= 0.80
    counted = evaluate_rules.table(rows, truth, uncertain=False)
    assert evaluate_rules.macro(counted, classes) == pytest.approx(value)


def test_reports_of_one_finding_are_scored() -> None:
    """A labeler without weights is not suspected of having the wrong ones: 25 reports with the same labels."""
    texts = [f"There is a large pleural effusion, seen on image {number}." for number in range(25)]
    scores = RulesF1("rules", Settings()).scores(texts, texts)
    assert scores.point()["rules_micro_f1_14"] == 1.0
