"""Drafts of others: matched by hash, path or id, never guessed, and never dropped in silence."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.imported import ImportedDraft, ImportedDrafts, summary
from app.review import MAX_SENTENCES, ReviewError
from app.store import Store
from app.without_model import WithoutModel
from encoder.reader.identity import Identity
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs import report
from metrics.base import InputError
from tests.app.reviews import act, of_batch, study_of, taken

CLEAR, LARGE = "The lungs are clear.", "The heart is large."
SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abcdef"}


def table(path: Path, rows: Any) -> Path:
    """Write CSV, JSON or JSON lines, by suffix."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            written = csv.DictWriter(file, list(rows[0]))
            written.writeheader()
            written.writerows(rows)
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            json.dump(rows, file)
    return path


def loaded(tmp_path: Path, rows: Any, name: str = "drafts.jsonl") -> ImportedDrafts:
    return ImportedDrafts.load(str(table(tmp_path / name, rows)))


def text_of(found: ImportedDraft | None) -> str | None:
    return None if found is None else found.text


def placed(drafts: ImportedDrafts, *files: str) -> dict[str, str | None]:
    """Draft of each file of a worklist, by its path."""
    drafts.place(files)
    return {file: text_of(drafts.find("0" * 64, file)) for file in files}


def generated(sha256: str, *findings: str, boxes: bool = False, impression: Sequence[str] = ()) -> dict[str, Any]:
    """A report as ``llava-rad generate -f jsonl`` writes it."""
    box = report.BoxFacts(x_min=0.1, y_min=0.2, x_max=0.3, y_max=0.4)
    of_findings = [report.Finding(text=text, boxes=[box] if boxes else None) for text in findings]
    facts = ImageFacts("dicom", 96, 96, view="PA")
    parts = {
        "model": report.ModelFacts(id="other/model", revision=None, sha256="e" * 64, demonstration=False),
        "input": report.InputFacts(
            sha256=sha256, format="dicom", view="PA", facts=facts, recipe=report.RecipeFacts(name="r", version=1)
        ),
        "images": [report.StudyImageFacts(role="frontal", sha256=sha256, view="PA")],
        "generation": report.GenerationFacts(
            max_new_tokens=9, num_beams=1, temperature=0, seed=0, prompt="x", dtype="float32"
        ),
        "warnings": ["the report was cut off after 9 tokens"],
        "software": report.SoftwareFacts(version="1"),
    }
    said = [report.Sentence(text=one) for one in impression]
    body = report.ReportBody(
        text=" ".join(findings), findings=of_findings,
        impression=report.Impression(text=" ".join(impression), sentences=said) if impression else None,
    )  # fmt: skip
    made = report.Report(report=body, **parts)
    found: dict[str, Any] = made.model_dump(mode="json")
    return found


def test_reports_of_generate_are_matched_by_hash_with_model_boxes_and_warnings(tmp_path: Path) -> None:
    both = generated(SHA["a"], CLEAR, LARGE, impression=["Normal."])
    drafts = loaded(tmp_path, [both, generated(SHA["b"], LARGE, boxes=True)])
    first, second = drafts.find(SHA["a"]), drafts.find(SHA["b"])
    assert first is not None and second is not None and drafts.find(SHA["c"]) is None
    assert first.findings == (CLEAR, LARGE) and first.boxes == ([], []) and first.impression == ("Normal.",)
    assert second.boxes[0][0]["x_max"] == 0.3
    assert first.report is not None and first.report["warnings"] == ["the report was cut off after 9 tokens"]
    assert (first.model["id"], first.model["sha256"], first.model["row"]) == ("other/model", "e" * 64, 1)


def test_texts_of_others_are_cleaned(tmp_path: Path) -> None:
    """Escape codes would steer a terminal and are none of DICOM's text."""
    bad = "\x1b[31mClear.\nIMPRESSION:\u202e x"
    made = generated(SHA["a"], CLEAR) | {"warnings": [bad]}
    made["report"]["findings"][0]["text"] = made["model"]["id"] = bad
    one = loaded(tmp_path, [made]).drafts[1]
    assert one.findings == ("[31mClear. IMPRESSION: x",) and one.model["id"] == one.findings[0]
    assert one.report is not None and one.report["warnings"] == list(one.findings)
    other = loaded(tmp_path, [{"sha256": SHA["b"], "prediction": bad}], "plain.jsonl").drafts[1]
    assert other.findings == ("[31mClear.", "IMPRESSION: x")


def test_rexrank_predictions_are_matched_by_path(tmp_path: Path) -> None:
    rows = {
        "CXR1": {"key_image_path": "CXR1/1.png", "image_path": ["CXR1/0.png", "CXR1/1.png"],
                 "section_findings": "the reference", "section_impression": "the reference",
                 "model_prediction": f"Findings:{CLEAR}Impression:No acute disease."},
        "CXR2": {"key_image_path": "CXR2/1.png", "image_path": ["CXR2/1.png"], "section_findings": "the reference",
                 "section_impression": "the reference", "model_prediction": LARGE},
    }  # fmt: skip
    drafts = loaded(tmp_path, rows, "model.json")
    found = placed(drafts, "CXR1/0.dcm", "CXR1/1.dcm", "CXR2/1.png", "CXR3/1.png")
    assert found == {
        "CXR1/0.dcm": f"{CLEAR} No acute disease.", "CXR1/1.dcm": f"{CLEAR} No acute disease.", "CXR2/1.png": LARGE,
        "CXR3/1.png": None,
    }  # fmt: skip
    draft = drafts.drafts[1]
    assert (draft.findings, draft.impression) == ((CLEAR,), ("No acute disease.",))
    assert (drafts.name, draft.model["id"], draft.model["sha256"]) == ("model", "model", drafts.sha256)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("image", ["a.png", "b.dcm"]),
        ("image", ["/mnt/elsewhere/set/a.png", "C:\\scans\\set\\b.png"]),
        ("path", ["set/a", "./set/b"]),
        ("dicom_id", ["a", "b"]),
        ("sha256", [SHA["a"].upper(), SHA["b"]]),
    ],
)
def test_rows_name_their_image_in_several_ways(tmp_path: Path, column: str, values: list[str]) -> None:
    rows = [{column: value, "prediction": text} for value, text in zip(values, (CLEAR, LARGE), strict=True)]
    drafts = loaded(tmp_path, rows, "theirs.csv")
    drafts.place(["/here/set/a.dcm", "/here/set/b.dcm", "/here/set/c.dcm"], Path("/here"))
    found = [text_of(drafts.find(SHA[name], f"/here/set/{name}.dcm")) for name in "abc"]
    assert found == [CLEAR, LARGE, None]


def test_rows_name_studies_by_folder_or_header(tmp_path: Path) -> None:
    rows = [
        {"study_id": 50414267, "report": CLEAR},
        {"study_id": "1.2.840.9", "report": LARGE},
        {"study_id": "ACC7", "report": "Third."},
    ]
    drafts = loaded(tmp_path, rows)
    assert placed(drafts, "p10/p1/s50414267/x.dcm", "p10/p1/s50414268/x.dcm") == {
        "p10/p1/s50414267/x.dcm": CLEAR,
        "p10/p1/s50414268/x.dcm": None,
    }

    def of(study: str, **attributes: str) -> str | None:
        return text_of(drafts.find("0" * 64, None, Identity(study, "1.1", "1.1.1", "1.2", attributes)))

    assert (of("1.2.840.9"), of("1.3", AccessionNumber="ACC7"), of("1.3", PatientID="ACC7")) == (LARGE, "Third.", None)


def test_a_name_in_several_folders_is_not_guessed(tmp_path: Path) -> None:
    drafts = loaded(tmp_path, [{"image": "1.png", "text": CLEAR}, {"image": "p2/2.png", "text": LARGE}])
    found = placed(drafts, "p1/1.png", "p2/1.png", "p1/2.png", "p2/2.png")
    assert found == {"p1/1.png": None, "p2/1.png": None, "p1/2.png": None, "p2/2.png": LARGE}
    assert drafts.unused({2}) == [{"row": 1, "reason": "it fits files of several folders"}]


def test_several_rows_of_one_image_are_not_used(tmp_path: Path) -> None:
    rows = [
        {"image": "p1/1.png", "text": CLEAR},
        {"image": "p2/1.png", "text": LARGE},
        {"image": "3.png", "text": "x."},
    ]
    drafts = loaded(tmp_path, rows)
    assert placed(drafts, "1.png", "3.png", "4.png") == {"1.png": None, "3.png": "x.", "4.png": None}
    unused = drafts.unused({3})
    assert [one["row"] for one in unused] == [1, 2]
    assert (
        summary(unused, 3) == "1 of 3 drafts belong to studies; not used (several rows fit the same image: rows 1, 2)"
    )
    assert summary([], 3) == "3 of 3 drafts belong to studies"


def test_two_drafts_of_one_image_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = [
        {"id": "QCANARYQ", "prediction": CLEAR},
        {"id": "y", "prediction": "x"},
        {"id": "QCANARYQ", "prediction": LARGE},
    ]
    with pytest.raises(InputError, match="rows 1 and 3 are different drafts of the same image") as raised:
        loaded(tmp_path, rows)
    assert "QCANARYQ" not in str(raised.value)
    same = loaded(tmp_path, [rows[0], rows[1], rows[0]])
    assert list(same.drafts) == [1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "prediction": "x", "generated": "y"}], "several columns of texts: prediction, generated"),
        ([{"id": "a", "words": "x"}], "has no field"),
        ([{"prediction": "x"}], "row 1: it names no image"),
        ([{"id": "a", "prediction": "x"}, {"id": "", "prediction": "y"}], "row 2: it names no image"),
        ([{"id": "a", "prediction": ["x"]}, {"id": "b", "prediction": "y"}], "row 1: no text in prediction"),
        ([{"id": "a", "prediction": "Clear. " * 300}], f"at most {MAX_SENTENCES} sentences"),
        ([{"id": "a", "prediction": "y" * 5000}], "at most"),
        ([{"id": "a", "prediction": "Clear. \ud800"}], "half of a character"),
        ([{"schema": "llava-rad.report/1", "report": {"text": "x"}, "id": "a"}], "no report of 'llava-rad generate'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        loaded(tmp_path, rows)
    assert message in str(raised.value)


def test_sections_and_columns_of_impressions_are_kept_apart(tmp_path: Path) -> None:
    drafts = loaded(
        tmp_path,
        [
            {
                "id": "a",
                "findings": f"INDICATION: Cough. FINDINGS: {CLEAR} {LARGE} RECOMMENDATIONS: CT.",
                "impression": "",
            },
            {"id": "b", "findings": CLEAR, "impression": "Normal.\x1b[2J"},
            {"id": "c", "findings": "", "impression": ""},
        ],
    )
    assert [(one.findings, one.impression) for one in drafts.drafts.values()] == [
        ((CLEAR, LARGE), ("Recommendations: CT.",)), ((CLEAR,), ("Normal.[2J",)), ((), ()),
    ]  # fmt: skip


def test_a_name_can_be_given(tmp_path: Path) -> None:
    file = table(tmp_path / "x.csv", [{"id": "a", "prediction": "x"}])
    assert ImportedDrafts.load(f"Dr. A={file}").name == "Dr. A"
    assert ImportedDrafts.load(str(file)).name == "x"
    with pytest.raises(InputError):
        ImportedDrafts.load(str(tmp_path / "none.csv"))


def of_others(row: int = 1, *findings: str, impression: tuple[str, ...] = ()) -> ImportedDraft:
    model = {"id": "dr-a", "revision": None, "sha256": "f" * 64, "demonstration": False, "table": "f" * 64, "row": row}
    return ImportedDraft(row, findings, impression, model)


def created(store: Store, draft: ImportedDraft | None, sha256: str = "c" * 64) -> str:
    return store.create(
        "ann", name=None, sha256=sha256, facts=ImageFacts("dicom", 4, 4, view="PA").to_dict(), warnings=[],
        image={"id": "i"}, draft=draft,
    )  # fmt: skip


def test_a_study_begins_with_its_draft_and_is_reviewed_and_signed(store: Store) -> None:
    study = created(store, of_others(7, CLEAR, LARGE, impression=("Normal.",)))
    state = store.state("ann", study)
    assert [(one["text"], one["section"], one["state"]) for one in state["sentences"]] == [
        (CLEAR, "findings", "undecided"), (LARGE, "findings", "undecided"), ("Normal.", "impression", "undecided"),
    ]  # fmt: skip
    assert state["status"] == "draft" and state["draft"]["model"]["row"] == 7 and not state["can_undo"]
    act(store, study, "edit", sentence="s1", text="The lungs are well aerated.")
    act(store, study, "accept_rest")
    act(store, study, "sign")
    (signed,) = store.signed("ann")
    assert signed["model"] == f"dr-a@{'f' * 64}" and "well aerated" in signed["text"]
    assert store.jobs.imported("f" * 64) == {7} and store.jobs.imported("0" * 64) == set()


def test_a_study_keeps_its_first_draft(store: Store) -> None:
    study = created(store, None)
    assert store.give("ann", study, of_others(1, CLEAR))
    assert store.give("ann", study, of_others(1, CLEAR)), "another image of the same row"
    assert not store.give("ann", study, of_others(2, LARGE))
    assert [one["text"] for one in store.state("ann", study)["sentences"]] == [CLEAR]
    decided = created(store, None)
    act(store, decided, "add", text=LARGE)
    assert not store.give("ann", decided, of_others(3, CLEAR))


def test_without_a_model_requests_for_drafts_are_removed(store: Store) -> None:
    study, batch = study_of(store), store.batches.create("ann", 1)
    store.jobs.add("ann", study)
    taken(store)
    other = study_of(store)
    store.jobs.add("ann", other)
    writer = WithoutModel(store)
    assert store.state("ann", study)["draft"] is None and store.state("ann", other)["draft"] is None
    of_batch(store, batch, 1)
    writer.wake()
    (progress,) = store.batches.progress("ann")
    assert (progress["read"], progress["waiting"], store.jobs.next()) == (1, 0, None)
    act(store, study, "add", text=CLEAR)
    act(store, study, "sign")
    assert store.state("ann", study)["status"] == "signed"
    assert (writer.status(), writer.imported(), writer.summary()) == ({"state": "none", "takes": []}, None, "")
    for refused in (lambda: writer.queue("ann", other), lambda: writer.evidence("ann", other, sentence="s1")):
        with pytest.raises(ReviewError, match="there is no model"):
            refused()


def test_documents_of_a_study_with_anothers_draft_name_its_writer(store: Store) -> None:
    from app import exports

    study = created(store, of_others(1, CLEAR, LARGE), sha256=SHA["a"])
    act(store, study, "reject", sentence="s2")
    act(store, study, "accept", sentence="s1")
    act(store, study, "sign")
    state = store.state("ann", study)
    document = exports.document(state)
    assert (document.model_name, document.sentences, document.report.input.sha256) == ("dr-a", (CLEAR,), SHA["a"])
    assert exports.report_json(state)["draft"] is None, "what is not known is in no export"
    assert f"Draft by: dr-a, sha256 {'f' * 64}" in exports.report_text(state)
    written = created(store, None)
    act(store, written, "add", text=CLEAR)
    with pytest.raises(ReviewError, match="has no draft"):
        exports.document(store.state("ann", written))
