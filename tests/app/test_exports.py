"""Exports carry the notice, are complete, and contain no spreadsheet formulas."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest

from app import exports, notices, research_set
from app.images import ImageFolder
from app.review import ReviewError
from app.store import Store
from encoder.reader.identity import Identity
from llava_rad.outputs.compose import UNFAMILIAR
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import NOTICE
from llava_rad.outputs.sr import to_sr
from tests.app.reviews import MODEL, act, drafted, study_of, taken
from tests.llava_rad.outputs.reports import LATERAL, OLD_WITH_BOXES, study_report
from tests.llava_rad.outputs.reports import report as written


def signed(store: Store) -> str:
    study = drafted(store, "One.", "Two.")
    act(store, study, "field", field="indication", text="Cough.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "edit", sentence="s2", text="=HYPERLINK(1)")
    act(store, study, "sign")
    return study


def test_text_names_signer_and_model(store: Store) -> None:
    study = signed(store)
    text = exports.report_text(store.state("ann", study))
    assert text.startswith(NOTICE) and "INDICATION:\nCough." in text and "FINDINGS:\nOne. =HYPERLINK(1)" in text
    assert "Signed by ann at 20" in text and "Draft by: small" in text
    assert text.index("WARNINGS:\n- look\n") < text.index("FINDINGS:"), "above the draft"
    act(store, study, "reopen")
    state = act(store, study, "reject", sentence="s2")
    now = exports.report_text(state)
    assert exports.NOT_SIGNED in now and "FINDINGS:\nOne.\n" in now and NOTICE in now
    assert "One. =HYPERLINK(1)" in exports.report_text(state, 1)
    with pytest.raises(ReviewError, match="no signed report of that version"):
        exports.report_text(state, 2)
    with pytest.raises(ReviewError, match="no report yet"):
        exports.report_text(store.state("ann", study_of(store)))


def test_a_signed_version_is_exported_as_it_was_signed(store: Store) -> None:
    study = signed(store)
    before = exports.report_text(store.state("ann", study)), exports.report_json(store.state("ann", study))
    assert before[1]["draft"] == {"a": 1}
    act(store, study, "reopen")
    act(store, study, "field", field="indication", text="Trauma.")
    store.jobs.add("ann", study, replace=True)
    job = store.jobs.next()
    assert job is not None
    store.jobs.finish(job, "done", text="B.", sentences=["B."], report={"b": 2}, model=MODEL | {"id": "other"})
    act(store, study, "reject", sentence="s1")
    state = act(store, study, "add", text="Own.", after=None)
    assert exports.report_text(state, 1) == before[0]
    after = exports.report_json(state, 1)
    for key in ("status", "signed", "fields", "text", "sentences", "draft", "ai_generated", "notices", "corrections"):
        assert after[key] == before[1][key], key
    now = exports.report_text(state)
    assert "Trauma." in now and "Draft by: other" in now and exports.report_json(state)["draft"] == {"b": 2}


def drafted_by_a_model(store: Store, warnings: Sequence[str] = (UNFAMILIAR, "look")) -> str:
    study = study_of(store)
    store.jobs.add("ann", study)
    report = written("c" * 64, "A nodule.", "No effusion.", "No edema.").model_copy(update={"warnings": list(warnings)})
    store.jobs.finish(
        taken(store), "done", text=report.text, sentences=["A nodule.", "No effusion.", "No edema."],
        report=report.model_dump(mode="json"), model=MODEL,
    )  # fmt: skip
    return study


def everywhere(store: Store, study: str) -> tuple[str, set[str]]:
    """Text and warnings of a study, which must be the same in all exports."""
    state = store.state("ann", study)
    text, record = exports.report_text(state), exports.report_json(state)
    whole, warnings = record["text"], [notices.line(one) for one in record["notices"]]
    findings, _, impression = whole.partition("\n\n")
    assert f"FINDINGS:\n{findings}\n" in text and (f"IMPRESSION:\n{impression}\n" in text) == bool(impression)
    assert "WARNINGS:\n" + "".join(f"- {warning}\n" for warning in warnings) in text
    lines = [json.loads(line) for line in exports.jsonl(store, "ann")]
    (same,) = [line for line in lines if line["study"]["id"] == study]
    assert {key: same[key] for key in record} == record
    rows = [row for row in csv.DictReader(io.StringIO("".join(exports.csv(store, "ann")))) if row["study"] == study]
    kept = [row for row in rows if row["state"] != "rejected"]
    by_section = (" ".join(row["text"] for row in kept if row["section"] == one) for one in ("findings", "impression"))
    assert "\n\n".join(filter(None, by_section)) == whole
    assert {row["warnings"] for row in rows} == {"; ".join(warnings)}
    document = exports.document(state)
    assert (document.text, document.warnings) == (whole, warnings)
    bundle = to_fhir(document)
    shown = base64.b64decode(bundle["entry"][0]["resource"]["presentedForm"][0]["data"]).decode()
    assert bundle["entry"][0]["resource"]["conclusion"] == whole and all(f"- {one}\n" in shown for one in warnings)
    report = pydicom.dcmread(io.BytesIO(to_sr(document).report))
    said = [str(one.value) for one in report.iterall() if one.keyword == "TextValue"]
    assert [one for one in said if one in {row["text"] for row in rows}] == [row["text"] for row in kept]
    assert set(warnings) <= set(said)
    for name in ("indication", "technique", "comparison"):
        if above := state["fields"][name]:
            assert f"{name.upper()}:\n{above}\n" in text and f"{name.upper()}:\n{above}\n" in shown and above in said
    assert (report.VerificationFlag == "VERIFIED") == (state["status"] == "signed")
    return whole, set(warnings)


def test_a_signed_version_keeps_its_images(store: Store) -> None:
    """One SOP Instance UID has one content, whatever happens to the study after it is reopened."""

    def part(name: str, sha256: str) -> dict[str, Any]:
        image = {"id": name, "width": 400, "height": 400, "presets": [], "padded": False, "spacing": None}
        identity = Identity(
            "1.2.1", "1.2.2", f"1.2.{int(sha256[:1], 16)}", "1.2.840.10008.5.1.4.1.1.1", {"PatientID": "P7"}
        )
        facts = {"format": "png", "rows": 400, "columns": 400, "view": "PA"}
        return {"image": image | {"identity": identity.to_dict()}, "facts": facts, "warnings": [], "sha256": sha256}

    study = store.create("ann", name=None, **part("i1", "c" * 64))
    store.jobs.add("ann", study)
    report = written("c" * 64, "Clear.").model_dump(mode="json")
    store.jobs.finish(taken(store), "done", text="Clear.", sentences=["Clear."], report=report, model=MODEL)
    store.add_image("ann", study, part("f1", "d" * 64), lateral=False)
    act(store, study, "measure", kind="length", image="f1", points=[[10, 10], [100, 10]])
    act(store, study, "accept_rest")
    act(store, study, "sign")
    before = to_sr(exports.document(store.state("ann", study), 1)).report
    text = exports.report_text(store.state("ann", study), 1)
    assert b"90.0" in before or "90.0 px" in text
    state = act(store, study, "reopen")
    store.remove_further("ann", study, "f1", revision=state["revision"])
    act(store, study, "field", field="indication", text="Later.")
    state = store.state("ann", study)
    assert to_sr(exports.document(state, 1)).report == before and exports.report_text(state, 1) == text
    assert "P7" not in json.dumps([exports.report_json(state, 1), *exports.jsonl(store, "ann")])


def test_a_research_set_leaves_out_images_that_are_gone(store: Store, tmp_path: Path) -> None:
    images = ImageFolder(tmp_path / "images")
    gone, kept = signed(store), signed(store)
    (tmp_path / "images" / "kept.u16").write_bytes(bytes(2 * 4 * 4))
    with store._database.write() as connection:
        description = json.dumps({"id": "kept", "width": 4, "height": 4})
        connection.execute("UPDATE studies SET image = ? WHERE id = ?", (description, kept))
    assert research_set.write(store, images, "ann", tmp_path / "set.zip") == 2
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        records = [json.loads(line) for line in archive.read("reports.jsonl").splitlines()]
        assert [one["image"] for one in records] == [None, f"images/{kept}.png"] and gone not in str(archive.namelist())
        assert len(archive.read("labels.csv").splitlines()) == 2
        assert b"1 of them without image" in archive.read("README.txt")


def test_all_exports_of_all_states_hold_the_same_text_and_warnings(store: Store) -> None:
    study = drafted_by_a_model(store)
    loud = {UNFAMILIAR, "look", notices.DEMONSTRATION}
    assert everywhere(store, study) == ("A nodule. No effusion. No edema.", loud)
    act(store, study, "reject", sentence="s1")
    act(store, study, "edit", sentence="s2", text="Large effus", done=False)
    assert everywhere(store, study) == ("Large effus No edema.", loud)
    act(store, study, "edit", sentence="s2", text="Large effusion.")
    act(store, study, "field", field="indication", text="Trauma.")
    act(store, study, "field", field="comparison", text="2 May.")
    act(store, study, "accept", sentence="s3")
    act(store, study, "add", text="Effusion.", section="impression")
    signed_text = "Large effusion. No edema.\n\nEffusion."
    assert everywhere(store, study)[0] == signed_text
    act(store, study, "sign")
    assert everywhere(store, study) == (signed_text, loud)
    act(store, study, "reopen")
    assert everywhere(store, study) == (signed_text, loud)
    act(store, study, "reject", sentence="s3")
    assert everywhere(store, study)[0] == "Large effusion.\n\nEffusion."
    mirrored = {"sha256": "f" * 64, "warnings": ["the image was mirrored"], "image": {"id": "p"}}
    store.set_context("ann", study, "prior", mirrored)
    assert everywhere(store, study)[1] == loud | {"Prior: the image was mirrored"}
    old = exports.document(store.state("ann", study), 1)
    assert (old.text, set(old.warnings)) == (signed_text, loud), "the version as it was signed"
    act(store, study, "discard")
    assert everywhere(store, study)[0] == "Large effusion.\n\nEffusion."


def test_warnings_of_a_draft_go_and_come_with_it(store: Store) -> None:
    study = drafted_by_a_model(store)
    act(store, study, "accept", sentence="s1")
    store.jobs.add("ann", study, replace=True)
    known = written("c" * 64, "Clear.")
    report = known.model_dump(mode="json")
    store.jobs.finish(taken(store), "done", text="Clear.", sentences=["Clear."], report=report, model=MODEL)
    assert everywhere(store, study) == ("Clear.", {"look", notices.DEMONSTRATION})
    act(store, study, "undo")
    assert everywhere(store, study)[1] == {UNFAMILIAR, "look", notices.DEMONSTRATION}


def test_corrected_labels_and_errors_are_exported(store: Store) -> None:
    study = drafted_by_a_model(store)
    act(store, study, "edit", sentence="s2", text="Effusion.")
    act(store, study, "annotate", sentence="s2", category="missed_finding", significance="urgent")
    act(store, study, "label", finding="Fracture", value="positive")
    for sentence in ("s1", "s3"):
        act(store, study, "accept", sentence=sentence)
    state = act(store, study, "sign")
    record = exports.report_json(state)
    assert record["corrections"] == {"Fracture": "positive"}
    assert record["sentences"][1]["error"] == {"category": "missed_finding", "significance": "urgent"}
    assert exports.document(state).findings["Fracture"] == "positive"
    rows = list(csv.DictReader(io.StringIO("".join(exports.csv(store, "ann")))))
    assert [(row["error_category"], row["error_significance"]) for row in rows] == [
        ("", ""), ("missed_finding", "urgent"), ("", ""),
    ]  # fmt: skip
    assert {row["corrections"] for row in rows} == {"Fracture: positive"}


def test_the_table_has_the_time_of_all_versions(store: Store) -> None:
    study = drafted(store, "One.")
    act(store, study, "accept", sentence="s1", seconds=100)
    act(store, study, "sign")
    act(store, study, "reopen")
    act(store, study, "edit", sentence="s1", text="Mine.", seconds=5)
    act(store, study, "sign")
    (row,) = csv.DictReader(io.StringIO("".join(exports.csv(store, "ann"))))
    assert float(row["seconds"]) == 105


def test_the_model_of_a_draft_is_named_after_another_draft_was_stopped(store: Store) -> None:
    study = drafted(store, "One.")
    store.jobs.add("ann", study)
    store.jobs.stop("ann", study)
    assert "Draft by: small" in exports.report_text(store.state("ann", study))
    own = study_of(store)
    assert "Without a draft" in exports.report_text(act(store, own, "add", text="Mine.", after=None))


def test_json_has_the_draft_and_every_decision(store: Store) -> None:
    record = exports.report_json(store.state("ann", signed(store)))
    assert (record["schema"], record["ai_generated"], record["notice"]) == ("llava-rad.review/1", True, NOTICE)
    assert [(one["draft"], one["state"]) for one in record["sentences"]] == [("One.", "accepted"), ("Two.", "edited")]
    assert record["signed"]["by"] == "ann" and record["draft"] == {"a": 1}
    own = study_of(store)
    act(store, own, "add", text="By hand.", after=None)
    assert exports.report_json(store.state("ann", own))["ai_generated"] is False


def test_jsonl_has_all_studies_with_their_events(store: Store) -> None:
    study, other = signed(store), study_of(store)
    drafted(store, "Not ann's.", owner="bob")
    records = [json.loads(line) for line in exports.jsonl(store, "ann")]
    assert [record["study"]["id"] for record in records] == [study, other]
    assert [one["action"] for one in records[0]["events"]] == ["open", "drafted", "field", "accept", "edit", "sign"]
    assert records[0]["versions"][0]["text"] == "One. =HYPERLINK(1)" and records[1]["versions"] == []
    assert all(record["notice"] == NOTICE for record in records)


@pytest.mark.parametrize("first", "=+-@\t\r", ids=["equals", "plus", "minus", "at", "tab", "return"])
def test_csv_cells_are_never_formulas(first: str) -> None:  # OWASP's list of first characters
    cells = [f"{first}1+1", f"x{first}1", 1.5, None]
    (read,) = csv.reader(io.StringIO(exports.csv_row(cells), newline=""))
    assert read == [f"'{first}1+1", f"x{first}1", "1.5", ""]


def test_csv_has_one_row_per_sentence_and_no_formulas(store: Store) -> None:
    study = signed(store)
    rows = list(csv.DictReader(io.StringIO("".join(exports.csv(store, "ann")))))
    assert [(row["study"], row["sentence"], row["state"]) for row in rows] == [
        (study, "s1", "accepted"), (study, "s2", "edited"),
    ]  # fmt: skip
    assert rows[1]["text"] == "'=HYPERLINK(1)" and rows[1]["draft"] == "Two."
    assert {row["reviewer"] for row in rows} == {"ann"} and {row["notice"] for row in rows} == {NOTICE}


def drafted_of_a_study(store: Store) -> str:
    """Create a study with a draft from three images, with boxes and an impression."""
    study = study_of(store, sha256="a" * 64)
    store.set_context("ann", study, "lateral", {"sha256": LATERAL, "warnings": [], "facts": {}, "image": {"id": "l"}})
    store.jobs.add("ann", study)
    report = study_report()
    store.jobs.finish(
        taken(store), "done", text=report.shown, sentences=["There is a nodule.", "No effusion."],
        impression=["No acute disease.", "Follow up."],
        boxes=[[{"x_min": 0.25, "y_min": 0.5, "x_max": 0.75, "y_max": 1.0}], []],
        report=report.model_dump(mode="json"), model=MODEL,
    )  # fmt: skip
    return study


def test_a_draft_with_an_impression_is_the_same_in_all_exports(store: Store) -> None:
    study = drafted_of_a_study(store)
    text = "There is a nodule. No effusion.\n\nNo acute disease. Follow up."
    assert store.state("ann", study)["draft"]["text"] == study_report().shown
    assert everywhere(store, study)[0] == text
    document = exports.document(store.state("ann", study))
    assert [one.role for one in document.images] == ["frontal", "lateral", "prior"]
    assert document.images[0].identity.study_uid == document.images[1].identity.study_uid, "derived: none is known"
    assert [len(document.regions(number)) for number in (0, 1)] == [1, 0]
    act(store, study, "reject", sentence="s4")
    act(store, study, "edit", sentence="s1", text="There is no nodule.")
    state = act(store, study, "accept_rest")
    assert everywhere(store, study)[0] == "There is no nodule. No effusion.\n\nNo acute disease."
    assert exports.document(state).regions(0) == [], "the box locates what the draft said"
    act(store, study, "sign")
    assert exports.document(store.state("ann", study)).impression == ("No acute disease.",)


def test_the_research_set_does_not_refer_to_other_images(store: Store) -> None:
    study = drafted_of_a_study(store)
    act(store, study, "accept_rest")
    state = act(store, study, "sign")
    state["image"] |= {"width": 8, "height": 6}
    found = pydicom.dcmread(io.BytesIO(research_set.structured_report(state, study)))
    (evidence,) = found.CurrentRequestedProcedureEvidenceSequence
    assert len(evidence.ReferencedSeriesSequence) == 1 and "PertinentOtherEvidenceSequence" not in found
    (region,) = [one for one in found.iterall() if one.keyword == "GraphicData"]
    assert list(region.value) == [2.0, 3.0, 6.0, 3.0, 6.0, 6.0, 2.0, 6.0, 2.0, 3.0], "in pixels of the new image"


def test_drafts_of_earlier_versions_become_documents(store: Store) -> None:
    study = study_of(store, sha256="a" * 64)
    store.jobs.add("ann", study)
    box = OLD_WITH_BOXES["report"]["findings"][0]["boxes"]
    store.jobs.finish(
        taken(store), "done", text="Clear. Normal.", sentences=["Clear.", "Normal."], boxes=[box, []],
        report=OLD_WITH_BOXES, model=MODEL,
    )  # fmt: skip
    document = exports.document(store.state("ann", study))
    assert document.text == "Clear. Normal." and document.images[0].sha256 == "a" * 64
    assert document.regions(0) == [((12.0, 32.0), (36.0, 32.0), (36.0, 64.0), (12.0, 64.0), (12.0, 32.0))]
