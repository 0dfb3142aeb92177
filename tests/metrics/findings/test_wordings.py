"""Wordings read by hand: exceptions, former and latter, degree and direction of change, units, places."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from metrics.findings.compare import compare
from metrics.findings.parse import Finding, parse
from metrics.findings.sentence import read
from metrics.findings.significance import placement

LEFT, RIGHT, BOTH = frozenset({"left"}), frozenset({"right"}), frozenset({"left", "right"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # an exception takes back a part of a denial
        ("No pneumothorax other than a tiny right apical one.", {"severity": 0.5, "sides": RIGHT, "certain": True}),
        ("No pneumothorax except a small one on the left.", {"severity": 1.0, "sides": LEFT}),
        ("No effusion other than a possible tiny one on the left.", {"severity": 0.5, "certain": False}),
        ("No effusion aside from minimal blunting of the left costophrenic angle.", {"severity": 0.5, "sides": LEFT}),
        ("No acute disease apart from mild cardiomegaly.", {"entities": ("cardiomegaly",), "severity": 1.0}),
        # degree of a change, which is no severity
        ("Significant interval improvement of edema.", {"severity": None, "change": "better"}),
        ("Markedly improved right effusion.", {"severity": None, "change": "better"}),
        ("Moderate interval increase in the left effusion.", {"severity": None, "change": "worse"}),
        ("Near complete resolution of the right effusion.", {"severity": None, "change": "better"}),
        ("Small increasing effusion.", {"severity": 1.0, "change": "worse"}),
        ("Large stable effusion.", {"severity": 3.0, "change": "same"}),
        ("Mildly increased interstitial markings.", {"entities": ("interstitial opacity",), "severity": 1.0}),
        ("Borderline enlarged heart.", {"entities": ("cardiomegaly",), "severity": 0.5}),
        ("Low lung volumes.", {"entities": ("low lung volumes",), "severity": None}),
        # a change that is denied
        ("The effusion has not improved.", {"change": "same"}),
        ("Edema has neither improved nor worsened.", {"change": "same"}),
        ("The left effusion is no larger than before.", {"change": "same"}),
        # values of the past
        ("The right effusion, which was large, is now small.", {"severity": 1.0}),
        ("Effusion has decreased from large to small.", {"severity": 1.0, "change": "better"}),
        ("The nodule has grown from 8 mm to 12 mm.", {"size": 12.0, "change": "worse"}),
        ("Effusion decreased from 4 cm to 2 cm.", {"size": 20.0}),
        ("A nodule measures 12 mm, previously 8 mm.", {"size": 12.0}),
        ("Nodules ranging from 3 mm to 8 mm.", {"size": 8.0}),
        # units and numbers
        ("A 0.8 cm nodule.", {"size": 8.0}),
        ("A .8 cm nodule.", {"size": 8.0}),
        ("A 0,8 cm nodule.", {"size": 8.0}),
        ("A 2 inch mass.", {"size": 50.8}),
        ("A 1/2 inch nodule.", {"size": 12.7}),
        ("A \u00bd inch nodule.", {"size": 12.7}),
        ("A nodule of 1 1/2 inches.", {"size": 38.1}),
        ("A nodule of 12 millimetres.", {"size": 12.0}),
        ("A 10\u2011mm nodule.", {"size": 10.0}),
        ("A mass of 3.2 cm x 2.1 cm x 4 cm.", {"size": 40.0}),
        ("A nodule of 5\u00d76 mm.", {"size": 6.0}),
        # sides
        ("Bibasilar atelectasis.", {"sides": BOTH, "levels": frozenset({3})}),
        ("Atelectasis at the right and left base.", {"sides": BOTH, "levels": frozenset({3})}),
        ("Atelectasis at the lung bases bilaterally.", {"sides": BOTH, "levels": frozenset({3})}),
        ("The right lung is clear but the left shows consolidation.", {"sides": LEFT}),
        ("Consolidation in the right lung; the left is clear.", {"sides": RIGHT}),
        ("Left lung is clear apart from minimal basilar atelectasis.", {"sides": LEFT}),
        ("Lungs are grossly clear aside from mild scarring.", {"severity": 1.0}),
        # devices
        ("ETT terminates 3 cm above the carina.", {"distance": 30.0}),
        ("ETT ends 1.2 inches above the carinal bifurcation.", {"distance": 30.48}),
        ("Tip of the ET tube in the right main stem bronchus.", {"tips": frozenset({"main bronchus"})}),
        ("Interval placement of a right PICC.", {"entities": ("picc",), "change": "new"}),
        ("Lines/tubes: NG tube in the stomach.", {"entities": ("enteric tube",)}),
        ("Catheter tubing over the abdomen.", {"entities": ("other device",)}),
        # typography
        ("Pleural e\ufb00usion\u00a0on the left.", {"entities": ("pleural effusion",), "sides": LEFT}),
        ("Lungs:\n- No consolidation\n- Small left\n  effusion", {"entities": ("pleural effusion",), "sides": LEFT}),
        # contradictions: what is said to be there counts
        ("No pleural effusion. A small right pleural effusion is seen.", {"sides": RIGHT, "severity": 1.0}),
    ],
)  # fmt: skip
def test_a_finding_with_its_attributes(text: str, expected: dict[str, Any]) -> None:
    (found,) = parse(text).findings
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A nodule and an effusion; the former is on the left and the latter on the right.",
         [(LEFT, None), (RIGHT, None)]),
        ("A right effusion and a left pneumothorax are seen, the latter small.", [(RIGHT, None), (LEFT, 1.0)]),
        ("Bilateral effusions, small on the right and moderate on the left.", [(RIGHT, 1.0), (LEFT, 2.0)]),
        ("Effusions, left small, right moderate.", [(LEFT, 1.0), (RIGHT, 2.0)]),
    ],
)  # fmt: skip
def test_attributes_stay_with_their_finding(text: str, expected: list[Any]) -> None:
    assert [(found.sides, found.severity) for found in parse(text).findings] == expected


@pytest.mark.parametrize(
    "text",
    [
        "No effusion other than previously described.",
        "The lungs are not clear.",
        "Lines and tubes: None.",
        "There is no evidence of pneumothorax; none was seen before.",
    ],
)
def test_statements_without_a_finding(text: str) -> None:
    assert parse(text).findings == ()


@pytest.mark.parametrize(
    ("text", "entity", "denied"),
    [
        ("The bones are without acute abnormality.", "fracture", True),
        ("The osseous structures of the thorax are without acute abnormality.", "tortuous aorta", False),
        ("Heart and lungs show no acute abnormality.", "cardiomegaly", True),
        ("Heart and lungs show no acute abnormality.", "fracture", False),
        ("No acute abnormality of the lungs or pleura.", "pleural effusion", True),
        ("The lungs are not clear.", "consolidation", False),
    ],
)
def test_normal_statements_deny_their_structures_alone(text: str, entity: str, denied: bool) -> None:
    assert (parse(text).denial_of(Finding((entity,))) is not None) is denied


def test_the_carina_marks_the_vena_cava_of_a_line_and_the_end_of_a_tube() -> None:
    (line,), (tube,) = (parse(f"{name} tip at the carina.").findings for name in ("PICC", "NG tube"))
    assert (placement(line), placement(tube)) == ("good", "bad")


def test_an_empty_reference_has_no_findings() -> None:
    assert compare("Small left effusion.", "").reference.findings == ()
    assert compare("", "Small left effusion.").credit == 0


@pytest.mark.nightly
def test_reading_takes_linear_time(shared_dir: Path) -> None:
    """A text of 40,000 characters takes at most twice as long by character as one of 5,000: CPU time, best of three."""
    rows = (shared_dir / "data" / "iu_xray_reports" / "reports.jsonl").read_text().splitlines()
    texts = [json.loads(row)["findings"] for row in rows]
    random.Random(0).shuffle(texts)
    whole = " ".join(filter(None, texts))

    def seconds(length: int) -> float:
        best = float("inf")
        for number in range(3):
            read.cache_clear()
            start = time.process_time()
            parse(whole[number * length : (number + 1) * length])
            best = min(best, time.process_time() - start)
        return best

    assert seconds(40_000) <= 2 * 8 * seconds(5_000)
