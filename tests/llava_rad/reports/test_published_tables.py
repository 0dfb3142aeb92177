"""Published tables of reports, by hand in their published forms."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from encoder.datasets.tables import read_records
from encoder.errors import LlavaRadError
from llava_rad.benchmark.tables import read_annotations, read_table
from llava_rad.reports.pairs import read_pairs
from llava_rad.reports.sections import findings_part
from metrics.base import InputError

# the fields of rajpurkarlab/ReXrank's data/*.json and example_files/prediction.json
REXRANK = {
    "CXR1": {
        "key_image_path": "CXR1/1.png", "image_path": ["CXR1/0.png", "CXR1/1.png"],
        "frontal_lateral": ["Lateral", "Frontal"], "split": "test", "context": "Indication: cough Comparison: None.",
        "report": "Findings: Clear. Impression: Normal.", "section_findings": "Clear.", "section_impression": "Normal.",
        "model_prediction": "Findings:Lungs are clear.Impression:No acute disease.",
    },
    "CXR2": {
        "key_image_path": "CXR2/0.png", "image_path": ["CXR2/0.png"], "frontal_lateral": ["Frontal", "Lateral"],
        "split": "test", "report": "Findings: Big heart. Impression: x", "section_findings": "Big heart.",
        "section_impression": "x", "model_prediction": "Findings: Heart is large. Impression: Cardiomegaly.",
    },
}  # fmt: skip
R2GEN = {
    "train": [{"id": "a", "report": "one", "image_path": ["a/0.png", "a/1.png"], "split": "train"}],
    "val": [],
    "test": [{"id": "b", "report": "two", "image_path": ["b/0.png", "b/1.png"], "split": "test"}],
}
# physionet.org/content/llava-rad-mimic-cxr-annotation: NaN in the labels, one question and one answer
LLAVA_RAD = """[{"id": "10003502_50084553", "image": "mimic/p10/p10003502/s50084553/70d7e600.jpg",
"generate_method": "rule-based", "reason": "dyspnea", "impression": null, "indication": null, "history": null,
"view": "AP", "orientation": "Erect", "chexpert_labels": {"Edema": 1.0, "Fracture": NaN},
"conversations": [{"from": "human", "value": "<image>\\nDescribe the findings of the chest x-ray.\\n"},
{"from": "gpt", "value": "Large effusions."}]}]"""
CHEXPERT_PLUS = """path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,report,section_findings,\
section_impression,age,sex,race,split
train/patient00001/study2/view1_frontal.jpg,x.dcm,Frontal,PA,p1,NARRATIVE: x,Clear lungs.,Normal.,61,Female,White,train
train/patient00001/study2/view2_lateral.jpg,x.dcm,Lateral,LL,p1,NARRATIVE: x,Clear lungs.,Normal.,61,Female,White,train
train/patient00002/study1/view1_frontal.jpg,y.dcm,Frontal,AP,p2,NARRATIVE: y,,Stable.,70,Male,Asian,train
"""
REXGRADIENT = {
    "pA_s1": {
        "PatientID": "A", "StudyInstanceUid": "1.2", "PatientSex": "F", "PatientAge": "061Y", "Findings": "Clear.",
        "Impression": "Normal.", "ImagePath": ["../deid_png/A/1.png", "../deid_png/A/2.png"],
        "ImageViewPosition": ["PA", "LATERAL"],
    },
    "pB_s1": {
        "PatientID": "B", "StudyInstanceUid": "1.3", "PatientSex": "M", "PatientAge": "070Y", "Findings": None,
        "Impression": "x", "ImagePath": ["../deid_png/B/1.png"], "ImageViewPosition": ["AP"],
    },
}  # fmt: skip


def saved(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def test_rexrank_gives_predictions_references_and_key_images(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.json", REXRANK)
    predictions, references = read_table(file, "prediction"), read_table(file, "reference")
    assert predictions.texts == {"CXR1": "Lungs are clear.", "CXR2": "Heart is large."}
    assert references.texts == {"CXR1": "Clear.", "CXR2": "Big heart."}
    assert (predictions.text_field, references.text_field) == ("model_prediction", "section_findings")
    assert (predictions.sectioned, references.sectioned) == (2, 0)
    pairs = read_pairs(file)
    assert [(p.id, p.row.path, p.row.view, p.findings) for p in pairs] == [
        ("CXR1", tmp_path / "CXR1" / "1.png", "frontal", "Clear."),
        ("CXR2", tmp_path / "CXR2" / "0.png", "unknown", "Big heart."),  # its list of views has another length
    ]


def test_predictions_of_rexranks_example_have_other_names_of_findings(tmp_path: Path) -> None:
    row = {"dicom_id": ["x"], "findings": "Clear.", "subject_id": 1, "model_prediction": "Findings:A b.Impression:C."}
    file = saved(tmp_path / "a.json", {"50051329": row})
    assert read_table(file, "prediction").texts == {"50051329": "A b."}
    assert read_table(file, "reference").texts == {"50051329": "Clear."}


def test_r2gen_is_read_by_split_and_asks_for_one_of_two_images(tmp_path: Path) -> None:
    file = saved(tmp_path / "annotation.json", R2GEN)
    assert read_table(file, "reference").texts == {"a": "one", "b": "two"}
    assert read_table(file, "reference", split="test").texts == {"b": "two"}
    with pytest.raises(InputError, match="no row of the split val"):
        read_table(file, "reference", split="val")
    with pytest.raises(LlavaRadError, match="names no image") as error:
        read_pairs(file)
    assert error.value.hint is not None and "'image_path.0', 'image_path.1'" in error.value.hint
    pairs = read_pairs(file, {"image": ["image_path.1"]})
    assert [(p.id, p.row.path.name, p.row.split) for p in pairs] == [("a", "1.png", "train"), ("b", "1.png", "test")]


def test_r2gens_mimic_names_one_image(tmp_path: Path) -> None:
    rows = [{"id": "d1", "study_id": 5, "subject_id": 1, "report": "x", "image_path": ["p10/d1.jpg"], "split": "test"}]
    (pair,) = read_pairs(saved(tmp_path / "annotation.json", {"train": [], "val": [], "test": rows}))
    assert (pair.id, pair.row.path.name, pair.row.subject, pair.row.study) == ("d1", "d1.jpg", "1", "5")


def test_llava_rads_answer_is_the_findings(tmp_path: Path) -> None:
    file = saved(tmp_path / "chat_test.json", LLAVA_RAD)
    assert read_table(file, "reference").texts == {"10003502_50084553": "Large effusions."}
    (pair,) = read_pairs(file)
    assert (pair.findings, pair.row.subject, pair.row.study, pair.row.view) == (
        "Large effusions.", "10003502", "50084553", "AP",
    )  # fmt: skip
    more = json.loads(LLAVA_RAD)
    more[0]["conversations"] *= 2
    with pytest.raises(InputError, match=r"row 1: conversations is not one question and one answer"):
        read_table(saved(file, more), "reference")


def test_chexpert_plus_rows_without_findings_are_left_out_and_counted(tmp_path: Path) -> None:
    said: list[str] = []
    pairs = read_pairs(saved(tmp_path / "df_chexpert_plus_240401.csv", CHEXPERT_PLUS), say=said.append)
    assert [(p.row.view, p.row.subject, p.row.study, p.row.attributes["sex"]) for p in pairs] == [
        ("PA", "p1", "patient00001/study2", "F"),
        ("lateral", "p1", "patient00001/study2", "F"),
    ]
    assert {p.findings for p in pairs} == {"Clear lungs."}
    assert "1 of 3 rows have no Findings and are left out" in said
    named = read_pairs(tmp_path / "df_chexpert_plus_240401.csv", {"findings": ["section_impression"]})
    assert [p.findings for p in named] == ["Normal.", "Normal.", "Stable."]


def test_rexgradient_gives_an_image_a_row(tmp_path: Path) -> None:
    file = saved(tmp_path / "metadata" / "test_metadata.json", REXGRADIENT)
    pairs = read_pairs(file)
    assert [(p.row.path, p.row.view, p.row.subject, p.row.study, p.row.attributes["age"]) for p in pairs] == [
        (tmp_path / "deid_png" / "A" / "1.png", "PA", "A", "1.2", "61"),
        (tmp_path / "deid_png" / "A" / "2.png", "lateral", "A", "1.2", "61"),
    ]
    with pytest.raises(InputError, match="no text in Findings for 1 id: row 2"):
        read_table(file, "reference")


def test_radgraphs_files_are_annotations_by_study(tmp_path: Path) -> None:
    entities = {"1": {"tokens": "clear", "label": "OBS-DP", "start_ix": 0, "end_ix": 0, "relations": []}}
    graph = {"text": "clear", "entities": entities, "data_source": None, "data_split": "inference"}
    file = saved(tmp_path / "MIMIC-CXR_graphs.json", {"p10/p10659857/s59206984.txt": graph})
    (row,) = read_annotations(file)
    assert (row["id"], row["radgraph"]["entities"]) == ("59206984", entities)
    twice = {"text": "clear", "labeler_1": {"entities": entities}, "labeler_2": {"entities": entities}}
    with pytest.raises(InputError, match="several annotators"):
        read_annotations(saved(tmp_path / "test.json", {"a": twice}))


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    """CheXpert Plus's chexbert_labels/*.json."""
    file = saved(tmp_path / "findings_fixed.json", '{"path_to_image": "a", "Edema": 1.0}\n{"path_to_image": "b"}\n')
    assert [row["path_to_image"] for row in read_records(file, of="t")] == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        {"a": "text"},
        {"data": [{"id": 1}]},
        {"train": [1]},
        [1],
        5,
        {},
        {"a": {"id": "b"}},
        "[[1]]",
        '{"a": [{"b": 1}]}',
    ],
)
def test_json_of_other_forms_is_an_error_that_lists_those_read(tmp_path: Path, content: Any) -> None:
    with pytest.raises(LlavaRadError, match=r"^t: (it is JSON of a form that is not known|an object has another id)"):
        list(read_records(saved(tmp_path / "a.json", content), of="t"))


def test_a_row_in_the_list_of_another_split_is_an_error(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.json", {"train": [{"id": 1, "split": "test"}]})
    with pytest.raises(LlavaRadError, match="another split"):
        list(read_records(file, of="t"))


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("Findings: A b. Impression: C.", "A b."),
        ("Findings:Frontal and stable.Impression:No acute", "Frontal and stable."),
        ("FINDINGS:\nLungs clear\nIMPRESSION:\nnone", "Lungs clear"),
        ("**Findings:** Lungs: clear. Heart: ok. **Impression:** x", "Lungs: clear. Heart: ok."),
        ("Indication: cough Comparison: none. Findings: Clear effusion Impression: ok", "Clear effusion"),
        ("Impression: a. Findings: b.", "b."),
        ("Findings:  Impression: x", ""),
        ("findings: lungs. impression: ok", "lungs."),
        ("Findings : x Impression : y", "x"),
        ("## Findings\n- a\n## Impression\n- b", "- a"),
        ("Findings: nothing but one section", "nothing but one section"),
        ("The findings: a", None),
        ("Lungs clear. Impression: x", None),
        ("Impression: only this", None),
        ("Findings are stable. Impression: x", None),
        ("", None),
    ],
)
def test_findings_are_taken_from_texts_that_begin_with_a_heading(text: str, findings: str | None) -> None:
    assert findings_part(text) == findings


def test_published_reports_score_alike_in_rexranks_form_and_in_csv(shared_dir: Path, tmp_path: Path) -> None:
    """The 590 reports of CvT2DistilGPT2: ROUGE-L and BLEU-4 by rouge_score and sacrebleu."""
    from metrics.bleu import bleu_4
    from metrics.rouge import rouge_l

    data = shared_dir / "data"
    published = data / "rexrank_iu_xray" / "ReXRank_IUXray_test.json"
    generated = data / "labeler_resources" / "iu_cvt2distilgpt2_generated_test_reports.csv"
    with generated.open(newline="") as file:
        texts = {row["dicom_id"]: row["report"] for row in csv.DictReader(file)}
    rows = json.loads(published.read_text())
    for key, row in rows.items():
        row["model_prediction"] = f"Findings: {texts[key]} Impression: No acute disease."
    by_form = read_table(saved(tmp_path / "model.json", rows), "prediction").texts
    truth = read_table(published, "reference").texts
    assert by_form == read_table(generated, "prediction").texts == texts
    assert truth == {key: row["section_findings"] for key, row in rows.items()} and len(truth) == 590
    both = [texts[key] for key in truth], list(truth.values())
    assert round(100 * rouge_l(*both)["rouge_l"], 2) == 32.65
    assert round(100 * bleu_4(*both)["bleu_4"], 2) == 11.87
