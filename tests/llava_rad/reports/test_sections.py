"""Sections: the rules and remarks of MIT-LCP/mimic-cxr's section_parser.py, on reports written for them.

The real reports are credentialed; each text here has the form that a rule or remark of the original is about.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llava_rad.outputs.report import sentences
from llava_rad.reports.sections import (
    HAND_MADE,
    Section,
    findings_of,
    findings_part,
    last_section,
    name_of,
    names_views_only,
    split_sections,
)

USUAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // pneumonia?

 FINDINGS:

 The lungs are clear.
 The heart is normal.

 IMPRESSION:

 No pneumonia.
"""


def test_the_sections_of_a_usual_report() -> None:
    assert split_sections(USUAL) == [
        Section("preamble", "                                 FINAL REPORT\n "),
        Section("examination", " CHEST (PA AND LAT)\n"),
        Section("indication", " ___ year old woman with cough  // pneumonia?\n"),
        Section("findings", "\n The lungs are clear.\n The heart is normal.\n"),
        Section("impression", "\n No pneumonia.\n"),
    ]
    assert findings_of(USUAL) == "The lungs are clear.\n The heart is normal."


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        (" FINDINGS: Clear.", True),
        (" FINDINGS:\tClear.", True),
        (" FINDINGS/IMPRESSION: Clear.", True),
        ("   FINDINGS : Clear.", True),  # further spaces belong to its name
        (" CHEST (PORTABLE AP), SEMI-UPRIGHT: Clear.", True),
        ("FINDINGS: Clear.", False),  # a line of a report begins with a space
        (" Findings: Clear.", False),
        (" FINDINGS 2: Clear.", False),  # no digits
        (" FINDINGS:Clear.", False),  # white space after the colon
        (" FINDINGS Clear.", False),
    ],
)
def test_what_a_heading_is(line: str, is_heading: bool) -> None:
    names = [one.name for one in split_sections(f" FINAL REPORT\n{line}\n")]
    assert (names[0] == "preamble") is is_heading
    assert (names == ["full report"]) is not is_heading


def test_the_first_line_of_a_report_is_no_heading() -> None:
    assert [one.name for one in split_sections(" FINDINGS: Clear.\n")] == ["full report"]


def test_the_rest_of_a_headings_line_holds_no_heading() -> None:
    # the search goes on after the line's end; the line below a heading that stands alone belongs to it
    report = " FINAL REPORT\n COMPARISON: None.\n FINDINGS:\n IMPRESSION: Clear.\n NOTE: Called.\n"
    assert [one.name for one in split_sections(report)] == ["preamble", "comparison", "findings", "note"]
    assert findings_of(report) == "IMPRESSION: Clear."


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        # the table of frequent headings
        ("IMPRESSION", "impression"), ("FINDINGS", "findings"), ("CHEST, TWO VIEWS", "findings"),
        ("FINDINGS AND IMPRESSION", "impression"), ("FINDINGS/IMPRESSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"), ("CONCLUSION", "impression"), ("COMPARISONS", "comparison"),
        ("REFERENCE EXAM", "comparison"), ("REASON FOR EXAM", "indication"), ("REASON FOR EXAMINATION", "indication"),
        ("CLINICAL INDICATION", "indication"), ("CLINICAL HISTORY", "history"), ("CLINICAL INFORMATION", "history"),
        ("EXAM", "examination"), ("TYPE OF EXAMINATION", "examination"), ("RECOMMENDATION(S)", "recommendations"),
        ("PFI", "history"), ("WETREAD", "wet read"), ("TECHNIQUE", "technique"), ("NOTIFICATION", "notification"),
        # its typing errors, the original's own included
        ("FINDNGS", "findings"), ("FINIDNGS", "findings"), ("FINDING", "findings"), ("REFERENCE FINDINGS", "findings"),
        ("IMPRESSON", "impression"), ("MPRESSION", "impression"), ("NDICATION", "impression"),
        ("IDICATION", "indication"), ("COMPARISION", "comparison"),
        # headings that contain a main one
        ("FINAL IMPRESSION", "impression"), ("PRELIMINARY FINDINGS", "findings"), ("HISTORY OF CHEST PAIN", "history"),
        ("COMPARISON CHEST RADIOGRAPH", "comparison"), ("ADDENDUM TO CHEST REPORT", "addendum"),
        # of several, the first in the original's order
        ("FINDINGS WITH IMPRESSION", "impression"), ("COMPARISON AND FINDINGS", "findings"),
        # headings that describe the whole study
        ("PORTABLE CHEST", "findings"), ("AP UPRIGHT AND LATERAL VIEWS OF THE CHEST", "findings"),
        ("PA AND LAT", "findings"), ("FRONTAL AND LATERAL RADIOGRAPHS", "findings"), ("SINGLE AP VIEW", "findings"),
        ("LEFT RIBS", "findings"), ("BONE WINDOWS", "findings"), ("FRONTAL SEMI-UPRIGHT", "findings"),
        # all others stay
        ("NOTE", "note"), ("ABDOMEN", "abdomen"), ("WET READ VERSION", "wet read version"), (" DATE ", "date"),
    ],
)  # fmt: skip
def test_names_of_headings(heading: str, name: str) -> None:
    assert name_of(heading) == name


def test_a_heading_of_the_table_is_not_read_by_its_parts() -> None:
    # "chest" in a heading of the table would open findings, "findings" in this one too
    assert name_of("FINDINGS AND IMPRESSION") == "impression"
    assert findings_of(" FINAL REPORT\n FINDINGS AND IMPRESSION: \n \n The lungs are clear.\n") == ""


def test_the_last_section_of_a_name_counts() -> None:
    report = " A\n FINDINGS: First.\n IMPRESSION: One.\n FINDINGS: Second.\n IMPRESSION: Two.\n"
    sections = split_sections(report)
    assert [last_section(sections, name) for name in ("findings", "impression", "comparison")] == [
        "Second.",
        "Two.",
        "",
    ]


def test_a_title_is_no_section() -> None:
    # the original's case: CHEST, PA LATERAL:, an empty line, INDICATION: ...
    report = " FINAL REPORT\n CHEST, PA LATERAL:\n \n INDICATION:  Cough.\n \n FINDINGS:  Clear.\n"
    assert [one.name for one in split_sections(report)] == ["preamble", "indication", "findings"]
    assert findings_of(report) == "Clear."


def test_of_several_findings_the_last_one_with_text_counts() -> None:
    assert findings_of(" A\n CHEST: Clear lungs.\n \n FINDINGS: \n \n IMPRESSION: Normal.\n") == "Clear lungs."


def test_empty_sections_of_other_names_stay() -> None:
    assert Section("comparison", "") in split_sections(" A\n COMPARISON: \n FINDINGS: Clear.\n")


def test_a_report_without_findings_and_impression_has_a_last_paragraph() -> None:
    report = " FINAL REPORT\n REASON FOR EXAM:  Cough.\n \n The lungs are clear.\n \n Dr. ___ was called.\n"
    assert split_sections(report)[1:] == [
        Section("indication", " Cough."),
        Section("last_paragraph", " The lungs are clear.\n \n Dr. ___ was called.\n"),
    ]
    assert findings_of(report) == "", "text of a last paragraph is not a Findings section"


def test_a_last_paragraph_is_looked_for_only_without_both() -> None:
    report = " A\n IMPRESSION: Normal.\n \n COMPARISON: None.\n \n Clear.\n"
    assert [one.name for one in split_sections(report)] == ["preamble", "impression", "comparison"]


def test_a_report_without_headings() -> None:
    assert split_sections("Clear lungs.\n") == [Section("full report", "Clear lungs.\n")]
    assert [one.name for one in split_sections("Title\n \nClear lungs.\n")] == ["full report", "last_paragraph"]
    assert findings_of("") == ""


def test_text_before_the_first_heading_is_no_findings() -> None:
    assert findings_of(" WET READ: ___ 5:00 PM\n No pneumonia.\n FINAL REPORT\n IMPRESSION: Normal.\n") == ""


def test_the_studies_treated_by_hand() -> None:
    # 23 with wrong headings, 23 by positions of their text, 8 with nothing in them
    assert len(HAND_MADE) == 23 + 23 + 8
    assert all(len(study) == 8 and study.isdecimal() and study[0] == "5" for study in HAND_MADE)


def test_every_phantom_report_has_the_sections_of_its_table(phantoms: Path) -> None:
    # The table is written from what the phantom's author meant, not by any parser. White space is left out of the
    # comparison, since the phantom's reports have lines that end in the hyphen of a word ("left-sided").
    files = {file.stem: file for file in (phantoms / "mimic-cxr" / "files").rglob("s*.txt")}
    with (phantoms / "mimic-cxr" / "mimic_cxr_sectioned.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == len(files) == 60
    assert {bool(row["findings"]) for row in rows} == {True, False}
    for row in rows:
        sections = split_sections(files[row["study"]].read_text())
        for name in ("findings", "impression", "comparison", "last_paragraph"):
            assert "".join(last_section(sections, name).split()) == "".join(row[name].split())


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("AP and lateral view of the chest.", True),
        ("PA and lateral views of the chest were obtained.", True),
        ("Portable upright AP chest radiograph at ___.", True),
        ("Two views, frontal and lateral.", True),
        ("CHEST X-XXXX, 2 IMAGES", True),
        ("AP and lateral view of the chest. The lungs are clear.", False),
        ("The chest is normal.", False),
        ("No change.", False),
        ("Chest.", False),  # names no view
        ("XXXX XXXX.", False),
        ("Clear lungs on both views.", False),
        ("No pneumothorax on this single portable view.", False),
        ("", False),
    ],
)
def test_texts_that_only_name_views(text: str, only: bool) -> None:
    assert names_views_only(text) is only


def test_of_all_real_reports_one_only_names_views(shared_dir: Path) -> None:
    lines = (shared_dir / "data" / "iu_xray_reports" / "reports.jsonl").read_text().splitlines()
    findings = {row["uid"]: row["findings"] for row in map(json.loads, lines)}
    assert (len(findings), sum(bool(text.strip()) for text in findings.values())) == (3955, 3425)
    assert [uid for uid, text in findings.items() if names_views_only(text)] == ["CXR202"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: CHEST, TWO VIEWS: Lungs are clear.", "Lungs are clear."),
        ("EXAM: Chest.\nFINDINGS:\nFINDINGS: Lungs are clear.", "Lungs are clear."),
        ("Findings: Old. Impression: X.\nFindings: Edema.", "Edema."),  # as create_section_files.py: the last one
        ("FINDINGS: Edema.\nIMPRESSION: X.\nFINDINGS:", "Edema."),
        ("FINDINGS:\nIMPRESSION: Edema.", ""),
        ("IMPRESSION: Edema.", None),
        ("Edema.", None),
    ],
)
def test_of_several_findings_in_running_text_the_last_with_a_text_counts(text: str, expected: str | None) -> None:
    assert findings_part(text) == expected


@pytest.mark.parametrize("part", ["\n", "\n ", " ", "*", "-", "Findings ", "Findings:\n", "e.g. A ", ". A"], ids=repr)
def test_the_time_is_linear_in_texts_of_one_kind(part: str) -> None:
    """4,000 line breaks took minutes: each of them began a search to the end of the text."""
    text = (part * 200_000)[:200_000]
    findings_part(text)
    assert sentences(text) is not None
