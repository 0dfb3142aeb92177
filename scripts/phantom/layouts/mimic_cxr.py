"""MIMIC-CXR 2.0.0, MIMIC-CXR-JPG 2.0.0 and the tables of MIMIC-IV 2.2 that give its patients sex, age, race and weight.

Sources of the facts:
- files/p10/p10000032/s50414267/<dicom_id>.dcm|jpg, files/.../s50414267.txt, cxr-record-list, cxr-study-list:
  mimic.mit.edu "CXR" page and the folder listings in public readers (dicom_id: 40 hexadecimal digits in five groups).
- columns of mimic-cxr-2.0.0-{metadata,split,chexpert}.csv.gz: public readers that list them in full (metadata:
  dicom_id, subject_id, study_id, PerformedProcedureStepDescription, ViewPosition, Rows, Columns, StudyDate, StudyTime,
  ProcedureCodeSequence_CodeMeaning, ViewCodeSequence_CodeMeaning, PatientOrientationCodeSequence_CodeMeaning).
- mimic_cxr_sectioned.csv: MIT-LCP/mimic-cxr txt/create_section_files.py.
- hosp/patients, admissions, omr: mimic.mit.edu/docs/iv/modules/hosp.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..cohort import Layout, Request, Study, Views, studies
from ..files import write_csv, write_dicom, write_image, write_text
from ..findings import CHEXPERT
from ..patient import generator, hexadecimal
from ..radiograph import Phantom

METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
PATIENTS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
ADMISSIONS = (
    "subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "admit_provider_id",
    "admission_location", "discharge_location", "insurance", "language", "marital_status", "race", "edregtime",
    "edouttime", "hospital_expire_flag",
)  # fmt: skip
OMR = ("subject_id", "chartdate", "seq_num", "result_name", "result_value")
SECTIONS = ("study", "impression", "findings", "last_paragraph", "comparison")
_INDICATIONS = ("cough", "shortness of breath", "chest pain", "fever", "fall", "altered mental status")
_CODE_MEANING = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}


def subject_id(study: Study, seed: int) -> int:
    """Eight digits beginning with 1, spread over p10..p19."""
    return 10_000_000 + (study.subject * 7_919_353 + (seed % 1000) * 13 + 5) % 10_000_000


def study_id(study: Study, seed: int) -> int:
    """Eight digits beginning with 5."""
    return 50_000_000 + (study.number * 3_571_429 + (seed % 1000) * 7 + 1) % 10_000_000


def dicom_id(study: Study, index: int) -> str:
    """Forty hexadecimal digits in five groups."""
    digits = hexadecimal(40, "dicom_id", study.key, index)
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def report_text(study: Study) -> tuple[str, dict[str, str]]:
    """The report file and its sections as mimic_cxr_sectioned.csv has them.

    Usual form: FINAL REPORT with EXAMINATION, INDICATION, TECHNIQUE, COMPARISON, FINDINGS, IMPRESSION. Some start with
    a wet read, some name the views instead of "FINDINGS", some have no Impression or no Findings.
    """
    rng = study.rng
    portable = "AP" in study.views
    views = "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)" if len(study.views) > 1 else "CHEST (PA)"
    noun = "woman" if study.patient.sex == "F" else "man"
    why = str(rng.choice(_INDICATIONS))
    findings, impression = study.report.findings, study.report.impression
    numbered = impression.split("\n")
    if len(numbered) > 1:
        impression = "\n".join(f"{i}. {line}" for i, line in enumerate(numbered, 1))
    form = str(
        rng.choice(["both", "views", "findings only", "impression only", "together"], p=[0.68, 0.10, 0.08, 0.08, 0.06])
    )
    sections = {"impression": impression, "findings": findings, "last_paragraph": "", "comparison": "None."}
    lines: list[str] = []
    if rng.random() < 0.12:
        lines += [
            f" WET READ: ___ ___ ___ {rng.integers(1, 12)}:{rng.integers(10, 59)} PM",
            *wrapped(findings.split(". ")[0].rstrip(".") + "."),
            " WET READ VERSION #1",
            " " + "_" * 78,
        ]
    lines += [
        " " * 33 + "FINAL REPORT", f" EXAMINATION:  {views}", " ",
        f" INDICATION:  ___ year old {noun} with {why}  // eval for pneumonia", " ",
        f" TECHNIQUE:  {'Portable AP chest radiograph' if portable else 'Chest PA and lateral'}", " ",
        " COMPARISON:  None.", " ",
    ]  # fmt: skip
    if form == "together":
        lines += [" FINDINGS AND IMPRESSION: ", " ", *wrapped(findings)]
        sections |= {"impression": findings, "findings": ""}  # the section parser maps this heading to impression
    else:
        if form != "impression only":
            heading = "FINDINGS" if form != "views" or len(study.views) == 1 else "CHEST, TWO VIEWS"
            lines += [f" {heading}: ", " ", *wrapped(findings), " "]
        else:
            sections["findings"] = ""
        if form != "findings only":
            lines += [" IMPRESSION: ", " ", *[w for line in impression.split("\n") for w in wrapped(line)]]
        else:
            sections["impression"] = ""
    return "\n".join(lines) + "\n", sections


def wrapped(text: str) -> list[str]:
    """Break a text into lines of a report file."""
    return [" " + line for line in textwrap.wrap(text, 78)]


def _images(study: Study, request: Request) -> Iterator[tuple[str, Phantom]]:
    for index in range(len(study.views)):
        yield dicom_id(study, index), study.image(index, request.size, square=False)


def write(request: Request) -> None:
    """Write mimic-cxr/, mimic-cxr-jpg/ and mimiciv/."""
    cxr, jpg = request.out / "mimic-cxr", request.out / "mimic-cxr-jpg"
    records: list[list[Any]] = []
    listed: list[list[Any]] = []
    metadata: list[list[Any]] = []
    split: list[list[Any]] = []
    labels: list[list[Any]] = []
    sections: list[list[Any]] = []
    people: dict[int, Study] = {}
    choices: Views = ((("PA", "LATERAL"), 0.45), (("PA",), 0.10), (("AP",), 0.38), (("AP", "AP"), 0.07))
    for study in studies(request, "mimic-cxr", views=choices, repeat=0.35, shares=(0.72, 0.10)):
        subject, number = subject_id(study, request.seed), study_id(study, request.seed)
        people.setdefault(subject, study)
        folder = f"files/p{str(subject)[:2]}/p{subject}"
        date, time = (
            f"21{study.rng.integers(10, 90)}{study.rng.integers(1, 12):02d}{study.rng.integers(1, 28):02d}",
            f"{study.rng.integers(80000, 95959)}.{study.rng.integers(100, 999)}",
        )
        text, parts = report_text(study)
        write_text(cxr / folder / f"s{number}.txt", text)
        sections.append([f"s{number}", *(parts[name] for name in SECTIONS[1:])])
        listed.append([subject, number, f"{folder}/s{number}.txt"])
        # some studies of the real table carry no label at all; every phantom has one
        labels.append([subject, number, *(_cell(study.report.labels.get(name)) for name in CHEXPERT)])
        procedure = "CHEST (PORTABLE AP)" if "AP" in study.views else "CHEST (PA AND LAT)"
        for name, phantom in _images(study, request):
            path = f"{folder}/s{number}/{name}"
            write_view(cxr / f"{path}.dcm", phantom, study, name, subject, date, procedure)
            write_image(jpg / f"{path}.jpg", phantom.grey())
            request.truth.add(jpg / f"{path}.jpg", phantom, split=study.split)
            records.append([subject, number, name, f"{path}.dcm"])
            split.append([name, number, subject, study.split])
            recumbent = phantom.view == "AP" and study.rng.random() < 0.5
            position = "Recumbent" if recumbent else "Erect"
            metadata.append(metadata_row(phantom, name, subject, number, procedure, date, time, position))
    write_csv(cxr / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"), records)
    write_csv(cxr / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"), listed)
    write_csv(cxr / "mimic_cxr_sectioned.csv", SECTIONS, sections)
    write_csv(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA, metadata)
    write_csv(jpg / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), split)
    write_csv(jpg / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *CHEXPERT), labels)
    _hospital(request.out / "mimiciv" / "hosp", people)


def _cell(value: int | None) -> str | None:
    return None if value is None else f"{value}.0"


def metadata_row(
    phantom: Phantom, name: str, subject: int, study: int, procedure: str, date: str, time: str, position: str
) -> list[Any]:
    """Return the row of an image in the table of METADATA."""
    meaning = _CODE_MEANING[phantom.view]
    return [
        name, subject, study, procedure, phantom.view, *phantom.shape, date, time, procedure, meaning, position,
    ]  # fmt: skip


def write_view(path: Path, phantom: Phantom, study: Study, name: str, subject: int, date: str, procedure: str) -> None:
    """Write an image of a study as DICOM; polarity and the spelling of laterals vary with the study's number."""
    from pydicom.dataset import Dataset

    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = (
        {"PA": "R-10214", "AP": "R-10206", "LATERAL": "R-10236"}[phantom.view],
        "SNM3",
        _CODE_MEANING[phantom.view],
    )
    write_dicom(
        path,
        phantom,
        key=name,
        modality="DX",
        inverted=study.number % 3 == 1,
        patient_id=str(subject),
        study_key=study.key,
        study_date=date,
        overrides={
            "PerformedProcedureStepDescription": procedure,
            "ViewCodeSequence": [view],
            "ViewPosition": "LATERAL"
            if phantom.view == "LATERAL" and study.number % 2
            else {"LATERAL": "LL"}.get(phantom.view, phantom.view),
        },
    )


def _hospital(root: Path, people: dict[int, Study]) -> None:
    """MIMIC-IV's tables; one patient in ten is missing from them, as in the real link."""
    patients: list[list[Any]] = []
    admissions: list[list[Any]] = []
    omr: list[list[Any]] = []
    for subject, study in sorted(people.items()):
        rng, p = generator("hospital", study.patient.key), study.patient
        if rng.random() < 0.1:
            continue
        year = int(rng.integers(2120, 2190))
        patients.append(
            [subject, p.sex, 91 if p.age > 89 else p.age, year, str(rng.choice(["2011 - 2013", "2014 - 2016"])), None]
        )
        day = f"{year}-{rng.integers(1, 12):02d}-{rng.integers(1, 26):02d}"
        admissions.append(
            [
                subject, int(rng.integers(20_000_000, 29_999_999)), f"{day} 08:00:00", f"{day} 20:00:00", None,
                "EW EMER.", "P000PH", "EMERGENCY ROOM", "HOME", "Other", "ENGLISH", None, p.ethnicity, None, None,
                0,
            ]
        )  # fmt: skip
        pounds, inches = p.weight / 0.45359237, p.height / 2.54
        omr.append([subject, day, 1, "Height (Inches)", f"{inches:.1f}"])
        omr.append([subject, day, 1, "Weight (Lbs)", f"{pounds:.1f}"])
        omr.append([subject, day, 1, "BMI (kg/m2)", f"{p.bmi:.1f}"])
    write_csv(root / "patients.csv.gz", PATIENTS, patients)
    write_csv(root / "admissions.csv.gz", ADMISSIONS, admissions)
    write_csv(root / "omr.csv.gz", OMR, omr)


LAYOUT = Layout("mimic-cxr", "MIMIC-CXR, MIMIC-CXR-JPG and the MIMIC-IV demographics", write)
