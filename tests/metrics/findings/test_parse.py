"""Findings of single statements, judged by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from metrics.base import InputError
from metrics.findings.lexicon import base_form, combinations, entities
from metrics.findings.parse import Finding, parse
from metrics.findings.weights import CONTEXT, RELATED

LEFT, RIGHT, BOTH = frozenset({"left"}), frozenset({"right"}), frozenset({"left", "right"})


def one(text: str) -> Finding:
    (found,) = parse(text).findings
    return found


def names(text: str) -> list[tuple[str, ...]]:
    return [found.entities for found in parse(text).findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a structure and its quality, in either order and with words between
        ("The heart is mildly enlarged.", {"entities": ("cardiomegaly",), "severity": 1.0}),
        ("There is enlargement of the cardiac silhouette.", {"entities": ("cardiomegaly",)}),
        ("Heart size remains slightly large.", {"entities": ("cardiomegaly",), "severity": 0.5, "change": "same"}),
        ("There is elevation of the left hemidiaphragm.", {"entities": ("elevated hemidiaphragm",), "sides": LEFT}),
        ("Lung volumes are low.", {"entities": ("low lung volumes",)}),
        ("There are prominent interstitial markings.", {"entities": ("interstitial opacity",)}),
        ("Calcification of the aortic arch.", {"entities": ("aortic calcification",)}),
        ("Crowded bronchovascular markings.", {"entities": ("bronchovascular crowding",)}),
        ("Wedging of several midthoracic vertebral bodies.", {"entities": ("vertebral compression",)}),
        ("Suggestion of a deep sulcus sign on the right.", {"entities": ("pneumothorax",), "certain": False}),
        ("Plate-like atelectasis at the right base.", {"entities": ("atelectasis",), "sides": RIGHT}),
        ("A left pneumothorax with a visible pleural line.", {"entities": ("pneumothorax",), "sides": LEFT}),
        ("Septal lines at both bases.", {"entities": ("interstitial opacity",), "sides": BOTH}),
        ("There is a right diaphragmatic hump.", {"entities": ("elevated hemidiaphragm",), "sides": RIGHT}),
        ("Senescent changes of the spine.", {"entities": ("degenerative spine",)}),
        ("Right superior hilar retraction.", {"entities": ("volume loss",), "sides": RIGHT}),
        # places
        ("RLL opacity.", {"entities": ("opacity",), "sides": RIGHT, "levels": frozenset({3})}),
        ("Opacity in the lingula.", {"entities": ("opacity",), "sides": LEFT, "levels": frozenset({2})}),
        ("Scarring at both apices.", {"entities": ("scarring",), "sides": BOTH, "levels": frozenset({0})}),
        ("Old healed left 7th rib fracture.", {"sides": LEFT, "sites": frozenset({"rib"}), "old": True}),
        ("Opacities in the right and left lower lobes.", {"sides": BOTH, "levels": frozenset({3})}),
        # sizes and severity
        ("There is a 2.3 x 1.8 cm mass in the left upper lobe.", {"entities": ("mass",), "size": 23.0, "sides": LEFT}),
        ("12 mm nodule.", {"entities": ("nodule",), "size": 12.0}),
        ("Moderate-to-large right pleural effusion.", {"entities": ("pleural effusion",), "severity": 2.5}),
        ("Multiple bilateral nodules.", {"number": "many", "sides": BOTH}),
        # change
        ("Right effusion, increased since yesterday.", {"change": "worse"}),
        ("Interval improvement of the pulmonary edema.", {"change": "better"}),
        ("A patchy infiltrate has developed in the right lower lobe.", {"change": "new", "sides": RIGHT}),
        # certainty
        ("Cannot exclude a small left pneumothorax.", {"certain": False, "sides": LEFT, "severity": 1.0}),
        ("Pneumonia has improved but not resolved.", {"certain": True, "change": "better"}),
        # devices
        ("ET tube tip 4.2 cm above the carina.", {"entities": ("endotracheal tube",), "distance": 42.0}),
        ("Right PICC. Its tip is at the cavoatrial junction.", {"tips": frozenset({"cavoatrial junction"})}),
        ("Left IJ catheter via the left internal jugular vein, tip in the SVC.", {"tips": frozenset({"svc"})}),
        ("NG tube coiled in the esophagus.", {"position": "bad", "tips": frozenset({"esophagus"})}),
        ("ETT in satisfactory position.", {"position": "good"}),
        # a sign and what explains it are one finding
        ("Opacity suggestive of pneumonia.", {"entities": ("opacity", "pneumonia"), "certain": True}),
        ("Perihilar opacities with septal thickening, in keeping with edema.",
         {"entities": ("opacity", "interstitial opacity", "pulmonary edema")}),
        ("Left lower lobe atelectasis versus consolidation.", {"sides": LEFT, "levels": frozenset({3})}),
        # repeated mentions are one finding
        ("Mild cardiomegaly. The heart is again enlarged.", {"severity": 1.0, "change": "same"}),
        ("Left chest port. The catheter ends in the SVC.", {"entities": ("port",), "tips": frozenset({"svc"})}),
    ],
)  # fmt: skip
def test_a_finding_with_its_attributes(text: str, expected: dict[str, Any]) -> None:
    found = one(text)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Small right and large left pleural effusions.", [(RIGHT, 1.0), (LEFT, 3.0)]),
        ("Left effusion and atelectasis.", [(LEFT, None), (LEFT, None)]),
        ("Opacity in the right upper lobe and left effusion.", [(RIGHT, None), (LEFT, None)]),
        ("Mild cardiomegaly with moderate left effusion.", [(frozenset(), 1.0), (LEFT, 2.0)]),
        ("Effusion on the right; there is mild edema.", [(RIGHT, None), (frozenset(), 1.0)]),
        (
            "6 mm nodule in the right upper lobe and a 9 mm nodule in the left lower lobe.",
            [(RIGHT, None), (LEFT, None)],
        ),
    ],
)
def test_attributes_stay_with_their_finding(text: str, expected: list[Any]) -> None:
    assert [(found.sides, found.severity) for found in parse(text).findings] == expected


def test_two_sizes_belong_to_two_nodules() -> None:
    text = "There is a 6 mm nodule in the right upper lobe and a 9 mm nodule in the left lower lobe."
    assert [found.size for found in parse(text).findings] == [6.0, 9.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " . ",
        "No acute cardiopulmonary abnormality.",
        "The heart is not enlarged. The aorta is not calcified.",
        "No focal consolidation, pleural effusion or pneumothorax.",
        "Heart size is upper limits of normal.",
        "The cardiomediastinal silhouette is stable.",
        "Previously noted left effusion is no longer seen.",
        "The right IJ catheter has been removed.",
        "Mediastinal contours, hila and pulmonary vasculature are normal.",
        "INDICATION: pneumonia, pleural effusion. FINDINGS: Clear lungs.",
        "Trachea midline. Bones intact.",
        "The paraspinal and anterior junction lines are normal. End plates are intact.",
        "A skin fold line projects over the right lung.",
        "No pleural line is visible.",
    ],
)
def test_statements_without_a_finding(text: str) -> None:
    assert parse(text).findings == ()


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("The lungs are clear.", "consolidation"),
        ("No acute cardiopulmonary abnormality.", "pleural effusion"),
        ("Cardiac silhouette, mediastinum, and hila are normal.", "cardiomegaly"),
        ("Cardiac silhouette, mediastinum, and hila are normal.", "hilar enlargement"),
        ("No acute osseous abnormality.", "fracture"),
        ("Normal heart size and mediastinal contours.", "widened mediastinum"),
        ("No abnormality of the bones.", "fracture"),
        ("There is no effusion.", "pleural effusion"),
    ],
)
def test_normal_statements_deny_what_they_cover(text: str, denied: str) -> None:
    assert parse(text).denial_of(Finding((denied,))) is not None


@pytest.mark.parametrize(
    ("text", "not_denied"),
    [
        ("The lungs are clear of consolidation.", "nodule"),
        ("Without typical findings of edema.", "fracture"),
        ("The heart is normal.", "consolidation"),
        ("No acute osseous abnormality.", "pneumothorax"),
        ("The lungs are clear.", "low lung volumes"),
        ("The lungs are clear.", "hyperinflation"),
    ],
)
def test_normal_statements_deny_nothing_else(text: str, not_denied: str) -> None:
    assert parse(text).denial_of(Finding((not_denied,))) is None


@pytest.mark.parametrize(
    "text",
    [
        "Small right\npleural effusion, s/p drainage.",
        "FINDINGS:\r\nThere isn\u2019t cardiomegaly \u2014 there is a right pleural effusion w/ atelectasis.",
        "\u0130 Pleural effusion",
        "Pleural effu-\nsion on the right.",
        "  PLEURAL EFFUSION.  ",
    ],
)
def test_spans_are_positions_in_the_report(text: str) -> None:
    (found,) = [found for found in parse(text).findings if "pleural effusion" in found.entities]
    start, end = found.spans[0]
    assert " ".join(text[start:end].lower().replace("-\n", "").split()) == "pleural effusion"
    if found.sides:
        start, end = found.where["side"]
        assert text[start:end].lower() == "right"


def test_a_report_must_be_a_string() -> None:
    with pytest.raises(InputError, match="must be a string, not NoneType"):
        parse(None)  # type: ignore[arg-type]


def test_long_text_without_stops_is_read_in_linear_time() -> None:
    text = "opacity in the left lung and " * 400
    assert len(parse(text).findings) >= 1


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("effusions", "effusion"), ("opacities", "opacity"), ("pneumothoraces", "pneumothorax"), ("masses", "mass"),
        ("atelectasis", "atelectasis"), ("apices", "apex"), ("thrombus", "thrombus"), ("gas", "gas"),
        ("suggests", "suggest"), ("processes", "process"),
    ],
)  # fmt: skip
def test_base_forms(word: str, form: str) -> None:
    assert base_form(word) == form


def test_tables_name_known_entities_only() -> None:
    known = entities()
    assert 80 <= len(known) <= 100
    assert {name for pair in RELATED for name in pair} <= known.keys()
    assert {name for rule in CONTEXT for name in rule.entities} <= known.keys()
    assert all(re.search(r"\([^()]*(?:\d{4}|ATLS|USPSTF)[^()]*\)", rule.reason) for rule in CONTEXT), (
        "a source for each"
    )
    assert set(combinations().values()) <= known.keys()
    assert all(0 < credit < 1 for credit in RELATED.values())
    assert not {(second, first) for first, second in RELATED} & RELATED.keys()
    assert all(entity.source and entity.significance in "uanb" for entity in known.values())


@pytest.mark.parametrize("name", sorted(entities()))
def test_every_name_is_found_by_itself(name: str) -> None:
    skipped = {"anatomic variant", "other device", "circulatory support", "postsurgical lung", "degenerative spine",
               "joint degeneration", "prosthetic valve", "pericardial calcification", "low lung volumes"}  # fmt: skip
    if name not in skipped:
        assert names(f"There is {name}.") == [(name,)]


@pytest.mark.parametrize(
    ("text", "found", "denied"),
    [
        ("Lungs are clear. No\npneumothorax.", [], "pneumothorax"),
        ("THERE IS NO\nPNEUMOTHORAX.", [], "pneumothorax"),
        ("No\npneumothorax. A left-\nsided effusion.", [("pleural effusion",)], "pneumothorax"),
        ("Pneumothorax: None seen.", [], "pneumothorax"),
        ("Pneumothorax and effusion: none.", [], "pleural effusion"),
        ("Effusion: no effusion.", [], "pleural effusion"),
        ("No pneumothorax, effusions unchanged.", [("pleural effusion",)], "pneumothorax"),
        ("No pneumothorax\u2029Small effusion", [("pleural effusion",)], "pneumothorax"),
    ],
)
def test_denials_in_wrapped_lines_and_fields(text: str, found: list[tuple[str, ...]], denied: str) -> None:
    assert names(text) == found
    span = next(one.span for one in parse(text).denied if denied in one.entities)
    assert denied.split()[-1] in text[slice(*span)].lower()
