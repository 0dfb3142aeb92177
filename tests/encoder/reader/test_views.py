"""Spellings of views from public sets and standards, and their effect on the reader.

``view_spellings.csv`` has the spellings: those "by hand" are translations and words that mislead, the others occur in
the named source.
"""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from encoder.reader.sandbox_worker import read_image
from encoder.reader.views import VIEWS, stated, view_of
from tests.encoder.dicom_files import chest, code, odd, refused, sequence

with (Path(__file__).parent / "view_spellings.csv").open(encoding="utf-8", newline="") as file:
    SPELLINGS = [(row["spelling"], row["view"], row["source"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("source", sorted({source for _, _, source in SPELLINGS}))
def test_spellings(source: str) -> None:
    rows = [(spelling, view) for spelling, view, where in SPELLINGS if where == source]
    assert [(spelling, view_of(spelling)) for spelling, _ in rows] == rows


def test_case_accents_and_separators_change_nothing() -> None:
    def plain(text: str) -> str:
        return "".join(one for one in unicodedata.normalize("NFD", text) if not unicodedata.combining(one))

    for spelling, view, _ in SPELLINGS:
        varied = [spelling.upper(), spelling.lower(), f" {spelling}\t", unicodedata.normalize("NFD", spelling)]
        varied += [plain(spelling), spelling.replace(" ", "_"), spelling.replace(" ", "  "), f"[{spelling}]"]
        assert {view_of(text) for text in varied} == {view}, spelling


def test_the_words_of_manifests_are_themselves() -> None:
    assert [view_of(view) for view in VIEWS] == list(VIEWS)


def expected(name: str) -> str:
    """The view of a concept of CID 4010 by its name in pydicom."""
    known = {"PosteroAnterior": "PA", "AnteroPosterior": "AP", "Frontal": "frontal", "Sagittal": "lateral"}
    if name in known:
        return known[name]
    return "oblique" if "Oblique" in name else "lateral" if "Lateral" in name else "other"


@pytest.mark.parametrize("name", sorted(cid_concepts[4010]["SCT"]))
def test_codes_and_meanings_of_cid_4010(name: str) -> None:
    retired = {new: old for old, new in mapping["SRT"].items()}
    ((value, meaning),) = [(value, text) for value, (text, cids) in concepts["SCT"][name].items() if 4010 in cids]
    if meaning == "tissue specimen":
        meaning = "Tissue Specimen"
    assert {view_of(text) for text in (value, retired.get(value, value), meaning)} == {expected(name)}


def test_words_for_nothing_state_nothing() -> None:
    assert not any(map(stated, ("", " ", "nan", "NaN", "None", "N/A", "___", "-", "unknown", "UNK", "null")))
    assert all(map(stated, ("PA", "L", "?!x", "AP/LAT", "EXCLUDE", "后前位")))


@pytest.mark.parametrize(
    ("name", "column"),
    [("covid_chestxray/metadata.csv", "view"), ("iu_xray_reports/image_metadata.csv", "View Position")],
)
def test_words_of_real_tables_are_known(shared_dir: Path, name: str, column: str) -> None:
    with (shared_dir / "data" / name).open(encoding="utf-8", newline="") as table:
        words = {row[column] for row in csv.DictReader(table)}
    assert {word for word in words if view_of(word) == "unknown"} == {""}


# the reader


@pytest.mark.parametrize(
    ("attributes", "view", "source"),
    [
        ({"ViewPosition": "LLO"}, "oblique", "ViewPosition"),  # D03
        ({"ViewPosition": "XTABLE LATERAL"}, "lateral", "ViewPosition"),  # D03
        ({"ViewPosition": "RAO"}, "oblique", "ViewPosition"),
        ({"ViewPosition": "SWIMMERS"}, "other", "ViewPosition"),
        ({"ViewPosition": ["PA", "LAO"]}, "oblique", "ViewPosition"),
        ({"ViewPosition": "PA", "ViewCodeSequence": ("399173006", "SCT", "x")}, "lateral", "ViewCodeSequence"),
        ({"ViewPosition": None, "ViewCodeSequence": ("399135007", "SCT", "x")}, "oblique", "ViewCodeSequence"),
        ({"ViewPosition": None, "ViewCodeSequence": ("x", "99A", "Swimmer's")}, "other", "ViewCodeSequence"),
        ({"ViewPosition": "PA", "BodyPartExamined": "CHEST LATERAL"}, "lateral", "BodyPartExamined"),
        ({"ViewPosition": "AP", "BodyPartExamined": "CHEST OBLIQUE"}, "oblique", "BodyPartExamined"),
        ({"ViewPosition": None, "BodyPartExamined": "CHEST LAT"}, "lateral", "BodyPartExamined"),
        ({"ViewPosition": None, "BodyPartExamined": "LUNG APEX"}, "other", "BodyPartExamined"),
    ],
)  # fmt: skip
def test_other_views_than_frontal_ones_are_refused(attributes: dict[str, Any], view: str, source: str) -> None:
    data = with_codes(attributes)
    refused(data, "lateral", forcible=True)
    facts = read_image(data, force=True).facts
    assert (facts.view, facts.view_source) == (view, source)


@pytest.mark.parametrize(
    ("attributes", "view", "source"),
    [
        ({"ViewPosition": "AP/LAT"}, "unknown", "ViewPosition"),
        ({"ViewPosition": ["AP", "LL"]}, "unknown", "ViewPosition"),
        ({"ViewPosition": "ROUTINE"}, "unknown", "ViewPosition"),
        ({"ViewPosition": "UNKNOWN"}, "unknown", "ViewPosition"),
        ({"ViewPosition": "ROUTINE", "ViewCodeSequence": ("R-10214", "SRT", "x")}, "PA", "ViewCodeSequence"),
        ({"ViewPosition": ["AP", "PA"]}, "frontal", "ViewPosition"),
        ({"ViewPosition": "PORTABLE AP ERECT"}, "AP", "ViewPosition"),
        ({"ViewPosition": "ROUTINE", "BodyPartExamined": "CHEST PA"}, "unknown", "ViewPosition"),
        ({"ViewPosition": "AP", "BodyPartExamined": "CHEST PA"}, "AP", "ViewPosition"),
        ({"ViewPosition": "AP", "BodyPartExamined": "CHEST PA/LAT"}, "AP", "ViewPosition"),
        ({"ViewPosition": None, "BodyPartExamined": "THORAX AP"}, "AP", "BodyPartExamined"),
        ({"ViewPosition": None, "BodyPartExamined": "CHEST 2 VIEWS"}, "frontal", "PatientOrientation"),
    ],
)
def test_a_stated_view_that_is_not_known_is_never_frontal(attributes: dict[str, Any], view: str, source: str) -> None:
    image = read_image(with_codes(attributes))
    assert (image.facts.view, image.facts.view_source) == (view, source)
    assert any("stated view is none" in text for text in image.warnings) is (view == "unknown")


@pytest.mark.parametrize("stated_view", ["LLD", "AP LLD", "LEFT LATERAL DECUBITUS"])
def test_a_lateral_decubitus_is_frontal_with_a_warning(stated_view: str) -> None:
    image = read_image(chest(ViewPosition=stated_view))
    assert image.facts.view in ("AP", "frontal") and any("decubitus" in text for text in image.warnings)


@pytest.mark.parametrize(("item", "view"), [("118438002", "other"), ("111069", "AP")])
def test_a_modifier_of_the_view_counts(item: str, view: str) -> None:
    one = code("399348003", "SCT", "antero-posterior")
    one.ViewModifierCodeSequence = sequence(code(item, "SCT", "Lordotic" if view == "other" else "erect"))
    assert read_image(chest(ViewPosition=None, ViewCodeSequence=sequence(one)), force=True).facts.view == view


@pytest.mark.parametrize(
    ("words", "view"),
    [
        ("LATERAL", "lateral"), ("LEFT LATERAL", "lateral"), ("LL", "lateral"), ("LLAT", "lateral"),
        ("LAT\\F", "lateral"), ("LEFT LATERAL\\FOOT", "lateral"), ("RAO", "oblique"), ("LAO\\F", "oblique"),
        ("RPO\\LAO", "oblique"),
        ("AP", "AP"), ("PA", "PA"), ("PA\\F", "PA"),
        # no view in these
        ("PORTABLE", "unknown"), ("L", "unknown"), ("LA", "unknown"), ("A", "unknown"), ("L\\F\\H", "unknown"),
        ("LEFT\\FOOT", "unknown"), ("ANTERIOR\\FOOT", "unknown"), ("X\\Y", "unknown"), ("L\\", "unknown"),
        ("LR\\F", "unknown"), ("A\\HF", "unknown"),
    ],
)  # fmt: skip
def test_words_in_place_of_an_orientation_state_a_view_or_nothing(words: str, view: str) -> None:
    data = odd(ViewPosition="", PatientOrientation=words)
    image = read_image(data, force=True)
    assert (image.facts.view, image.facts.orientation) == (view, None)
    assert image.facts.view_source == ("none" if view == "unknown" else "PatientOrientation")
    assert "the patient orientation is not readable: left and right are not checked" in image.warnings
    if view in ("lateral", "oblique"):
        refused(data, "lateral", forcible=True)
        refused(odd(ViewPosition="AP", PatientOrientation=words), "lateral", forcible=True)
    else:
        assert read_image(data).facts.view == view
        assert read_image(odd(ViewPosition="AP", PatientOrientation=words)).facts.view == "AP"
        assert read_image(odd(ViewPosition="ROUTINE", PatientOrientation=words)).facts.view == "unknown"


@pytest.mark.parametrize(
    ("rows", "view"),
    [("L", "frontal"), ("R", "frontal"), ("LF", "frontal"), ("LA", "unknown"), ("LP", "unknown"), ("RA", "unknown"),
     ("LAF", "unknown"), ("AL", "lateral"), ("P", "lateral")],
)  # fmt: skip
def test_a_compound_orientation_does_not_make_a_view_frontal(rows: str, view: str) -> None:
    """The letters of a direction are in the order of their parts (PS3.3 C.7.6.1.1.1); "LA" is what an LAO has."""
    columns = "H" if "F" in rows else "F"
    image = read_image(odd(ViewPosition="", PatientOrientation=f"{rows}\\{columns}"), force=True)
    assert (image.facts.view, image.facts.view_source) == (view, "PatientOrientation")
    assert any("oblique" in text for text in image.warnings) is (view == "unknown")
    if view == "unknown":
        stated_view = read_image(odd(PatientOrientation=f"{rows}\\{columns}"))
        assert stated_view.facts.view == "PA" and not any("oblique" in text for text in stated_view.warnings)


AP_CODE = ("399348003", "SCT", "antero-posterior")


@pytest.mark.parametrize(
    ("attributes", "view", "contradicting"),
    [
        ({"ViewPosition": "PA", "ViewCodeSequence": AP_CODE}, "PA", True),
        ({"ViewPosition": "AP", "ViewCodeSequence": AP_CODE}, "AP", False),
        ({"ViewPosition": "PA", "ViewCodeSequence": ("x", "99A", "AP erect")}, "PA", True),
        ({"ViewPosition": "AP", "BodyPartExamined": "CHEST PA"}, "AP", True),
        ({"ViewPosition": "AP", "BodyPartExamined": "CHEST AP"}, "AP", False),
        ({"ViewPosition": None, "ViewCodeSequence": ("R-10202", "SRT", "frontal")}, "frontal", False),
    ],
)
def test_pa_and_ap_in_one_header_are_said(attributes: dict[str, Any], view: str, contradicting: bool) -> None:
    image = read_image(with_codes(attributes))
    assert image.facts.view == view
    assert any("PA and AP are both stated" in text for text in image.warnings) is contradicting


@pytest.mark.parametrize(
    ("region", "said"),
    [(("85562004", "SCT", "Hand"), True), (("51185008", "SCT", "Chest"), False), (("39607008", "SCT", "Lung"), False),
     (("x", "99A", "Thorax"), False), (("302551006", "SCT", "Entire thorax"), False),
     (("x", "99A", "Chest and abdomen"), True)],
)  # fmt: skip
def test_another_region_beside_the_chest_as_body_part_is_said(region: tuple[str, str, str], said: bool) -> None:
    image = read_image(chest(AnatomicRegionSequence=sequence(code(*region))))
    assert image.facts.body_part == "CHEST"
    assert any("AnatomicRegionSequence another part" in text for text in image.warnings) is said


CHESTS = [
    "PORTABLE CHEST", "PORT CHEST", "PORTCHEST", "CHESTPORT", "THORAX AP", "TORAX", "TÓRAX PA", "CHEST 2 VIEWS",
    "CHEST, 2V", "LUNG FIELDS", "LUNGS", "CHEST_PA", "CHEST-AP", "BRUSTKORB/THORAX", "Brustkorb", "POUMON",
    "Poumons", "Thorax p.a. im Stehen", "THORAXAUFNAHME", "CXR", "CHEST SINGLE VIEW", "CHEST FRONTAL", "RX TORAX",
    "PULMONES", "POLMONI", "PULMÃO", "CHEST (PORTABLE)", "XR CHEST AP BEDSIDE", "C.X.R.",
    "Lungenübersicht", "KLATKA PIERSIOWA", "PŁUCA", "HRUDNÍK", "AKCİĞER", "Θώρακας", "Грудная клетка", "Лёгкие", "胸部",
    "胸部X線", "胸部正位", "흉부",
]  # fmt: skip
OTHERS = [
    "CHEST ABDOMEN", "CHESTABDOMEN", "CHEST/ABD", "CHEST & NECK", "NECK AND CHEST", "RIBS", "CHEST RIBS",
    "CHESTRIBS", "STERNUM", "CLAVICLE", "THORACIC SPINE", "TSPINE", "T SPINE CHEST", "BWS", "Brustwirbelsäule",
    "COLUMNA TORACICA", "THORAX KNÖCHERN", "TORAX OSEO", "HEMITHORAX", "CHEST WALL", "ABDOMEN", "SHOULDER",
    "ORCHESTRA", "THORACIC", "CHESTNUT", "PARRILLA COSTAL", "WHOLE BODY CHEST", "BREAST",
    "PORTABLE ABDOMEN", "AP PELVIS", "胸椎", "胸骨", "胸腹部", "흉추", "Грудной отдел позвоночника",
]  # fmt: skip


@pytest.mark.parametrize("part", CHESTS)
def test_spellings_of_the_chest(part: str) -> None:
    assert read_image(odd(BodyPartExamined=part)).facts.body_part in ("CHEST", "LUNGS")


@pytest.mark.parametrize("part", OTHERS)
def test_other_parts_and_parts_of_the_chest_wall(part: str) -> None:
    refused(odd(BodyPartExamined=part), "body_part", forcible=True)


@pytest.mark.parametrize("part", ["UNKNOWN", "N/A", "PORTABLE", "AP PORTABLE", "PA", "2 VIEWS", "XR", "-"])
def test_words_that_name_no_part_are_no_statement(part: str) -> None:
    image = read_image(odd(BodyPartExamined=part))
    assert image.facts.body_part is None and "the body part is not stated" in image.warnings
    refused(odd(BodyPartExamined=part, Modality="OT"), "body_part", forcible=True)


def with_codes(attributes: dict[str, Any]) -> bytes:
    if isinstance(attributes.get("ViewCodeSequence"), tuple):
        attributes = {**attributes, "ViewCodeSequence": sequence(code(*attributes["ViewCodeSequence"]))}
    return chest(**attributes)
